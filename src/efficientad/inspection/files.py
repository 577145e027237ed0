"""Prediction of files, one after the other; memory stays constant.

    OUTPUT/predictions.csv     path, image_score, p_value, threshold, is_anomalous, ...
    OUTPUT/predictions.jsonl   the same, one JSON object a line
    OUTPUT/heatmaps/....png    image with local, global and combined map
    OUTPUT/maps/....tiff       combined map, float32, at the image's own size (optional)

Both lists get their names when the last image is done. After an error they are called
predictions.csv.partial and predictions.jsonl.partial.
"""

import csv
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import tifffile
from PIL import Image

from efficientad.errors import DatasetError, ImageError
from efficientad.images.listing import find_images
from efficientad.images.rgb import RGBImage, read_image
from efficientad.inspection.panels import prediction_panel
from efficientad.inspection.predictor import Predictor
from efficientad.inspection.streams import in_order, require_streams
from efficientad.method.decision import Prediction
from efficientad.settings import Parallel, checks_arguments
from efficientad.storage import atomic_write

_HEATMAPS, _MAPS = "heatmaps", "maps"
_FIELDS = (
    "path",
    "image_score",
    "p_value",
    "threshold",
    "is_anomalous",
    "flagged_for",
    "milliseconds",
    "error",
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PredictionSummary:
    """Counts of a run over files."""

    n_images: int
    """Images predicted."""
    n_anomalous: int
    """Images called anomalous."""
    n_failed: int
    """Files without a prediction; named in both lists and in the log."""


@checks_arguments
def predict(
    predictor: Predictor,
    paths: Sequence[Path | str],
    output: Path | str,
    *,
    has_heatmaps: bool = True,
    has_maps: bool = False,
    n_streams: Parallel = 1,
) -> PredictionSummary:
    """Predict image files and folders of them, and write the results.

    Args:
        predictor: Model to predict with.
        paths: Images, and folders that are searched for images at any depth, without
            the pictures that an earlier run wrote to the output.
        output: Folder for the results; made if it is not there.
        has_heatmaps: Whether to write a picture of each image with its maps.
        has_maps: Whether to write each combined map as a float32 TIFF.
        n_streams: Images predicted at the same time, from 1 to 1024; their order stays.
            More than one needs an engine that takes calls from several threads.

    Raises:
        ConfigError: If the engine cannot run so many streams.
        DatasetError: If a path does not exist, or if there is no image at all.
        StorageError: If a result cannot be written.
    """
    if not paths:
        raise DatasetError("needed images or folders of images to predict, got none")
    require_streams(predictor, n_streams)
    output = Path(output)
    name_of = _named_files([Path(path) for path in paths], output)
    n_anomalous = n_failed = 0
    found = in_order(
        partial(_predicted, predictor), [p for _, p in name_of], n_streams=n_streams
    )
    with _lists(output) as add_row:
        for (name, _), (row, prediction, image) in zip(name_of, found, strict=True):
            add_row(row)
            if prediction is None or image is None:
                n_failed += 1
                logger.warning(row["error"])
                continue
            n_anomalous += prediction.is_anomalous
            if has_heatmaps:
                picture = Image.fromarray(prediction_panel(image, prediction))
                with atomic_write(output / _HEATMAPS / f"{name}.png") as file:
                    picture.save(file, "PNG")
            if has_maps:
                with atomic_write(output / _MAPS / f"{name}.tiff") as file:
                    tifffile.imwrite(file, prediction.anomaly_map)
            del prediction, image  # else they stay while the next one is decoded
    return PredictionSummary(len(name_of) - n_failed, n_anomalous, n_failed)


def _predicted(
    predictor: Predictor, path: Path
) -> tuple[dict[str, Any], Prediction | None, RGBImage | None]:
    start = time.perf_counter()
    row: dict[str, Any] = {"path": str(path)}
    try:
        image = read_image(path)
    except ImageError as error:
        return row | {"error": str(error)}, None, None
    prediction = predictor.predict(image)
    row |= {
        "image_score": prediction.image_score,
        "p_value": prediction.p_value,
        "threshold": prediction.threshold,
        "is_anomalous": prediction.is_anomalous,
        "flagged_for": prediction.flagged_for,
        "milliseconds": round(1000 * (time.perf_counter() - start), 2),
    }
    return row, prediction, image


@contextmanager
def _lists(output: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that adds a row to both lists."""
    with (
        _list_file(output / "predictions.csv") as csv_file,
        _list_file(output / "predictions.jsonl") as json_file,
    ):
        writer = csv.DictWriter(csv_file, _FIELDS)
        writer.writeheader()

        def add(row: dict[str, Any]) -> None:
            writer.writerow(row)
            json_file.write(json.dumps(row) + "\n")

        yield add
        csv_file.flush()  # so that a full disk leaves neither with its name


@contextmanager
def _list_file(path: Path) -> Iterator[TextIO]:
    with atomic_write(path, keeps_partial=True) as place:
        errors = "backslashreplace"
        with place.open("w", encoding="utf-8", errors=errors, newline="") as file:
            yield file


def _named_files(paths: Sequence[Path], output: Path) -> list[tuple[str, Path]]:
    """Return the files to predict, each with a unique name from its place."""
    named: dict[str, Path] = {}
    for path, name in _found(paths, output):
        unique, n = name, 1
        while unique in named:
            n += 1
            unique = f"{name}_{n}"
        named[unique] = path
    if not named:
        raise DatasetError(
            f"needed images to predict, found none in {', '.join(map(str, paths))}"
        )
    return list(named.items())


def _found(paths: Sequence[Path], output: Path) -> Iterator[tuple[Path, str]]:
    written = [output.resolve() / name for name in (_HEATMAPS, _MAPS)]
    for path in paths:
        if path.is_dir():
            place = path.resolve()
            # Pictures of an earlier run count if their own folder is asked for.
            skipped = [folder for folder in written if not place.is_relative_to(folder)]
            for file in find_images(path, recursive=True):
                relative = file.relative_to(path)
                if not any((place / relative).is_relative_to(s) for s in skipped):
                    yield file, str(relative.with_suffix(""))
        elif path.exists():
            yield path, path.stem
        else:
            raise DatasetError(f"nothing at {path}: give images or folders of images")
