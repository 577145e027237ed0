"""What every figure has in common: matplotlib without its global state, two files.

The same runs give the same bytes: neither date nor version is written into a file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from efficientad.errors import MissingDependencyError
from efficientad.storage import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Picture = NDArray[np.uint8]

OWN_COLOR, PAPER_COLOR = "#c0392b", "#8a8f98"
_DPI: Final = 200
_TILE_INCHES: Final = 1.3
_CAPTION_INCHES: Final = 0.3
_FONT_SIZE: Final = 8


def new_figure(width: float, height: float) -> "Figure":
    """Make an empty figure.

    Args:
        width: Inches.
        height: Inches.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "figures need matplotlib, which is not installed; install it with pip "
            "install 'efficientad[figures]'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def new_axes(width: float, height: float) -> "tuple[Figure, Axes]":
    """Make a figure with one chart; sizes in inches.

    Raises:
        MissingDependencyError: As `new_figure`.
    """
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_FONT_SIZE)
    return figure, axes


def picture_table(
    head: Sequence[str], rows: Sequence[tuple[str, Sequence[Picture]]]
) -> "Figure":
    """Put pictures into rows with a name each, under the names of their columns.

    Args:
        head: A name for each column.
        rows: Name and pictures, RGB, one for each column.

    Raises:
        MissingDependencyError: As `new_figure`.
    """
    n_rows, n_columns = len(rows), len(head)
    height = n_rows * _TILE_INCHES + _CAPTION_INCHES
    figure = new_figure(n_columns * _TILE_INCHES + _CAPTION_INCHES, height)
    places = figure.subplots(n_rows, n_columns, squeeze=False)
    for row, (name, pictures) in zip(places, rows, strict=True):
        for axes, picture in zip(row, pictures, strict=True):
            axes.imshow(picture, interpolation="none")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(name, fontsize=_FONT_SIZE)
    for axes, title in zip(places[0], head, strict=True):
        axes.set_title(title, fontsize=_FONT_SIZE)
    return figure


def save(figure: "Figure", path: Path) -> list[Path]:
    """Write a figure as PDF and as PNG, whole or not at all.

    Args:
        figure: What to write.
        path: Without suffix.

    Raises:
        StorageError: If one cannot be written; what stood there stays.
    """
    from matplotlib import rc_context  # noqa: PLC0415 - an extra

    nothing: dict[str, dict[str, None]] = {
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
        "png": {"Software": None},
    }
    written = []
    for suffix, metadata in nothing.items():
        target = path.with_name(f"{path.name}.{suffix}")
        # Type 42: text stays text.
        with atomic_write(target) as partial, rc_context({"pdf.fonttype": 42}):
            figure.savefig(partial, format=suffix, dpi=_DPI, metadata=metadata)
        written.append(target)
    return written
