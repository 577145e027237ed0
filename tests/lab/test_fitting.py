"""Fitting, calibration and files of methods, shown by the smallest one."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from tests.contracts.engine_checks import check_engine, noise
from torch import nn

from efficientad.errors import DatasetError, ModelFileError, TrainingError
from efficientad.method.maps import combine_maps
from efficientad.method.placement import place_map
from efficientad_lab.methods import fitting
from efficientad_lab.methods.fitting import FitConfig, fit
from efficientad_lab.methods.method import (
    Method,
    MethodSettings,
    Output,
    Phase,
    enlarged,
    on_grid,
    smoothed,
)
from efficientad_lab.methods.predictors import calibrated, load_method, save_method

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True, kw_only=True)
class BrightnessSettings(MethodSettings):
    factor: float = 1.0
    n_epochs: float = 2.0


class Brightness(Method):
    """Learns the mean image; its score is the mean of its map."""

    Settings = BrightnessSettings
    n_backbones = 0

    def __init__(self, stages, settings):
        super().__init__(stages, settings)
        self.mean = nn.Parameter(torch.zeros(3, 8, 8))
        self.late = nn.Parameter(torch.zeros(1))  # without gradient at first
        self.norm = nn.BatchNorm2d(3)

    def title(self):
        return "brightness"

    def phases(self, pixels):
        small = self.cached(pixels, lambda images: images[:, 0, ::32, ::32])
        for name in ("first", "second"):
            yield Phase(
                name=name,
                optimizer=torch.optim.Adam([self.mean, self.late], 0.1),
                inputs=small,
                loss=self.loss,
                n_epochs=self.settings.n_epochs,
                batch_size=2,
                share=0.5,
            )

    def loss(self, batch, draw):
        noisy = batch + torch.randn(batch.shape, generator=draw.generator)
        loss = (noisy[:, None] - self.mean).square().mean()
        if draw.progress >= 0.5:
            loss = loss + (self.late - 1).square().mean()
        return self.settings.factor * loss

    def output(self, images):
        maps = (on_grid(images[:, 0]) - self.mean.mean()).square()
        return Output({"anomaly": maps}, {"score": 7 * maps.mean((1, 2)) - 3})


@pytest.fixture
def pixels():
    return torch.from_numpy(noise(5))


def new(**settings):
    torch.manual_seed(0)
    return Brightness([], BrightnessSettings(**settings))


def test_all_prescribed_epochs_are_done_without_a_budget(pixels):
    fitted = fit(new(), pixels, FitConfig())

    assert [phase.steps for phase in fitted.phases] == [5, 5]
    assert [phase.epochs for phase in fitted.phases] == [2, 2]


def test_a_budget_ends_every_training_after_one_step_at_least(pixels):
    fitted = fit(new(), pixels, FitConfig(minutes=0.0))

    assert [phase.steps for phase in fitted.phases] == [1, 1]
    assert fitted.phases[0].summary()["epochs"] == 0.4


def test_each_epoch_sees_every_image_in_another_order(pixels):
    method = new()
    phase = next(iter(method.phases(pixels)))
    run = fitting._Run(method, phase, 0, 0, fitting.Clock())

    seen = torch.cat([run._indices(step) for step in range(5)]).tolist()

    assert sorted(seen[:5]) == sorted(seen[5:]) == [0, 1, 2, 3, 4]
    assert seen[:5] != seen[5:]


def test_the_same_seed_gives_the_same_method(pixels):
    one, other, third = new(), new(), new()
    fit(one, pixels, FitConfig(seed=3))
    fit(other, pixels, FitConfig(seed=3))
    fit(third, pixels, FitConfig(seed=4))

    assert torch.equal(one.mean, other.mean)
    assert not torch.equal(one.mean, third.mean)


@pytest.mark.parametrize("n_steps", [2, 5, 7])
def test_a_killed_fit_goes_on_where_it_was(pixels, tmp_path, monkeypatch, n_steps):
    monkeypatch.setattr(fitting, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    whole, killed, resumed = new(), new(), new()
    config = FitConfig(checkpoint=tmp_path / "checkpoint", identity={"images": "5"})
    fit(whole, pixels, FitConfig())
    taken = 0

    def loss(batch, draw):
        nonlocal taken
        taken += 1
        if taken > n_steps:
            raise KeyboardInterrupt
        return Brightness.loss(killed, batch, draw)

    monkeypatch.setattr(killed, "loss", loss)
    with pytest.raises(KeyboardInterrupt):
        fit(killed, pixels, config)
    fitted = fit(resumed, pixels, config)

    assert [phase.steps for phase in fitted.phases] == [5, 5]
    assert all(phase.loss is not None for phase in fitted.phases)
    assert torch.equal(resumed.mean, whole.mean)
    assert torch.equal(resumed.late, whole.late)


def test_a_killed_fit_goes_on_at_its_share_of_the_time(pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    now, seen = 0.0, []
    monkeypatch.setattr(fitting.Clock, "_now", lambda _clock: (now, now))

    def loss(method, ending_at, batch, draw):
        nonlocal now
        now += 10.0
        seen.append(draw.progress)
        if len(seen) == ending_at:
            raise KeyboardInterrupt
        return Brightness.loss(method, batch, draw)

    config = FitConfig(checkpoint=tmp_path / "checkpoint", minutes=200 / 60)
    killed, resumed = new(n_epochs=1000.0), new(n_epochs=1000.0)
    monkeypatch.setattr(killed, "loss", partial(loss, killed, 7))
    with pytest.raises(KeyboardInterrupt):
        fit(killed, pixels, config)
    monkeypatch.setattr(resumed, "loss", partial(loss, resumed, 0))
    fit(resumed, pixels, config)

    assert seen[:7] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert seen[7:11] == pytest.approx([0.6, 0.7, 0.8, 0.9])


def test_the_rate_of_the_late_steps_is_a_tenth(pixels):
    method = new()
    phase = replace(next(iter(method.phases(pixels))), late=0.5)
    run = fitting._Run(method, phase, 0, 0, fitting.Clock())
    rates = []
    for progress in (0.0, 0.5, 0.6, 1.0):
        run._step(progress)
        rates.append(phase.optimizer.param_groups[0]["lr"])

    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01])


def test_a_checkpoint_of_other_images_is_refused(pixels, tmp_path):
    config = FitConfig(checkpoint=tmp_path / "checkpoint", identity={"images": "5"})
    fit(new(), pixels, config)

    with pytest.raises(ModelFileError, match="checkpoint of other settings"):
        fit(new(), pixels, replace(config, identity={"images": "6"}))


def test_a_loss_that_is_not_finite_is_refused(pixels):
    with pytest.raises(TrainingError, match="loss of first is not finite at step 1; "):
        fit(new(factor=1e300), pixels, FitConfig())


def test_a_score_of_its_own_decides_on_the_scale_of_the_maps(pixels):
    method = new()
    fit(method, pixels, FitConfig())
    held_out = noise(6, seed=1)
    predictor = calibrated(method, held_out, {"training_images": {}})

    found = predictor.predict_batch(list(held_out))
    scores = np.array([one.image_score for one in found])
    maxima = np.array([combine_maps(one.grids).max() for one in found])
    own = np.array(
        [predictor.engine.run(one[None]).values["score"] for one in held_out]
    )

    np.testing.assert_allclose(scores.mean(), maxima.mean(), rtol=1e-4)
    np.testing.assert_allclose(scores.std(), maxima.std(), rtol=1e-3)
    assert np.corrcoef(scores, own.ravel())[0, 1] > 0.9999
    assert predictor.calibration.normal_scores == tuple(sorted(scores.tolist()))


def test_a_calibration_without_images_or_differences_is_refused():
    method = new()
    with pytest.raises(DatasetError, match="needs normal images"):
        calibrated(method, noise(2)[:0], {"training_images": {}})
    same = np.repeat(noise(1), 3, axis=0)
    with pytest.raises(DatasetError, match="those of 3 are all the same"):
        calibrated(method, same, {"training_images": {}})


def test_a_file_gives_the_same_predictor(pixels, tmp_path):
    method = new()
    fit(method, pixels, FitConfig())
    predictor = calibrated(method, noise(3, seed=1), {"training_images": {}})
    save_method(predictor, tmp_path / "part.method")

    again = load_method(tmp_path / "part.method", [Brightness])

    assert again.calibration == predictor.calibration
    assert again.provenance["method"] == "brightness"
    image = noise(1, seed=2)[0]
    assert again.predict(image).image_score == predictor.predict(image).image_score
    check_engine(again.engine)


def test_a_file_of_an_unknown_method_is_refused(tmp_path):
    predictor = calibrated(new(), noise(3, seed=1), {"training_images": {}})
    save_method(predictor, tmp_path / "part.method")

    with pytest.raises(ModelFileError, match="bad entry: 'Brightness'"):
        load_method(tmp_path / "part.method", [])


def test_a_grid_is_drawn_where_its_map_was():
    maps = smoothed(torch.rand(1, 64, 64), 2)
    expected = enlarged(maps, 512)[0].numpy()

    found = place_map(on_grid(maps)[0].numpy(), 512, 512)

    inner = np.s_[16:-16, 16:-16]
    np.testing.assert_allclose(found[inner], expected[inner], atol=0.02)
    assert np.ptp(expected) > 0.1


def test_smoothing_is_a_gaussian():
    from scipy.ndimage import gaussian_filter

    maps = torch.rand(2, 40, 40)
    expected = [gaussian_filter(one, 4, mode="mirror") for one in maps.numpy()]

    np.testing.assert_allclose(smoothed(maps).numpy(), expected, atol=1e-5)
