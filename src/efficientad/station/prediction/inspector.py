"""The child process that predicts: one thread decodes, one runs the engine.

It gets paths and sends back numbers, grids and a thumbnail, never pixels. It ends when
the parent does.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any, Final

import numpy as np
from PIL import Image

from efficientad.errors import EfficientADError, ImageError
from efficientad.images.appearance import appearance
from efficientad.images.decoding import opened_picture
from efficientad.images.encoding import encoded
from efficientad.images.levels import Levels
from efficientad.images.rgb import INPUT_SIZE, ColorOrder, RGBImage, read_image
from efficientad.inspection.prediction import Prediction
from efficientad.inspection.predictor import Predictor
from efficientad.station.prediction.grids import packed
from efficientad.station.prediction.rules import Rule, names_of, with_rule

OpenPredictor = Callable[[], Predictor]
"""Opens the model in the child; it is pickled."""

_NICE: Final = 5
_THUMBNAIL: Final = (192, 192)
_MAX_REGIONS: Final = 100
_APPEARANCE: Final = ("brightness", "contrast", "sharpness")
_REGION: Final = ("x", "y", "width", "height", "area", "peak")


@dataclass(frozen=True, slots=True)
class Job:
    """An image to inspect."""

    number: str
    paths: tuple[Path, ...]
    """Places of the file: the image moves from the first to the last meanwhile."""
    rule: Rule
    max_pixels: int
    color: ColorOrder = "rgb"


@dataclass(frozen=True, slots=True)
class Found:
    """Regions, scores and decision of an image."""

    decision: str
    image_score: float
    masked_score: float
    p_value: float
    height: int
    width: int
    brightness: float
    contrast: float
    sharpness: float
    decode_ms: float
    predict_ms: float
    regions: tuple[dict[str, Any], ...] = field(repr=False)
    grids: bytes = field(repr=False)
    """Normalized maps by name, as safetensors."""
    thumbnail: bytes = field(repr=False)
    """JPEG."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that is no usable image."""

    reason: str


@dataclass(frozen=True, slots=True)
class Undecided:
    """An image that has no decision: the engine failed."""

    reason: str


Outcome = Found | Refused | Undecided


@dataclass(frozen=True, slots=True)
class Ready:
    """Facts about an opened model, sent once it is warm."""

    calibration: Mapping[str, Any]
    """Fields of the calibration, `threshold` and `normal_range`."""
    provenance: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """A model that cannot be used."""

    reason: str


def run(connection: Connection, open_predictor: OpenPredictor) -> None:
    """Predict what comes from a connection until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    os.nice(_NICE)
    try:
        predictor = open_predictor()
        predictor.predict(np.zeros((INPUT_SIZE, INPUT_SIZE, 3), np.uint8))
    except EfficientADError as error:
        connection.send(Failed(str(error)))
        return
    connection.send(_ready(predictor))
    decoded: Queue[tuple[Job, RGBImage | Refused, dict[str, Any]]] = Queue(1)
    Thread(target=_predict, args=(connection, predictor, decoded), daemon=True).start()
    while True:
        try:
            job: Job = connection.recv()
        except (EOFError, OSError):
            os._exit(0)
        try:
            decoded.put((job, *_decoded(job, predictor.preparation.levels)))
        except ImageError as error:
            decoded.put((job, Refused(_without_paths(error, job)), {}))


def _predict(
    connection: Connection, predictor: Predictor, decoded: "Queue[Any]"
) -> None:
    """Predict decoded images; any other failure than a known one ends the process."""

    @lru_cache(maxsize=32)
    def ruled(rule: Rule, height: int, width: int) -> Predictor:
        calibration = with_rule(predictor.calibration, rule, height, width)
        return replace(predictor, calibration=calibration)

    try:
        while True:
            job, image, facts = decoded.get()
            if isinstance(image, Refused):
                connection.send((job.number, image))
                continue
            start = time.perf_counter()
            try:
                size = image.shape[:2]
                prediction = ruled(job.rule, *size).predict(image)
            except EfficientADError as error:  # such as maps that are not finite
                connection.send((job.number, Undecided(str(error))))
                continue
            facts["predict_ms"] = 1000 * (time.perf_counter() - start)
            connection.send((job.number, _found(prediction, job.rule, facts)))
    except BaseException:  # noqa: BLE001 - the parent sees the end and starts another one
        traceback.print_exc(file=sys.stderr)
        os._exit(1)


def _ready(predictor: Predictor) -> Ready:
    calibration = asdict(predictor.calibration)
    plain = {k: v for k, v in calibration.items() if not isinstance(v, np.ndarray)}
    plain["threshold"] = predictor.calibration.threshold
    plain["normal_range"] = predictor.calibration.normal_range
    plain["levels"] = predictor.preparation.levels
    provenance = dict(predictor.provenance)
    images = provenance.pop("training_images", {})
    provenance["n_training_images"] = len(images)
    return Ready(plain, provenance)


def _decoded(job: Job, levels: Levels | None) -> tuple[RGBImage, dict[str, Any]]:
    """Return the pixels, and what follows from them without the model."""
    start = time.perf_counter()
    image = _read(job, levels)
    height, width = image.shape[:2]
    small = Image.fromarray(image)
    small.thumbnail(_THUMBNAIL, reducing_gap=2.0)
    thumbnail = encoded(small, "JPEG", quality=80)
    facts = {"height": height, "width": width, "thumbnail": thumbnail}
    # A long line of pixels has no neighbors in its thumbnail.
    seen = appearance(np.asarray(small)) if min(small.size) > 1 else {}
    facts |= {name: seen.get(name, 0.0) for name in _APPEARANCE}
    facts["decode_ms"] = 1000 * (time.perf_counter() - start)
    return image, facts


def _read(job: Job, levels: Levels | None) -> RGBImage:
    for path in job.paths[:-1]:
        if path.exists():
            try:
                return _read_file(path, job, levels)
            except ImageError:
                if path.exists():
                    raise
    return _read_file(job.paths[-1], job, levels)


def _read_file(path: Path, job: Job, levels: Levels | None) -> RGBImage:
    with opened_picture(path) as picture:
        height, width = picture.height, picture.width
    if height * width > job.max_pixels:
        raise ImageError(
            f"an image may have {job.max_pixels // 10**6} million pixels here, this "
            f"one has {width} x {height}; cut it into tiles or reduce it"
        )
    return read_image(path, job.color, levels)


def _found(prediction: Prediction, rule: Rule, facts: dict[str, Any]) -> Found:
    score = prediction.image_score
    if not prediction.rule.is_plain:
        points = sum(prediction.terms.values())
        score = float(prediction.combined_grid.max()) + points
    largest, size = prediction.regions[:_MAX_REGIONS], (facts["height"], facts["width"])
    names = names_of(largest, rule, prediction.pose, *size) if largest else []
    regions = tuple(
        {field: getattr(region, field) for field in _REGION}
        | {"area": round(region.area), "name": name}
        for region, name in zip(largest, names, strict=True)
    )
    # A person has to look at an unsure part: nobody may take it for normal.
    is_unsure = prediction.decision == "unsure"
    return Found(
        decision="undecided" if is_unsure else prediction.decision,
        image_score=score,
        masked_score=prediction.image_score,
        p_value=prediction.p_value,
        regions=regions,
        grids=packed(prediction),
        **facts,
    )


def _without_paths(error: ImageError, job: Job) -> str:
    """Return a message in which the file is called the image: the path is ours."""
    text = str(error)
    for path in job.paths:
        text = text.replace(str(path), "this one")
    return text
