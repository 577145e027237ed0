"""Prediction of files, one after the other; memory stays constant.

    OUTPUT/predictions.csv     path, image_score, p_value, threshold, is_anomalous, ...
    OUTPUT/predictions.jsonl   the same, one JSON object a line
    OUTPUT/heatmaps/....png    image with local, global and combined map
    OUTPUT/maps/....tiff       combined map, float32, at the image's own size (optional)

A file at fault has its error in both lists, and the others are predicted. Both lists
get their names when the last image is done. After an error that ends the run, such as a
full disk, they are called predictions.csv.partial and predictions.jsonl.partial.
"""

import csv
import errno
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TextIO, TypeAlias

import tifffile
from PIL import Image

from efficientad.errors import DatasetError, ImageError, StorageError
from efficientad.images.listing import expanded, fault_of, find_images, unused_files
from efficientad.images.rgb import RGBImage
from efficientad.inspection.panels import prediction_panel
from efficientad.inspection.prediction import Prediction
from efficientad.inspection.predictor import Predictor
from efficientad.inspection.streams import require_streams
from efficientad.names import as_cell, as_text
from efficientad.progress import tracked
from efficientad.settings import Parallel, checks_arguments
from efficientad.storage import atomic_write, require_writable
from efficientad.threads import in_order

_HEATMAPS, _MAPS = "heatmaps", "maps"
_CSV, _JSON = "predictions.csv", "predictions.jsonl"
NUMBERS: Final = (
    *("image_score", "p_value", "threshold", "is_anomalous", "decision"),
    *("flagged_for", "regions"),
)
"""Columns that are entries of `Prediction.to_dict`, in their order."""
_FIELDS = ("path", *NUMBERS, "milliseconds", "error")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

OnRow: TypeAlias = Callable[[dict[str, Any]], None]
"""Function that gets the row of an image."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PredictionSummary:
    """Counts of a run over files."""

    n_images: int
    """Images predicted."""
    n_anomalous: int
    """Images called anomalous."""
    n_unsure: int
    """Images that a person should look at, anomalous ones apart."""
    n_failed: int
    """Files without a prediction, or whose pictures could not be written; named in both
    lists and in the log."""
    unused: tuple[str, ...] = ()
    """Sentences on the files of the folders that are no images, one for each folder."""
    anomalous: tuple[Path, ...] = ()
    """Images called anomalous."""


@checks_arguments
def predict(
    predictor: Predictor,
    paths: Sequence[Path | str] | Path | str,
    output: Path | str | None = None,
    *,
    has_heatmaps: bool = True,
    has_maps: bool = False,
    n_streams: Parallel = 1,
    on_row: OnRow | None = None,
) -> PredictionSummary:
    """Predict image files and folders of them, and write the results.

    Args:
        predictor: Model to predict with.
        paths: Images, patterns such as `parts/*.png`, and folders that are searched for
            images at any depth, without the pictures that an earlier run wrote to the
            output. One of them, or a list.
        output: Folder for the results; made if it is not there. None: no files are
            written.
        has_heatmaps: Whether to write a picture of each image with its maps.
        has_maps: Whether to write each combined map as a float32 TIFF.
        n_streams: Images predicted at the same time, from 1 to 1024; their order stays.
            More than one needs an engine that takes calls from several threads.
        on_row: Function that gets each row as soon as it is known, as it stands in
            predictions.jsonl.

    Raises:
        ConfigError: If the engine cannot run so many streams.
        DatasetError: If there is no image at all.
        StorageError: If a list cannot be written, or the disk is full.
    """
    given = [paths] if isinstance(paths, (str, Path)) else paths
    if not given:
        raise DatasetError("needed images or folders of images to predict, got none")
    require_streams(predictor, n_streams)
    place = None if output is None else Path(output)
    inputs = _inputs([p for path in given for p in expanded(Path(path))], place)
    n_images = n_unsure = n_failed = 0
    anomalous: list[Path] = []
    found = in_order(
        partial(_predicted, predictor, inputs.faults),
        list(inputs.path_of.values()),
        n_streams=n_streams,
    )
    rows = tracked(found, len(inputs.path_of), "predicting")
    with nullcontext() if place is None else _lists(place) as add_row:
        for name, (row, prediction, image) in zip(inputs.path_of, rows, strict=True):
            if prediction is not None and image is not None:
                n_images += 1
                n_unsure += prediction.decision == "unsure"
                if prediction.is_anomalous:
                    anomalous.append(inputs.path_of[name])
                with _written_or_noted(row):
                    if place is not None and has_heatmaps:
                        _write_heatmap(place, name, image, prediction)
                    if place is not None and has_maps:
                        _write_map(place, name, prediction)
            if "error" in row:
                n_failed += 1
                logger.warning(row["error"])
            for use_row in filter(None, (add_row, on_row)):
                use_row(row)
            del prediction, image  # else they stay while the next one is decoded
    unused, named = tuple(inputs.unused), tuple(anomalous)
    return PredictionSummary(n_images, len(named), n_unsure, n_failed, unused, named)


@contextmanager
def _written_or_noted(row: dict[str, Any]) -> Iterator[None]:
    """Note in a row that its pictures cannot be written; raise if the disk is full."""
    try:
        yield
    except StorageError as error:
        if getattr(error.__cause__, "errno", None) in _FULL:
            raise
        row["error"] = str(error)


def _write_heatmap(
    output: Path, name: str, image: RGBImage, prediction: Prediction
) -> None:
    picture = Image.fromarray(prediction_panel(image, prediction))
    with atomic_write(output / _HEATMAPS / f"{name}.png") as file:
        picture.save(file, "PNG")


def _write_map(output: Path, name: str, prediction: Prediction) -> None:
    with atomic_write(output / _MAPS / f"{name}.tiff") as file:
        tifffile.imwrite(file, prediction.anomaly_map)


def _predicted(
    predictor: Predictor, faults: Mapping[Path, str], path: Path
) -> tuple[dict[str, Any], Prediction | None, RGBImage | None]:
    start = time.perf_counter()
    row: dict[str, Any] = {"path": str(path)}
    if path in faults:
        return row | {"error": faults[path]}, None, None
    try:
        image = predictor.preparation.read(path)
        prediction = predictor.predict(image)
    except ImageError as error:
        return row | {"error": str(error)}, None, None
    numbers = prediction.to_dict()
    row |= {name: numbers[name] for name in NUMBERS}
    row["milliseconds"] = round(1000 * (time.perf_counter() - start), 2)
    return row, prediction, image


def json_line(row: dict[str, Any]) -> str:
    """Return a row as a JSON object in one line."""
    return json.dumps(as_text(row))


@contextmanager
def _lists(output: Path) -> Iterator[OnRow]:
    """Yield a function that adds a row to both lists."""
    for name in (_CSV, _JSON):
        require_writable(output / name, may_be_device=True)
    with (
        _list_file(output / _CSV) as csv_file,
        _list_file(output / _JSON) as json_file,
    ):
        writer = csv.DictWriter(csv_file, _FIELDS)
        writer.writeheader()

        def add(row: dict[str, Any]) -> None:
            cells = {name: as_cell(value) for name, value in row.items()}
            if "regions" in cells:
                cells["regions"] = json.dumps(cells["regions"])
            writer.writerow(cells)
            json_file.write(json_line(row) + "\n")

        yield add
        for file in (csv_file, json_file):  # a full disk leaves neither with its name
            _synchronize(file)


def _synchronize(file: TextIO) -> None:
    """Write a list to its disk; a device or pipe has none."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


@contextmanager
def _list_file(path: Path) -> Iterator[TextIO]:
    with atomic_write(path, keeps_partial=True) as place:
        errors = "backslashreplace"
        with place.open("w", encoding="utf-8", errors=errors, newline="") as file:
            yield file


@dataclass(slots=True)
class _Inputs:
    """Files to predict, and what else was found where they were searched."""

    path_of: dict[str, Path] = field(default_factory=dict)
    """Files by the names of their results; also the paths that cannot be used."""
    faults: dict[Path, str] = field(default_factory=dict)
    """Reason for each path that cannot be used."""
    unused: list[str] = field(default_factory=list)


def _inputs(paths: Sequence[Path], output: Path | None) -> _Inputs:
    inputs = _Inputs()
    found = list(_found(paths, output, inputs))
    if all(path in inputs.faults for path, _ in found):
        none = f"needed images to predict, found none in {', '.join(map(str, paths))}"
        none = "; ".join([none, *inputs.unused])
        raise DatasetError(next(iter(inputs.faults.values()), none))
    # A result may not have the name of a folder of results.
    folders = {str(folder) for _, name in found for folder in Path(name).parents}
    for path, name in found:
        unique, n = name, 1
        while unique in inputs.path_of or folders & {f"{unique}.png", f"{unique}.tiff"}:
            n += 1
            unique = f"{name}_{n}"
        inputs.path_of[unique] = path
    return inputs


def _found(
    paths: Sequence[Path], output: Path | None, inputs: _Inputs
) -> Iterator[tuple[Path, str]]:
    """Yield the files, each with a name from its place, and note the rest."""
    written = []
    if output is not None:
        written = [Path(os.path.realpath(output), name) for name in (_HEATMAPS, _MAPS)]
    for path in paths:
        if fault := fault_of(path):
            fault = f"images were needed at {path}, {fault}; check the path"
            inputs.faults[path] = fault
        if fault or not path.is_dir():
            yield path, path.stem
            continue
        place, unlisted = path.resolve(), dict[Path, DatasetError]()
        # Pictures of an earlier run count if their own folder is asked for.
        skipped = [folder for folder in written if not place.is_relative_to(folder)]
        files = find_images(path, recursive=True, on_error=unlisted.__setitem__)
        for file in files:
            relative = file.relative_to(path)
            if not any((place / relative).is_relative_to(s) for s in skipped):
                yield file, str(relative.with_suffix(""))
        for folder, error in unlisted.items():
            inputs.faults[folder] = str(error)
            yield folder, folder.name
        if unused := unused_files(path, [*files, *unlisted], apart=skipped):
            inputs.unused.append(unused)
