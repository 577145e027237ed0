"""Every engine and every way to open a model keeps the contract."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from tests.contracts.engine_checks import (
    check_engine,
    check_predictor,
    check_same_calibration,
)

import efficientad
from efficientad.engines.engine import Engine, EngineOutput, Precision
from efficientad.engines.onnxruntime import OnnxRuntimeEngine
from efficientad.engines.openvino import OpenVinoEngine
from efficientad.engines.pytorch import PyTorchEngine
from efficientad.inspection.opening import detector_engine
from efficientad.kernels import layers
from efficientad.model_files import container
from efficientad_lab.benchmark.baseline import BaselineEngine
from efficientad_lab.studies.cached_maps import CachingEngine

ENGINES: dict[str, Callable[..., Engine]] = {
    "pytorch": lambda detector, _: PyTorchEngine(detector),
    "native": lambda detector, _: detector_engine(detector, "native"),
    "baseline": lambda detector, _: BaselineEngine(detector),
    "cached": lambda detector, _: CachingEngine(PyTorchEngine(detector)),
    "onnxruntime": lambda _, paths: OnnxRuntimeEngine(paths["onnxruntime"]),
    "openvino": lambda _, paths: OpenVinoEngine(paths["openvino"]),
}


class FakeEngine:
    """Gives the mean brightness of cells of 8 pixels: a method with one map."""

    precision: Precision = "fp32"
    device: Literal["cpu"] = "cpu"
    is_concurrent = True

    def run(self, pixels):
        cells = pixels.reshape(len(pixels), 32, 8, 32, 8, 3)
        return EngineOutput({"brightness": cells.mean((2, 4, 5)).astype(np.float32)})


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_keeps_the_contract(name, predictor, exports):
    if name == "native" and not layers.is_available():
        pytest.skip("needs a C++ compiler for the native layers")
    check_engine(ENGINES[name](predictor.detector, exports))


def test_a_fake_engine_of_one_map_keeps_the_contract():
    check_engine(FakeEngine())


@pytest.mark.parametrize("suffix", [".ead", ".onnx", ".xml"])
def test_every_file_opens_to_a_predictor(suffix, predictor, exports, tmp_path):
    paths = {path.suffix: path for path in exports.values()}
    paths[".ead"] = tmp_path / "part.ead"
    efficientad.save(predictor, paths[".ead"])

    opened = efficientad.load(paths[suffix])

    check_predictor(opened)
    check_same_calibration(opened, predictor)


def test_a_fake_engine_of_one_map_makes_a_predictor(predictor):
    scale = next(iter(predictor.calibration.scales.values()))
    one_map = replace(
        predictor.calibration, scales={"brightness": replace(scale, low=0, high=255)}
    )

    check_predictor(replace(predictor, engine=FakeEngine(), calibration=one_map))


class Reusing(FakeEngine):
    """Writes every result to the same place."""

    def __init__(self):
        self.grids = np.zeros((3, 32, 32), np.float32)

    def run(self, pixels):
        output = super().run(pixels)
        self.grids[: len(pixels)] = output.grids["brightness"]
        return EngineOutput({"brightness": self.grids[: len(pixels)]})


class Mixing(FakeEngine):
    """Lets images of a batch influence each other."""

    def run(self, pixels):
        grids = super().run(pixels).grids["brightness"]
        return EngineOutput({"brightness": grids / grids.max()})


class Wide(FakeEngine):
    """Gives double precision."""

    def run(self, pixels):
        grids = super().run(pixels).grids["brightness"]
        return EngineOutput({"brightness": grids.astype(np.float64)})


@pytest.mark.parametrize("engine", [Reusing(), Mixing(), Wide()])
def test_the_check_notices_an_engine_that_breaks_the_contract(engine):
    with pytest.raises(AssertionError):
        check_engine(engine)


def test_the_check_notices_a_predictor_without_provenance(predictor):
    with pytest.raises(AssertionError):
        check_predictor(replace(predictor, provenance={}))


def test_a_detector_file_without_named_scales_opens_as_before(predictor, tmp_path):
    path = tmp_path / "part.ead"
    efficientad.save(predictor, path)
    tensors, content = container.read(path, "detector")
    scales = content["calibration"].pop("scales")
    content["calibration"] |= {f"{name}_quantiles": v for name, v in scales.items()}
    container.write(path, "detector", tensors, content)

    opened = efficientad.load(path)

    check_same_calibration(opened, predictor)
