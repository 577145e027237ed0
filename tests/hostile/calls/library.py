"""Hostile calls of the library: an error of the package, in one sentence, at once."""

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.hostile.case import OK, Case
from tests.hostile.files import untrained_predictor

import efficientad as ead
from efficientad.executors.config import PartsConfig
from efficientad.images.preparation import Preparation
from efficientad.images.rgb import read_image
from efficientad.shards.parts import predict_parts
from efficientad.station.config import StationConfig
from efficientad_lab.benchmark.config import BenchmarkConfig
from efficientad_lab.figures.config import FigureConfig
from efficientad_lab.studies.config import StudyConfig

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
    "a long name": "x" * 300,
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
DISTIL = ead.DistillConfig(source="part.pth")
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
    "card": ead.card,
    "card with": lambda x: ead.card("part.ead", metrics=x),
    "check with": lambda x: ead.check("parts", model=x),
    "threshold with": lambda x: ead.threshold("part.ead", images=x),
    "export with": lambda x: ead.export(untrained_predictor(), "out/a.onnx", images=x),
    "distill": lambda x: ead.distill(x, DISTIL, output="out/t.safetensors"),
    "distill to": lambda x: ead.distill("normal", DISTIL, output=x),
    "demo": ead.demo,
    "save to": lambda x: ead.save(untrained_predictor(), x),
    "export to": lambda x: ead.export(untrained_predictor(), x),
    "evaluate to": lambda x: ead.evaluate(untrained_predictor(), "parts", output=x),
    "predict to": lambda x: ead.predict(untrained_predictor(), "normal", x),
    "predict_parts": lambda x: predict_parts("part.ead", x, "out"),
    "predict_parts of": lambda x: predict_parts(x, ("good.png",), "out"),
    "with_threshold": lambda x: untrained_predictor().with_threshold(x),
    "predictions": lambda x: list(ead.predictions(untrained_predictor(), x)),
}
IMAGE_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "Predictor.predict": lambda x: untrained_predictor().predict(x),
    "Predictor.predict_batch": lambda x: untrained_predictor().predict_batch([x]),
    "predictions": lambda x: list(ead.predictions(untrained_predictor(), [x])),
}
SETTINGS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "TrainConfig": (
        ead.TrainConfig,
        (
            *("steps", "batch_size", "seed", "validation_share", "false_alarm_budget"),
            *("unsure_budget", "scale", "levels", "local_channels", "tile", "align"),
        ),
    ),
    "DistillConfig": (
        partial(ead.DistillConfig, source="a"),
        ("steps", "minutes", "n_held_out", "snapshots", "learning_rate"),
    ),
    "RuleOptions": (ead.RuleOptions, ("min_area", "pixel_size")),
    "PartsConfig": (PartsConfig, ("part_size", "n_workers", "cpus", "executor")),
    "StationConfig": (
        partial(StationConfig, model=Path("a")),
        ("port", "review_share", "n_threads"),
    ),
    "Preparation": (Preparation, ("levels", "alignment")),
    "as_rgb": (partial(ead.as_rgb, np.zeros((9, 9), np.uint16)), ("levels", "color")),
}
NO_NUMBERS: tuple[Any, ...] = (
    *(-1, math.nan, math.inf, "3", [], True, 10**400, 1j, b"1", np.ones(2)),
    *(object, -(10**30), {}),
)


PLAIN: tuple[tuple[Callable[..., Any], dict[str, Any]], ...] = (
    (ead.TrainConfig, {"scale": np.float64(2), "levels": (np.int8(0), np.uint16(9))}),
    (ead.TrainConfig, {"has_pretraining_penalty": np.False_, "seed": np.uint64(3)}),
    (ead.DistillConfig, {"source": "a", "snapshots": [np.float32(0.25)]}),
    (ead.RuleOptions, {"min_area": np.float32(0.5), "pixel_size": np.int64(2)}),
    (PartsConfig, {"part_size": np.uint16(7), "cpus": np.int64(2)}),
    (StationConfig, {"model": "a", "port": np.int16(80), "is_open": np.True_}),
    (Preparation, {"size": (np.int32(256), np.int32(512))}),
    (StudyConfig, {"seeds": [np.uint64(2**64 - 1)], "steps": np.int64(3)}),
    (BenchmarkConfig, {"repeats": np.int8(3), "batch_size": np.uint8(4)}),
    (FigureConfig, {"figures": [np.int64(3)], "n_images": np.int64(2)}),
)
"""Settings with numbers of NumPy, which become plain."""


def made_plain(made: Callable[..., Any], given: dict[str, Any]) -> None:
    """Assert that JSON can hold the settings."""
    json.dumps(asdict(made(**given)), default=os.fspath)


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
    yield from settings_cases()


def settings_cases() -> Iterator[Case]:
    """Yield settings that are refused, and those that become plain."""
    for settings, (made, names) in SETTINGS.items():
        for setting, number in product(names, NO_NUMBERS):
            if setting != "snapshots" or not isinstance(number, list):
                call = partial(made, **{setting: number})
                name = f"{settings}({setting}={str(number)[:9]})"
                yield library_call(name, call)
    for number, (made, given) in enumerate(PLAIN):
        yield Case(
            area="library",
            name=f"settings {number} with numbers of NumPy",
            call=partial(made_plain, made, given),
            codes=(OK,),
        )


SOUND = {
    ("predictions", "a table"),
    *product(("load_teacher of", "card with", "check with"), ("None",)),
    *product(("threshold with", "export with"), ("None",)),
    *product(("evaluate to", "predict to"), ("None", "a missing file")),
    *product(("save to", "demo", "distill to"), ("a missing file",)),
    ("with_threshold", "a number"),
}
CASES = tuple(cases())
