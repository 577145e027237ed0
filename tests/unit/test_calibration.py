import numpy as np
import pytest

import efficientad
from efficientad.errors import ConfigError, DatasetError
from efficientad.images.rgb import INPUT_SIZE, image_hash
from efficientad.method.maps import fit_mean_and_deviation, fit_quantiles, map_levels
from efficientad.training.calibration import fit_calibration, outputs


@pytest.fixture(scope="module")
def pixels(photograph):
    return np.stack([photograph(INPUT_SIZE, INPUT_SIZE, seed) for seed in range(3)])


def test_levels_reach_from_the_least_to_the_greatest_of_the_held_out_images(
    predictor, pixels
):
    raw = outputs(predictor.engine, pixels).grids

    calibration = fit_calibration(predictor.engine, pixels, divides_by_level=True)

    assert list(calibration.scales) == list(raw) == ["local", "global"]
    for name, scale in calibration.scales.items():
        levels = map_levels(raw[name])
        assert scale.least_level == float(levels.min())
        assert scale.greatest_level == float(levels.max())
        own = fit_quantiles(raw[name] / levels[:, None, None])
        np.testing.assert_allclose(
            (scale.low, scale.high), (own.low, own.high), rtol=1e-5
        )


@pytest.mark.parametrize("fit", [fit_quantiles, fit_mean_and_deviation])
def test_without_it_maps_are_compared_as_they_are(predictor, pixels, fit):
    raw = outputs(predictor.engine, pixels).grids

    calibration = fit_calibration(predictor.engine, pixels, fit=fit)

    for name, scale in calibration.scales.items():
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
    assert found.detector is predictor.detector
    hashes = [image_hash(image) for image in pixels]
    assert list(found.provenance["validation_images"].values()) == hashes
    assert found.provenance["training_images"] == provenance["training_images"]
    assert (predictor.calibration, predictor.provenance) == (before, provenance)


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
