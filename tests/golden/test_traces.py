"""Training, engines and model files give the recorded golden traces."""

import json
import runpy
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
MADE = runpy.run_path(str(HERE / "make_traces.py"))
RECORDED = json.loads(MADE["TRACES"].read_text(encoding="utf-8"))
OWN = RECORDED.get(MADE["platform"]())
OTHER = next(iter(RECORDED.values()))
# Between processors, sums are rounded in another order; training amplifies that.
LOSS_TOLERANCE, GRID_TOLERANCE = 2e-3, 1e-4
N_FAST_STEPS = 4


EXPORTED = ("onnxruntime", "openvino")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("preset", ["paper", "quick"])
def test_first_losses_are_the_recorded_ones(preset):
    found = MADE["training_trace"](preset, N_FAST_STEPS)["losses"]

    assert_losses(found, preset)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("preset", ["paper", "quick"])
def test_whole_trace_is_the_recorded_one(preset):
    found = MADE["training_trace"](preset)

    assert_losses(found["losses"], preset)
    if OWN is not None:
        assert found["weights"] == OWN["trainings"][preset]["weights"]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "engine",
    [
        # Exports have golden vectors of their own: tests/end_to_end.
        pytest.param(engine, marks=[pytest.mark.slow] * (engine in EXPORTED))
        for engine in MADE["ENGINES"]
    ],
)
def test_scores_and_grids_are_the_recorded_ones(engine, tmp_path):
    found = MADE["engine_trace"](engine, tmp_path)

    if OWN is not None:
        assert found == OWN["engines"][engine]
    expected = OTHER["engines"][engine]
    assert found["scores"] == pytest.approx(expected["scores"], abs=GRID_TOLERANCE)
    for cells, recorded in zip(found["middle"], expected["middle"], strict=True):
        assert cells == pytest.approx(recorded, abs=GRID_TOLERANCE)


def test_metadata_of_a_model_file_are_the_recorded_ones():
    assert MADE["metadata"]() == OTHER["metadata"]


def test_another_loss_is_noticed():
    losses = OTHER["trainings"]["paper"]["losses"][:N_FAST_STEPS]

    with pytest.raises(AssertionError):
        assert_losses([1.01 * loss for loss in losses], "paper")


def assert_losses(found, preset):
    if OWN is not None:
        assert found == OWN["trainings"][preset]["losses"][: len(found)]
    expected = OTHER["trainings"][preset]["losses"][: len(found)]
    assert found == pytest.approx(expected, rel=LOSS_TOLERANCE)
