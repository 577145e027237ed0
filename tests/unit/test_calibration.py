from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import pytest

import efficientad
from efficientad.calibration import fit as fit_module
from efficientad.calibration import second_session
from efficientad.calibration.fit import fit_calibration
from efficientad.calibration.scoring import outputs, scores
from efficientad.engines.engine import EngineOutput, Precision
from efficientad.errors import ConfigError, DatasetError
from efficientad.images.changes import CHANGES, SESSION
from efficientad.images.rgb import INPUT_SIZE, image_hash
from efficientad.method.composition import COMPOSITION
from efficientad.method.maps import fit_quantiles, map_levels


@pytest.fixture(scope="module")
def pixels(photograph):
    return np.stack([photograph(INPUT_SIZE, INPUT_SIZE, seed) for seed in range(3)])


def test_levels_reach_from_the_least_to_the_greatest_of_the_held_out_images(
    predictor, pixels
):
    raw = outputs(predictor.engine, pixels).grids

    found = fit_calibration(predictor.engine, pixels, divides_by_level=True)

    assert list(found.scales) == list(raw) == ["local", "global"]
    for name, scale in found.scales.items():
        levels = map_levels(raw[name])
        assert scale.least_level == float(levels.min())
        assert scale.greatest_level == float(levels.max())
        own = fit_quantiles(raw[name] / levels[:, None, None])
        np.testing.assert_allclose(
            (scale.low, scale.high), (own.low, own.high), rtol=1e-5
        )


@pytest.mark.parametrize("fit", [fit_quantiles, partial(fit_quantiles, low=0.5)])
def test_without_it_maps_are_compared_as_they_are(predictor, pixels, fit):
    raw = outputs(predictor.engine, pixels).grids

    found = fit_calibration(predictor.engine, pixels, fit=fit)

    for name, scale in found.scales.items():
        assert scale == fit(raw[name])
        assert scale.least_level is None


def test_the_normal_scores_are_those_of_the_predictions(predictor, pixels):
    found = efficientad.calibrate(predictor, list(pixels), false_alarm_budget=0.3)

    scores = [found.predict(image).image_score for image in pixels]
    np.testing.assert_allclose(
        found.calibration.normal_scores, sorted(scores), rtol=1e-5
    )
    assert found.calibration.false_alarm_budget == 0.3


def test_a_calibrated_predictor_is_another_one_that_names_its_images(predictor, pixels):
    before, provenance = predictor.calibration, dict(predictor.provenance)

    found = efficientad.calibrate(predictor, list(pixels), threshold=0.7)

    assert found.calibration.threshold == 0.7
    assert found.engine is predictor.engine
    assert found.weights is predictor.weights
    hashes = [image_hash(image) for image in pixels]
    assert list(found.provenance["validation_images"].values()) == hashes
    assert found.provenance["training_images"] == provenance["training_images"]
    assert (predictor.calibration, predictor.provenance) == (before, provenance)


def test_a_threshold_that_is_no_decision_needs_force(predictor, pixels):
    with pytest.raises(ConfigError, match="flags 3 of 3 held-out normal images"):
        efficientad.calibrate(predictor, list(pixels), threshold=-1.0)

    forced = efficientad.calibrate(predictor, list(pixels), threshold=-1.0, force=True)
    assert forced.calibration.threshold == -1.0


@pytest.mark.parametrize(
    ("recipe", "has_levels"),
    [
        ({"divides_by_level": True}, True),
        ({"divides_by_level": False}, False),
        ({"quick": {"divides_by_level": True}}, True),
        ({"quick": None}, False),
    ],
)
def test_levels_are_those_that_the_training_used(
    predictor, joined, pixels, recipe, has_levels
):
    provenance = {"training_images": {}, "recipe": recipe}
    trained = joined(predictor.detector, provenance=provenance)

    found = efficientad.calibrate(trained, list(pixels))

    assert [
        scale.levels is not None for scale in found.calibration.scales.values()
    ] == [has_levels] * 2


def test_calibration_needs_images_and_networks(predictor, pixels, exported):
    with pytest.raises(DatasetError, match="calibration needs normal images"):
        fit_calibration(predictor.engine, pixels[:0])
    with pytest.raises(ConfigError, match="needs a detector file, got an exported"):
        efficientad.calibrate(exported["onnxruntime"], list(pixels))


class Bright:
    """Its maps are those of the noise in the picture, its composition the brightness.

    Args:
        sensitivity: Distance for each gray level away from the middle.
    """

    is_concurrent = True
    precision: Precision = "fp32"
    device: Literal["cpu"] = "cpu"

    def __init__(self, sensitivity):
        self.sensitivity = sensitivity

    def run(self, pixels):
        """Compute two maps and the composition."""
        small = pixels[:, ::4, ::4, 0][:, :56, :56].astype(np.float32)
        centered = small - small.mean((1, 2), keepdims=True)
        grids = np.square(centered) + 1
        distance = self.sensitivity * abs(pixels.mean((1, 2, 3)) - 128) + 1e-3
        values = distance.astype(np.float32)[:, None]
        return EngineOutput(
            {"local": grids, "global": grids}, {"cells": values, COMPOSITION: values}
        )


@pytest.fixture
def whole_session(monkeypatch):
    """All changes, each of eight images."""
    monkeypatch.setattr(second_session, "SESSION", SESSION)
    monkeypatch.setattr(second_session, "_N_IMAGES", 8)


@pytest.fixture(scope="module")
def gray_images():
    rng = np.random.default_rng(0)
    images = (
        128 + rng.normal(0, 4, (40, 256, 256, 1)) + rng.normal(0, 0.5, (40, 1, 1, 1))
    )
    return images.clip(0, 255).astype(np.uint8).repeat(3, 3)


@pytest.mark.usefixtures("whole_session")
def test_a_term_that_another_session_would_raise_gets_less_weight(gray_images):
    steady = fit_calibration(Bright(0), gray_images).terms
    sensitive = fit_calibration(Bright(1), gray_images).terms

    assert steady[COMPOSITION].slope == 0  # it never varies
    assert not sensitive  # 15 % of light are far beyond the light of these images


class Steady(Bright):
    """Its composition is the noise in a corner, which a second session hardly moves."""

    def run(self, pixels):
        """Compute two maps and the composition."""
        grids, _ = super().run(pixels)
        values = 5 + pixels[:, :8, :8].std((1, 2, 3)).astype(np.float32)[:, None]
        return EngineOutput(grids, {"cells": values, COMPOSITION: values})


def middle(values):
    """Half the width of the middle 68 %."""
    low, high = np.quantile(values, (0.1587, 0.8413))
    return (high - low) / 2


@pytest.mark.parametrize(("more_alarms", "weight"), [(1e9, 1.0), (0, 0.25)])
def test_a_term_that_varies_as_maps_do_counts_as_they_do(
    gray_images, monkeypatch, more_alarms, weight
):
    """With a smaller weight if it would give more alarms in a second session."""
    monkeypatch.setattr(fit_module, "_MORE_ALARMS", more_alarms)

    found = fit_calibration(Steady(1), gray_images)

    assert found.terms[COMPOSITION].slope > 0
    own = outputs(Steady(1), gray_images)
    points = found.terms[COMPOSITION].points(own.values[COMPOSITION][:, 0])
    maps = scores(replace(found, terms={}), own)
    assert middle(points) == pytest.approx(weight * middle(maps), rel=0.01)
    assert abs(points.mean()) < 0.1 * points.std()
    np.testing.assert_allclose(sorted(maps + points), found.normal_scores, rtol=1e-4)


def test_an_odd_training_image_hardly_moves_the_weight_of_a_term(
    gray_images, monkeypatch
):
    """Nor does it where its map is a hundred times as high as all others."""
    monkeypatch.setattr(fit_module, "_MORE_ALARMS", 1e9)
    engine = Steady(1)
    training = outputs(engine, gray_images[10:])
    odd = {name: grids.copy() for name, grids in training.grids.items()}
    for grids in odd.values():
        grids[0] *= 100

    slopes = [
        fit_calibration(engine, gray_images[:10], training=each).terms
        for each in (training, EngineOutput(odd, training.values))
    ]

    plain, with_it = (terms[COMPOSITION].slope for terms in slopes)
    assert with_it == pytest.approx(plain, rel=0.2)


@pytest.mark.usefixtures("whole_session")
def test_false_alarms_of_a_second_session_are_kept_by_kind(gray_images):
    found = fit_calibration(Bright(0), gray_images[:3])

    assert list(found.second_session) == list(CHANGES)
    assert {len(scores) for scores in found.second_session.values()} == {2 * 3}
    assert set(found.session_alarms()) == set(CHANGES)
    everything = replace(found, given_threshold=-1e9).session_alarms()
    assert set(everything.values()) == {1.0}


def test_scores_of_training_images_count_if_they_are_like_those_of_held_out_ones(
    gray_images,
):
    engine = Bright(0)
    alike, easier = outputs(engine, gray_images[20:]), outputs(engine, gray_images[20:])
    easier.grids["local"][:] = easier.grids["global"][:] = 1

    with_them = fit_calibration(engine, gray_images[:20], training=alike)
    without = fit_calibration(engine, gray_images[:20], training=easier)

    assert len(with_them.training_scores) == 20
    assert without.training_scores == ()


def test_an_odd_held_out_image_is_named(gray_images, caplog):
    odd = gray_images[:15].copy()
    odd[3, 100:140, 100:140] = 0
    names = [f"{index}.png" for index in range(15)]

    fit_calibration(Bright(0), odd, names=names)

    assert "3.png has the score" in caplog.text
    assert (
        "look at it, and leave it out if it does not show a normal part" in caplog.text
    )
    assert caplog.text.count("has the score") == 1


@pytest.mark.usefixtures("whole_session")
def test_an_odd_held_out_image_does_not_raise_the_threshold_by_its_changes(gray_images):
    odd, engine = gray_images[:6].copy(), Bright(0)
    odd[3, 100:140, 100:140] = 0

    found = fit_calibration(engine, odd, training=outputs(engine, gray_images[6:]))

    assert {len(scores) for scores in found.second_session.values()} == {2 * 5}
    assert found.threshold < found.normal_scores[-1] / 2
