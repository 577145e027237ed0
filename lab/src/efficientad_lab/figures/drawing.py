"""All figures from a folder of results."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from matplotlib.figure import Figure

from efficientad.errors import DatasetError, ImageError, ModelFileError, ResultError
from efficientad_lab.figures.canvas import save
from efficientad_lab.figures.charts import (
    accuracy_against_latency,
    latency_by_device,
    read_benchmarks,
)
from efficientad_lab.figures.config import FigureConfig, FigureNumber
from efficientad_lab.figures.pictures import (
    hard_loss_masks,
    local_and_global_maps,
    random_defects,
    receptive_fields,
)
from efficientad_lab.figures.runs import Material
from efficientad_lab.studies.records import read_runs

# Errors of a run, a detector or an image that other figures may not need.
_UNUSABLE: Final = (ResultError, ModelFileError, DatasetError, ImageError)


class _Kind(NamedTuple):
    name: str
    draw: Callable[[Material], Figure]


_KINDS: Final[Mapping[FigureNumber, _Kind]] = {
    1: _Kind("accuracy_against_latency", accuracy_against_latency),
    3: _Kind("receptive_fields", receptive_fields),
    4: _Kind("hard_loss_masks", hard_loss_masks),
    5: _Kind("local_and_global_maps", local_and_global_maps),
    6: _Kind("latency_by_device", latency_by_device),
    7: _Kind("random_defects", random_defects),
}


class Drawn(NamedTuple):
    """Written files and missing figures."""

    paths: list[Path]
    missing: list[str]
    """A sentence for each figure that lacks something."""


def draw_figures(results: Path, config: FigureConfig | None = None) -> Drawn:
    """Draw figures as PDF and PNG.

    Raises:
        ResultError: If no figure can be drawn, or if a recorded run is unusable.
        StorageError: If a figure cannot be written.
    """
    config = config or FigureConfig()
    if not results.is_dir():
        raise ResultError(
            f"needed a folder of recorded runs, {results} is none; make one with "
            f"efficientad reproduce ROOT --output {results}"
        )
    # An unusable file is an error, while a missing one only lacks a figure.
    read_runs(results)
    read_benchmarks(config.benchmarks)
    material = Material(results, config)
    folder = config.output or results / "figures"
    paths: list[Path] = []
    missing: list[str] = []
    for number in sorted(set(config.figures)):
        kind = _KINDS[number]
        try:
            figure = kind.draw(material)
        except _UNUSABLE as error:
            missing.append(f"figure {number} {error}")
            continue
        paths += save(figure, folder / f"figure_{number}_{kind.name}")
    if not paths:
        raise ResultError("; ".join(missing))
    return Drawn(paths, missing)
