"""The common part of all figures: matplotlib without global state, PDF and PNG files.

Equal runs give equal bytes: a file has neither date nor version.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from efficientad.storage import atomic_write

Picture = NDArray[np.uint8]

OWN_COLOR, PAPER_COLOR = "#c0392b", "#8a8f98"
_DPI: Final = 200
_TILE_INCHES: Final = 1.3
_CAPTION_INCHES: Final = 0.3
_FONT_SIZE: Final = 8


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure with one chart; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_FONT_SIZE)
    return figure, axes


def picture_table(
    head: Sequence[str], rows: Sequence[tuple[str, Sequence[Picture]]]
) -> Figure:
    """Return a figure of RGB pictures in named rows, under the names of columns."""
    n_rows, n_columns = len(rows), len(head)
    height = n_rows * _TILE_INCHES + _CAPTION_INCHES
    width = n_columns * _TILE_INCHES + _CAPTION_INCHES
    figure = Figure(figsize=(width, height), layout="constrained")
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


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure to the path with `.pdf` and with `.png`; return both.

    Raises:
        StorageError: If a file cannot be written; the previous one stays.
    """
    no_metadata: dict[str, dict[str, None]] = {
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
        "png": {"Software": None},
    }
    written = []
    for suffix, metadata in no_metadata.items():
        target = path.with_name(f"{path.name}.{suffix}")
        # Type 42 keeps text as text.
        with atomic_write(target) as partial, rc_context({"pdf.fonttype": 42}):
            figure.savefig(partial, format=suffix, dpi=_DPI, metadata=metadata)
        written.append(target)
    return written
