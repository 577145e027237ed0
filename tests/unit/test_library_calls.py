"""Calls of the library by mistake: one sentence, at once.

They run in a process of their own: under pytest, types are checked everywhere.
"""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import efficientad
from efficientad.distillation.config import DistillConfig
from efficientad.training.config import TrainConfig

SETUP = """
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import efficientad as ead
from efficientad.engines.engine import EngineOutput
from efficientad.method.maps import MapScale

SCALES = {"local": MapScale(0.0, 1.0)}
CALIBRATION = ead.Calibration(SCALES, (0.1, 0.2))
PREDICTOR = ead.Predictor(
    engine=None, calibration=CALIBRATION, provenance={}, size="small"
)
PREDICTION = ead.Prediction(0.3, 0.1, 0.2, 9, 9, {})
STACK = np.zeros((2, 64, 64, 3), np.uint8)
WITHOUT = ead.DistillConfig(source="net.pt")

def outcome_of(call):
    try:
        return repr(eval(call))
    except ead.EfficientADError as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:
        return f"TRACEBACK {type(error).__name__}: {error}"

"""

REFUSED = {
    "ead.TrainConfig(steps=float('nan'))": "steps must be a whole number from 1 to",
    "ead.TrainConfig(levels=(0, 1, 2))": "got (0, 1, 2); for a camera of 12 bits",
    "ead.TrainConfig(levels=(4095, 0))": "the lower one first, got (4095, 0)",
    "ead.TrainConfig(levels=4095)": "levels must be a list, got 4095",
    "ead.TrainConfig(levels=[0.0, 4095])": "levels[0] must be a whole number from 0",
    "ead.TrainConfig(steps=True)": "steps must be a whole number from 1 to",
    "ead.TrainConfig(steps=10**9)": "steps must be a whole number from 1 to 10000000",
    "ead.TrainConfig(batch_size=10**9)": "batch_size must be a whole number from 1",
    "ead.TrainConfig(seed=2**64)": "seed must be a whole number from 0 to",
    "ead.TrainConfig(seed=10**5000)": "seed must be a whole number from 0 to",
    "ead.TrainConfig(false_alarm_budget=1e-320)": "from 1e-06 to 0.5, got 1e-320",
    "ead.TrainConfig(preset='fast')": "preset must be paper or quick, got 'fast'",
    "ead.TrainConfig(device='tpu')": "device must be auto, cpu or cuda, got 'tpu'",
    "ead.TrainConfig(size=np.array([1]))": "size must be small or medium, got an array",
    "ead.TrainConfig(teacher=3)": "teacher must be a path, got 3",
    "ead.TrainConfig(resume='no')": "resume must be True or False, got 'no'",
    "ead.DistillConfig(source=None)": "source must be a text, got None",
    "ead.DistillConfig(source='a', minutes=1e9)": "minutes must be a finite number",
    "ead.DistillConfig(source='a', snapshots=0.5)": "snapshots must be a list, got 0.5",
    "ead.Calibration(None, (0.1,))": "scales must be a Mapping, got None",
    "ead.Calibration(SCALES, 0.1)": "normal_scores must be a list, got 0.1",
    "ead.Calibration(SCALES, (0.1,), threshold_rule='best')": "estimate or steady, got",
    "ead.train(None)": "images must be a path, a Category or a list, got None",
    "ead.train(STACK)": "a list, got an array of shape (2, 64, 64, 3)",
    "ead.train('')": "images must be a path, a Category or a list, got ''",
    "ead.train('a', 'quick')": "config must be a TrainConfig, got 'quick'",
    "ead.train('a', output='part.onnx')": "got part.onnx; name it part.ead",
    "ead.train('a', on_step=3)": "on_step must be a Callable, got 3",
    "ead.load(None)": "path must be a path, got None",
    "ead.load('a\\0b')": "path must be a path, got",
    "ead.load('part.ead', device='tpu')": "device must be auto, cpu or cuda, got",
    "ead.load('part.ead', engine='fast')": "engine must be auto, native, native_bf16,",
    "ead.load('part.ead', n_threads=10**9)": "n_threads must be a whole number from 1",
    "ead.load('part.ead', n_streams=2.0)": "n_streams must be a whole number from 1",
    "ead.load_teacher('large')": "size must be small or medium, got 'large'",
    "ead.load_teacher(path=3)": "path must be a path, got 3",
    "ead.save('part.ead', 'copy.ead')": "predictor must be a Predictor, got",
    "ead.save(PREDICTOR, 'part.xml')": "a detector file ends in .ead, got part.xml",
    "ead.export('part.ead', 'a.onnx')": "must be a Predictor, got 'part.ead'",
    "ead.export(PREDICTOR, 'part')": "name it part.onnx, part.xml or part.native",
    "ead.export(PREDICTOR, 'a.onnx', precision='int4')": "precision must be fp32,",
    "ead.export(PREDICTOR, 'a.onnx', max_loss=float('nan'))": "max_loss must be",
    "ead.predict(PREDICTOR, 'x.png', 'out')": "needed at x.png, there is none; check",
    "ead.predict(PREDICTOR, 3, 'out')": "paths must be a list or a path, got 3",
    "ead.predict(PREDICTOR, [None], 'out')": "paths[0] must be a path, got None",
    "ead.predict('part.ead', ['x.png'], 'out')": "predictor must be a Predictor, got",
    "ead.predict(PREDICTOR, ['x.png'], 'out', n_streams=10**9)": "n_streams must be a",
    "ead.predictions(PREDICTOR, 'x.png')": "images must be an Iterable, got 'x.png'",
    "ead.predictions(PREDICTOR, STACK)": "images must be an Iterable, got an array of",
    "ead.predictions(PREDICTOR, [], batch_size=10**9)": "batch_size must be a whole",
    "ead.predictions(PREDICTOR, [], n_waiting=10**9)": "n_waiting must be a whole",
    "PREDICTOR.predict_batch(STACK)": "or a path, got an array of shape (2, 64, 64, 3)",
    "PREDICTOR.predict_batch(STACK[0])": "a path, got an array of shape (64, 64, 3)",
    "PREDICTOR.predict_batch(torch.zeros(2, 3, 9, 9))": "array of shape (2, 3, 9",
    "PREDICTOR.predict_batch('x.png')": "an image was needed, x.png does not exist",
    "PREDICTOR.predict_batch('x/*.png')": "an image was needed, x/*.png does not exist",
    "PREDICTOR.predict_batch(iter([]))": "a list or a path, got a list_iterator",
    "PREDICTOR.predict_batch([STACK[0]], color='gbr')": "color must be rgb or bgr, got",
    "PREDICTOR.predict(None)": "a Pillow image, an array or a tensor, got NoneType",
    "PREDICTOR.predict('.')": "needs one image, got a folder; use predict_batch",
    "PREDICTOR.predict([STACK[0]])": "needs one image, got a list; use predict_batch",
    "PREDICTOR.predict(torch.zeros(3, 9, 9))": "channels last, or say layout='chw'",
    "PREDICTOR.predict('x.png', color='bgr')": "the given image is str, which has its",
    "ead.as_rgb(STACK[0], color='gbr')": "color must be rgb or bgr, got 'gbr'",
    "ead.as_rgb(STACK[0], layout='chw2')": "layout must be hwc or chw, got 'chw2'",
    "ead.card(None)": "model must be a path, got None",
    "PREDICTION.save(3)": "path must be a path, got 3",
    "PREDICTOR.with_threshold(float('nan'))": "at must be a finite number, got nan",
    "setattr(PREDICTOR, 'threshold', 0.2)": "got a new threshold; call with_threshold",
    "setattr(CALIBRATION, 'threshold', 0.2)": "call dataclasses.replace with given_thr",
    "ead.evaluate('part.ead', 'parts')": "predictor must be a Predictor, got",
    "ead.evaluate(PREDICTOR, None)": "category must be a Category or a path, got None",
    "ead.check(None)": "data must be a path, got None",
    "ead.calibrate(PREDICTOR, None)": "images must be a path or a list, got None",
    "ead.calibrate(PREDICTOR, 'a', threshold='0.1')": "threshold must be a",
    "ead.threshold(None)": "model must be a path, got None",
    "ead.threshold('part.ead', at=float('nan'))": "at must be a finite number, got nan",
    "ead.threshold('part.ead', at=np.ones(2))": "got an array of shape (2,)",
    "ead.demo(seed=2**64)": "seed must be a whole number from 0 to",
    "ead.demo(steps='all')": "steps must be a whole number from 1 to 10000000, got",
    "ead.demo(output=None)": "output must be a path, got None",
    "ead.distill('a', None, output='b')": "config must be a DistillConfig, got None",
    "ead.distill(3, WITHOUT, output='b')": "images must be a path or a list, got 3",
    "ead.distill('a', WITHOUT, output='b', provenance={'at': {1}})": "must be JSON",
}
"""What is wrong in the sentence, by the call."""

ACCEPTED = {
    "json.dumps(ead.TrainConfig(seed=np.uint64(2**64 - 1)).seed)": str(2**64 - 1),
    "json.dumps(ead.TrainConfig(validation_share=np.float32(0.5)).validation_share)": (
        "0.5"
    ),
    "json.dumps(ead.TrainConfig(resume=np.bool_(True)).resume)": "true",
    "json.dumps(ead.DistillConfig(source='a', snapshots=[np.float64(.5)]).snapshots)": (
        "[0.5]"
    ),
    "json.dumps(ead.Calibration(SCALES, [np.float32(0.5)]).normal_scores)": "[0.5]",
    "PREDICTOR.with_threshold(np.float32(0.5)).threshold": 0.5,
    "PREDICTOR.threshold": 0.2,
    "json.dumps(MapScale(np.float32(0), np.float32(1)).high)": "1.0",
    "str(ead.TrainConfig(validation='folder').validation.parent)": ".",
    "ead.DistillConfig(source=Path('net.pt')).source": "net.pt",
}
"""The value, by the call."""


def numbers_of(config):
    kinds = {field.name: str(field.type) for field in fields(config)}
    return [name for name, kind in kinds.items() if "int" in kind or "float" in kind]


HUGE = [
    f"ead.{config.__name__}({name}={value}, **{more})"
    for config, more in ((TrainConfig, {}), (DistillConfig, {"source": "net.pt"}))
    for name in numbers_of(config)
    if name not in {"snapshots", "levels"}  # lists
    for value in ("10**30", "-(10**30)", "float('inf')", "float('nan')")
]
"""Numbers that no setting can have."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """The outcome of each call, and what stands in the folder afterwards."""
    folder = tmp_path_factory.mktemp("calls")
    calls = [*REFUSED, *ACCEPTED, *HUGE]
    script = f"{SETUP}\nprint(json.dumps([outcome_of(c) for c in {calls!r}]))"
    finished = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(efficientad.__file__).parents[1])},
    )
    assert not list(folder.iterdir())
    return dict(zip(calls, json.loads(finished.stdout), strict=True))


@pytest.mark.parametrize(("call", "words"), REFUSED.items(), ids=REFUSED)
def test_a_call_by_mistake_is_one_sentence(outcomes, call, words):
    kind, _, sentence = outcomes[call].partition(": ")

    assert kind in {"ConfigError", "DatasetError", "ImageError"}
    assert words in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(("call", "value"), ACCEPTED.items(), ids=ACCEPTED)
def test_numbers_of_numpy_and_paths_as_text_become_plain(outcomes, call, value):
    assert outcomes[call] == repr(value)


def test_every_number_among_the_settings_has_both_limits(outcomes):
    found = [outcomes[call] for call in HUGE]

    assert len(found) > 50
    wrong = [f for f in found if not ("ConfigError" in f and " from " in f)]
    assert not wrong
