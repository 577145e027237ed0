"""Files predicted one after the other; memory stays constant.

    OUTPUT/predictions.csv     path, image_score, p_value, threshold, is_anomalous, ...
    OUTPUT/predictions.jsonl   the same, one JSON object a line
    OUTPUT/heatmaps/....png    image with local, global and combined map
    OUTPUT/maps/....tiff       combined map, float32, at the image's own size (optional)

Both lists are complete or not there: they get their names when the last image is done.
Until then they are called predictions.csv.PROCESS-RANDOM.partial and so on, so that two
runs into one folder do not meet, and after an error predictions.csv.partial. A process
that is killed leaves the name of its own.
"""

import csv
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import tifffile
from PIL import Image

from efficientad.errors import DatasetError, ImageError
from efficientad.images.listing import find_images
from efficientad.images.rgb import RGBImage, read_image
from efficientad.inspection.panels import prediction_panel
from efficientad.inspection.predictor import Predictor
from efficientad.inspection.streams import in_order, require_concurrent
from efficientad.method.decision import Prediction
from efficientad.storage import atomic_write

_HEATMAPS, _MAPS = "heatmaps", "maps"
_FIELDS = (
    "path",
    "image_score",
    "p_value",
    "threshold",
    "is_anomalous",
    "milliseconds",
    "error",
)


@dataclass(frozen=True, slots=True)
class PredictionSummary:
    """Counts of a run over files."""

    n_images: int
    """Images predicted."""
    n_anomalous: int
    """Images called anomalous."""
    n_failed: int
    """Files without a prediction; named in both lists and on stderr."""


def predict(
    predictor: Predictor,
    paths: Sequence[Path | str],
    output: Path | str,
    *,
    has_heatmaps: bool = True,
    has_maps: bool = False,
    n_streams: int = 1,
) -> PredictionSummary:
    """Predict image files and folders of them, and write the results.

    Args:
        predictor: Model to predict with.
        paths: Images, and folders that are searched for images at any depth; pictures
            that an earlier run wrote to the output are none.
        output: Folder for the results; made if it is not there.
        has_heatmaps: Write a picture of each image with its maps.
        has_maps: Write each combined map as a float32 TIFF.
        n_streams: Images predicted at the same time; their order stays. More than one
            needs an engine that takes calls from several threads.

    Raises:
        ConfigError: If the engine takes one call at a time and more were asked for, or
            none.
        DatasetError: If a path does not exist, or if there is no image at all.
        StorageError: If a result cannot be written.
    """
    if not paths:
        raise DatasetError("needed images or folders of images to predict, got none")
    require_concurrent(predictor, n_streams)
    output = Path(output)
    own = [output.resolve() / name for name in (_HEATMAPS, _MAPS)]
    files = _named_files([Path(path) for path in paths], own)
    n_anomalous = n_failed = 0
    found = in_order(
        partial(_predicted, predictor),
        (path for path, _ in files),
        n_streams=n_streams,
    )
    with _lists(output) as add_row:
        for (_, name), (row, prediction, image) in zip(files, found, strict=True):
            add_row(row)
            if prediction is None or image is None:
                n_failed += 1
                print(row["error"], file=sys.stderr)  # noqa: T201 - the report itself
                continue
            n_anomalous += prediction.is_anomalous
            if has_heatmaps:
                picture = prediction_panel(image, prediction)
                _save_heatmap(output / _HEATMAPS / f"{name}.png", picture)
            if has_maps:
                _save_map(output / _MAPS / f"{name}.tiff", prediction.anomaly_map)
            del prediction, image  # else they stay while the next one is decoded
    return PredictionSummary(len(files) - n_failed, n_anomalous, n_failed)


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
        "milliseconds": round(1000 * (time.perf_counter() - start), 2),
    }
    return row, prediction, image


@contextmanager
def _lists(output: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Open both lists; what comes adds a row to each."""
    with (
        _growing_file(output / "predictions.csv") as csv_file,
        _growing_file(output / "predictions.jsonl") as json_file,
    ):
        writer = csv.DictWriter(csv_file, _FIELDS)
        writer.writeheader()

        def add(row: dict[str, Any]) -> None:
            writer.writerow(row)
            json_file.write(json.dumps(row) + "\n")

        yield add
        csv_file.flush()  # so that a full disk leaves neither with its name


@contextmanager
def _growing_file(path: Path) -> Iterator[TextIO]:
    with (
        atomic_write(path, keeps_partial=True) as partial,
        partial.open(
            "w", encoding="utf-8", errors="backslashreplace", newline=""
        ) as file,
    ):
        yield file


def _named_files(paths: Sequence[Path], own: Sequence[Path]) -> list[tuple[Path, str]]:
    """Give each file a name that is unique in the output, and tells where it was."""
    named: list[tuple[Path, str]] = []
    taken: set[str] = set()
    for path, name in _found(paths, own):
        unique, n = name, 1
        while unique in taken:
            n += 1
            unique = f"{name}_{n}"
        taken.add(unique)
        named.append((path, unique))
    if not named:
        raise DatasetError(
            f"needed images to predict, found none in {', '.join(map(str, paths))}"
        )
    return named


def _found(paths: Iterable[Path], own: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    for path in paths:
        if path.is_dir():
            place = path.resolve()
            # A folder of them that is asked for itself is meant.
            written = [folder for folder in own if not place.is_relative_to(folder)]
            for file in find_images(path, recursive=True):
                found = place / file.relative_to(path)
                if any(found.is_relative_to(folder) for folder in written):
                    continue
                yield file, str(file.relative_to(path).with_suffix(""))
        elif path.exists():
            yield path, path.stem
        else:
            raise DatasetError(f"nothing at {path}: give images or folders of images")


def _save_heatmap(path: Path, picture: RGBImage) -> None:
    with atomic_write(path) as partial:
        Image.fromarray(picture).save(partial, "PNG")


def _save_map(path: Path, anomaly_map: np.ndarray) -> None:
    with atomic_write(path) as partial:
        tifffile.imwrite(partial, anomaly_map.astype(np.float32, copy=False))
