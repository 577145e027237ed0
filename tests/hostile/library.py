"""Hostile calls of the library: an error of the package, in one sentence, at once."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.hostile.case import Case
from tests.hostile.files import untrained_predictor

import efficientad as ead
from efficientad.images.rgb import read_image

NO_PATHS: dict[str, Any] = {
    "None": None,
    "a number": 3,
    "bytes": b"a",
    "an empty text": "",
    "an array": np.zeros((9, 9)),
    "a table": {},
    "NaN": math.nan,
    "an object": object(),
    "a class": Path,
    "a null character": "a\0b",
    "a missing file": "gone/x.ead",
}
NO_IMAGES: dict[str, Any] = {
    "None": None,
    "a number": 3,
    "an empty array": np.zeros((0, 0, 3), np.uint8),
    "one row": np.zeros((1, 50, 3), np.uint8),
    "five axes": np.zeros((1, 1, 9, 9, 3), np.uint8),
    "one axis": np.zeros(9, np.uint8),
    "two channels": np.zeros((9, 9, 2), np.uint8),
    "channels first": np.zeros((3, 90, 90), np.uint8),
    "NaN": np.full((9, 9, 3), math.nan),
    "floats above 1": np.full((9, 9, 3), 300.0),
    "int16": np.full((9, 9), 4000, np.int16),
    "int64": np.zeros((9, 9, 3), np.int64),
    "complex numbers": np.zeros((9, 9, 3), complex),
    "texts": np.full((9, 9, 3), "a"),
    "objects": np.full((9, 9, 3), None),
    "a tensor": torch.zeros(3, 9, 9),
    "a list": [[1, 2], [3, 4]],
    "a missing file": "gone.png",
    "a null character": "a\0b.png",
    "a folder": ".",
    "a device": "/dev/zero",
}
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "load": ead.load,
    "load_teacher": ead.load_teacher,
    "load_teacher of": lambda x: ead.load_teacher(path=x),
    "threshold": ead.threshold,
    "check": ead.check,
    "train": ead.train,
    "save": lambda x: ead.save(x, "out/a.ead"),
    "export": lambda x: ead.export(x, "out/a.onnx"),
    "evaluate": lambda x: ead.evaluate(x, "parts", output=Path("out")),
    "evaluate of": lambda x: ead.evaluate(untrained_predictor(), x, output=Path("out")),
    "calibrate": lambda x: ead.calibrate(untrained_predictor(), x),
    "predict": lambda x: ead.predict(untrained_predictor(), x, "out"),
    "predict with": lambda x: ead.predict(x, ["good.png"], "out"),
    "predictions": lambda x: list(ead.predictions(untrained_predictor(), x)),
}
IMAGE_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "Predictor.predict": lambda x: untrained_predictor().predict(x),
    "Predictor.predict_batch": lambda x: untrained_predictor().predict_batch([x]),
    "predictions": lambda x: list(ead.predictions(untrained_predictor(), [x])),
}
SETTINGS = ("steps", "batch_size", "seed", "validation_share", "false_alarm_budget")
NO_NUMBERS: tuple[Any, ...] = (
    *(-1, math.nan, math.inf, "3", [], True, 10**400, 1j, b"1", np.ones(2)),
    *(object, -(10**30), {}),
)


def library_call(name: str, call: Callable[[], Any]) -> Case:
    """Return a case of a call that is refused."""
    return Case(area="library", name=name, call=call, seconds=10)


def cases() -> Iterator[Case]:
    """Yield all cases of calls."""
    for name, value in NO_PATHS.items():
        for function, called in FUNCTIONS.items():
            if (function, name) not in SOUND:
                call = partial(called, value)
                yield library_call(f"{function}({name})", call)
    for name, value in NO_IMAGES.items():
        for function, called in IMAGE_FUNCTIONS.items():
            call = partial(called, value)
            yield library_call(f"{function} of {name}", call)
        if isinstance(value, str):
            yield library_call(f"read_image of {name}", partial(read_image, value))
    for setting in SETTINGS:
        for number in NO_NUMBERS:
            call = partial(ead.TrainConfig, **{setting: number})
            yield library_call(f"TrainConfig({setting}={str(number)[:9]})", call)


SOUND = {("predictions", "a table"), ("load_teacher of", "None")}
CASES = tuple(cases())
