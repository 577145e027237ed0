import numpy as np
import torch

from efficientad.images.rgb import INPUT_SIZE
from efficientad.method.maps import map_levels, map_quantiles
from efficientad.training.calibration import calibrate


def test_levels_reach_from_the_least_to_the_greatest_of_the_held_out_images(
    judging_detector, photograph
):
    pixels = np.stack([photograph(INPUT_SIZE, INPUT_SIZE, seed) for seed in range(3)])
    raw = judging_detector.judged_maps(torch.from_numpy(pixels))

    calibration = calibrate(judging_detector, pixels, divides_by_level=True)

    for raw_maps, quantiles in zip(
        raw, (calibration.local_quantiles, calibration.global_quantiles), strict=True
    ):
        levels = map_levels(raw_maps)
        assert quantiles.least_level == float(levels.min())
        assert quantiles.greatest_level == float(levels.max())
        own = map_quantiles(list((raw_maps / levels[:, None, None]).numpy()))
        np.testing.assert_allclose(
            (quantiles.low, quantiles.high), (own.low, own.high), rtol=1e-5
        )


def test_without_it_maps_are_compared_as_they_are(judging_detector, photograph):
    pixels = np.stack([photograph(INPUT_SIZE, INPUT_SIZE, seed) for seed in range(3)])
    raw = judging_detector.judged_maps(torch.from_numpy(pixels))

    calibration = calibrate(judging_detector, pixels)

    expected = map_quantiles(list(raw.local_map.numpy()))
    assert calibration.local_quantiles == expected
    assert calibration.local_quantiles.least_level is None
