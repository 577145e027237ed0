"""Training: from images to a calibrated detector, interrupted and resumed."""

import logging
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import efficientad
from efficientad.cli.main import main
from efficientad.cli.process import held_back_interrupt
from efficientad.errors import (
    ConfigError,
    DatasetError,
    ModelFileError,
    StorageError,
    TrainingError,
)
from efficientad.inspection.predictor import Predictor
from efficientad.method.detector import Detector
from efficientad.model_files import container as tensor_file
from efficientad.training import provenance
from efficientad.training import run as student
from efficientad.training.config import TrainConfig
from efficientad.training.optimizers import learning_rate
from efficientad.training.quick import QuickStep

CONFIG = TrainConfig(preset="quick", steps=2, batch_size=4, device="cpu")


@pytest.fixture(scope="module")
def normal_images():
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (12, 64, 64, 3), np.uint8))


@pytest.fixture(scope="module")
def watched():
    """Steps of the training, and what was given with each."""
    return []


@pytest.fixture(scope="module")
def trained(normal_images, tmp_path_factory, watched):
    """A watched training, with its recipe given as a whole, as ablations do."""
    output = tmp_path_factory.mktemp("model") / "part.ead"
    predictor = student.train(
        normal_images,
        CONFIG,
        output=output,
        recipe=student.recipe_of(CONFIG, torch.device("cpu")),
        on_step=lambda n_steps, given: watched.append((n_steps, type(given))),
    )
    return predictor, output


@pytest.fixture(scope="module")
def stopped(normal_images, tmp_path_factory):
    """What a training leaves that Ctrl-C stopped in the middle of its first step."""
    folder = tmp_path_factory.mktemp("stopped")
    losses = QuickStep.losses

    def interrupted_losses(self, *arguments):
        result = losses(self, *arguments)
        signal.raise_signal(signal.SIGINT)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QuickStep, "losses", interrupted_losses)
        with pytest.raises(KeyboardInterrupt):
            student.train(
                normal_images,
                CONFIG,
                output=folder / "part.ead",
                interrupts=held_back_interrupt,
            )
    return folder


@pytest.fixture
def interrupted(stopped, tmp_path):
    """A copy of it, to go on from."""
    return shutil.copytree(stopped, tmp_path / "interrupted") / "part.ead"


def assert_same_weights(one, other):
    expected = other.detector.state_dict()
    for name, value in one.detector.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_saved_predictor_answers_as_before(trained, normal_images):
    predictor, path = trained

    loaded = efficientad.load(path, device="cpu")

    networks = loaded.detector
    assert networks is not None
    assert (networks.teacher.n_channels, networks.student.n_channels) == (128, 192)
    before, after = (p.predict(normal_images[0]) for p in (predictor, loaded))
    assert after.image_score == before.image_score
    np.testing.assert_array_equal(after.anomaly_map, before.anomaly_map)
    assert loaded.calibration == predictor.calibration
    assert loaded.provenance == predictor.provenance
    assert loaded.size == predictor.size
    assert not path.with_name("part.ead.checkpoint").exists()


def test_an_interrupted_training_resumes_to_the_same_bits(
    trained, watched, normal_images, interrupted
):
    """Of one that nobody watches: watching changes nothing."""
    predictor, _ = trained
    assert watched == [(n_steps, Detector) for n_steps in range(3)]

    resumed = student.train(
        normal_images, replace(CONFIG, resume=True), output=interrupted
    )

    assert_same_weights(predictor, resumed)
    assert resumed.calibration == predictor.calibration


def test_without_held_back_interrupts_ctrl_c_acts_at_once(normal_images, tmp_path):
    before = signal.getsignal(signal.SIGINT)

    def interrupt(n_steps_done, _detector):
        assert signal.getsignal(signal.SIGINT) is before
        if n_steps_done == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        student.train(
            normal_images, CONFIG, output=tmp_path / "part.ead", on_step=interrupt
        )
    assert not list(tmp_path.iterdir())


def test_ctrl_c_on_the_command_line_leaves_a_checkpoint(
    normal_images, tmp_path, monkeypatch, capsys
):
    def interrupted(self, *arguments):
        signal.raise_signal(signal.SIGINT)
        return losses(self, *arguments)

    losses = QuickStep.losses
    monkeypatch.setattr(QuickStep, "losses", interrupted)
    for index, image in enumerate(normal_images):
        Image.fromarray(image).save(tmp_path / f"{index:02}.png")
    output = tmp_path / "made" / "part.ead"
    options = ["--output", str(output), "--steps", "2", "--device", "cpu"]

    assert main(["train", str(tmp_path), *options]) == 130

    assert "interrupted; --resume continues" in capsys.readouterr().err
    _, content = tensor_file.read(output.with_name("part.ead.checkpoint"), "checkpoint")
    assert content["steps"] == 1


def test_a_finished_training_is_not_repeated(trained, normal_images, caplog):
    caplog.set_level(logging.INFO, "efficientad")
    predictor, output = trained
    before = output.read_bytes()

    again = student.train(
        normal_images,
        replace(CONFIG, resume=True, preset=None),
        output=output,
        on_step=lambda *_: pytest.fail("trained again"),
    )

    assert caplog.messages[-1].startswith(f"{output} is finished")
    assert output.read_bytes() == before
    assert again.provenance == predictor.provenance
    assert_same_weights(predictor, again)


@pytest.mark.parametrize(
    ("other", "n_images"),
    [
        ({"seed": 1}, 12),
        ({"steps": 3}, 12),
        ({"false_alarm_budget": 0.1}, 12),
        ({}, 11),
    ],
)
def test_a_finished_training_of_something_else_is_done_anew(
    trained, normal_images, tmp_path, monkeypatch, other, n_images
):
    class TrainedError(Exception):
        pass

    def stop(*_):
        raise TrainedError

    monkeypatch.setattr(student, "_Training", stop)
    output = Path(shutil.copy(trained[1], tmp_path))
    config = replace(CONFIG, resume=True, **other)

    with pytest.raises(TrainedError):
        student.train(normal_images[:n_images], config, output=output)


def test_natural_images_are_told_apart_by_their_contents_not_their_folder(trained):
    facts = dict(trained[0].provenance)
    moved = facts | {"pretraining_images": "another folder (8 images)"}
    others = facts | {"pretraining_hash": 32 * "ab"}

    assert provenance._decisive(moved) == provenance._decisive(facts)
    assert provenance._decisive(others) != provenance._decisive(facts)


def test_a_damaged_detector_is_not_taken_for_a_finished_one(normal_images, tmp_path):
    (tmp_path / "part.ead").write_text("something else")

    with pytest.raises(ModelFileError, match="not a readable detector"):
        student.train(
            normal_images, replace(CONFIG, resume=True), output=tmp_path / "part.ead"
        )


KILLED_AT_ITS_SECOND_STEP = """
import os, signal, sys
from pathlib import Path
import numpy as np
from efficientad.training import run as student
from efficientad.training.config import TrainConfig

student._CHECKPOINT_SECONDS = 0
def kill(n_steps, detector):
    if n_steps == 2:
        os.kill(os.getpid(), signal.SIGKILL)
config = TrainConfig(preset="quick", steps=2, batch_size=4, device="cpu")
student.train(list(np.load(sys.argv[1])), config, output=sys.argv[2], on_step=kill)
"""


def test_a_killed_training_leaves_the_checkpoint_of_an_interrupted_one(
    stopped, normal_images, tmp_path
):
    """By `kill -9`, after a checkpoint and a step that is lost."""
    images, output = tmp_path / "images.npy", tmp_path / "part.ead"
    np.save(images, np.stack(normal_images))
    source = Path(student.__file__).resolve().parents[2]

    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT_ITS_SECOND_STEP, images, output],
        check=False,
        env={**os.environ, "PYTHONPATH": str(source)},
        stderr=subprocess.PIPE,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not output.exists()
    (found, facts), (expected, wanted) = (
        tensor_file.read(folder / "part.ead.checkpoint", "checkpoint")
        for folder in (tmp_path, stopped)
    )
    assert facts | {"seconds": 0} == wanted | {"seconds": 0}
    assert facts["steps"] == 1
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_recipe_reaches_the_training(normal_images):
    recipe = replace(
        student.recipe_of(CONFIG, torch.device("cpu")), p_hard=0.5, steps=1
    )

    predictor = student.train(normal_images, CONFIG, recipe=recipe)

    assert predictor.provenance["recipe"]["p_hard"] == 0.5
    assert predictor.provenance["recipe"]["steps"] == 1


def test_a_checkpoint_of_other_settings_is_refused(normal_images, interrupted):
    other = replace(CONFIG, seed=1, resume=True)

    with pytest.raises(ModelFileError, match="other settings"):
        student.train(normal_images, other, output=interrupted)
    assert interrupted.with_name("part.ead.checkpoint").exists()


def test_an_unfinished_training_is_not_overwritten(normal_images, interrupted):
    checkpoint = interrupted.with_name("part.ead.checkpoint")
    before = checkpoint.read_bytes()

    for config in (CONFIG, replace(CONFIG, seed=1)):
        with pytest.raises(ModelFileError, match="go on with --resume, or remove it"):
            student.train(normal_images, config, output=interrupted)
    assert checkpoint.read_bytes() == before
    assert not interrupted.exists()


def test_the_checkpoint_of_a_training_at_the_same_time_stays(
    normal_images, interrupted, tmp_path
):
    output = tmp_path / "part.ead"
    checkpoint = output.with_name("part.ead.checkpoint")

    def other_run(n_steps, _):
        if n_steps == 1:
            shutil.copy(interrupted.with_name("part.ead.checkpoint"), checkpoint)

    with pytest.raises(ModelFileError, match="was written by another run"):
        student.train(normal_images, CONFIG, output=output, on_step=other_run)
    _, content = tensor_file.read(checkpoint, "checkpoint")
    assert content["steps"] == 1


def test_a_checkpoint_of_steps_that_cannot_be_is_refused(normal_images, interrupted):
    checkpoint = interrupted.with_name("part.ead.checkpoint")
    tensors, content = tensor_file.read(checkpoint, "checkpoint")
    tensor_file.write(checkpoint, "checkpoint", tensors, content | {"steps": -1})

    with pytest.raises(ModelFileError, match="does not hold a whole checkpoint"):
        student.train(normal_images, replace(CONFIG, resume=True), output=interrupted)


def test_a_non_finite_loss_ends_the_training(normal_images, monkeypatch):
    monkeypatch.setattr(student._Training, "take_step", lambda _: float("nan"))

    with pytest.raises(TrainingError, match="not finite"):
        student.train(normal_images, CONFIG)


def test_too_few_different_images_are_refused(normal_images):
    with pytest.raises(DatasetError, match="got 1; record more"):
        student.train([normal_images[0]] * 12, CONFIG)


def test_a_validation_folder_that_shares_images_is_refused(normal_images, tmp_path):
    Image.fromarray(normal_images[3]).save(tmp_path / "copy.png")
    config = TrainConfig(preset="quick", steps=2, validation=tmp_path, device="cpu")

    with pytest.raises(DatasetError, match=r"copy\.png is the same picture as image 3"):
        student.train(normal_images, config)


def test_an_output_that_cannot_be_written_is_refused_first(normal_images, tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match="choose another output"):
        student.train(normal_images, CONFIG, output=tmp_path / "file" / "part.ead")


def test_a_paper_step_trains_all_but_the_teacher(normal_images):
    config = TrainConfig(preset="paper", steps=1, device="cpu")

    predictor = student.train(normal_images, config)

    assert isinstance(predictor, Predictor)
    assert isinstance(predictor.detector, Detector)
    expected = efficientad.load_teacher("small").state_dict()
    for name, value in predictor.detector.teacher.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert len(predictor.calibration.normal_scores) == 2
    assert predictor.provenance["preset"] == "paper"


def test_truncated_foreign_and_newer_files_are_refused(trained, tmp_path):
    _, path = trained
    truncated = tmp_path / "truncated.ead"
    truncated.write_bytes(path.read_bytes()[:1000])
    foreign = tmp_path / "foreign.ead"
    foreign.write_text("not a model")
    teacher = tmp_path / "teacher.ead"
    tensor_file.write(teacher, "teacher", {"a": np.zeros(1)}, {})
    newer = tmp_path / "newer.ead"
    tensor_file.write(newer, "detector", {"a": np.zeros(1)}, {}, version=99)

    for file, words in (
        (truncated, "truncated, damaged"),
        (foreign, "truncated, damaged"),
        (teacher, "is a teacher file; needed a detector"),
        (newer, "update efficientad"),
        (tmp_path / "missing.ead", "no model file at"),
    ):
        with pytest.raises(ModelFileError, match=words):
            efficientad.load(file)


def test_a_failed_save_leaves_the_old_file(trained, tmp_path, monkeypatch):
    predictor, _ = trained
    target = tmp_path / "part.ead"
    target.write_text("the old one")

    def full_disk(path, _content):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        efficientad.save(predictor, target)
    assert target.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [target]


def test_calibration_refuses_images_that_were_trained_on(trained, normal_images):
    predictor, _ = trained

    with pytest.raises(DatasetError, match="were not trained on"):
        efficientad.calibrate(predictor, normal_images)


def test_the_papers_rate_falls_to_a_tenth_for_the_last_5_percent():
    rates = [learning_rate(step / 70_000, 1e-4, "drop") for step in (0, 66_499, 66_500)]

    assert rates == pytest.approx([1e-4, 1e-4, 1e-5])


def test_channels_are_those_of_the_preset_or_as_asked_for():
    def channels(**settings):
        recipe = student.recipe_of(TrainConfig(**settings), torch.device("cpu"))
        return recipe.local_channels, recipe.global_channels

    assert channels(preset="paper") == (384, 384)
    assert channels(preset="quick") == (128, 64)
    assert channels(preset="quick", local_channels=384) == (384, 64)
    assert channels(preset="paper", local_channels=96, global_channels=32) == (96, 32)


@pytest.mark.parametrize(
    "setting",
    [
        {"steps": 0},
        {"validation_share": 1.0},
        {"seed": -1},
        {"local_channels": 0},
        {"local_channels": 100},
        {"global_channels": 416},
    ],
)
def test_settings_outside_their_range_are_refused(setting):
    with pytest.raises(ConfigError):
        TrainConfig(**setting)
