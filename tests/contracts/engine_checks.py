"""What an engine and a predictor are, as checks that every one of them must pass.

As scikit-learn's `check_estimator` does: a new engine is done when these pass.
"""

from typing import get_args

import numpy as np

from efficientad.decisions.decision import Calibration
from efficientad.engines.engine import Engine, EngineOutput, Precision
from efficientad.images.rgb import INPUT_SIZE
from efficientad.inspection.prediction import Prediction
from efficientad.inspection.predictor import Predictor
from efficientad.method.maps import combine_maps, normalize_maps

_ALIKE = 1e-5  # batches may be summed in another order


def noise(n: int, seed: int = 0) -> np.ndarray:
    """Draw n images of the networks' size."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, INPUT_SIZE, INPUT_SIZE, 3), dtype=np.uint8)


def check_engine(engine: Engine) -> None:
    """Assert the contract of `engines.engine.Engine`."""
    assert isinstance(engine, Engine)
    assert engine.precision in get_args(Precision)
    assert engine.device in {"cpu", "cuda"}
    assert isinstance(engine.is_concurrent, bool)
    pixels = noise(2)
    before = pixels.copy()
    output = engine.run(pixels)
    check_output(output, n=2)
    np.testing.assert_array_equal(pixels, before)
    # Nothing of a call reaches into the next one's result, nor into an earlier one.
    kept = {name: grid.copy() for name, grid in output.grids.items()}
    engine.run(noise(2, seed=1))
    for name, grid in output.grids.items():
        np.testing.assert_array_equal(grid, kept[name])
    again = engine.run(pixels)
    assert list(again.grids) == list(output.grids)
    for name, grid in again.grids.items():
        np.testing.assert_array_equal(grid, kept[name])
    assert list(again.values) == list(output.values)
    for name, values in again.values.items():
        np.testing.assert_array_equal(values, output.values[name])
    # An image's grids are its own, whatever it is batched with.
    for index in range(2):
        alone = engine.run(pixels[index : index + 1])
        check_output(alone, n=1)
        for name, grid in alone.grids.items():
            scale = np.abs(kept[name]).max()
            np.testing.assert_allclose(
                grid[0], kept[name][index], rtol=0, atol=_ALIKE * scale
            )


def check_output(output: EngineOutput, n: int) -> None:
    """Assert what an engine gives for n images."""
    assert isinstance(output, EngineOutput)
    assert output.grids
    shapes = {grid.shape for grid in output.grids.values()}
    assert len(shapes) == 1
    (shape,) = shapes
    assert len(shape) == 3
    assert shape[0] == n
    for grid in output.grids.values():
        assert grid.dtype == np.float32
        assert np.isfinite(grid).all()
        assert grid.min() >= 0  # raw maps are means of squares
        assert grid.std() > 0
    for values in output.values.values():
        assert values.dtype == np.float32
        assert values.shape[0] == n


def check_predictor(predictor: Predictor) -> None:
    """Assert what every way to open a model gives."""
    assert type(predictor) is Predictor
    assert isinstance(predictor.engine, Engine)
    assert isinstance(predictor.calibration, Calibration)
    assert predictor.size in {"small", "medium"}
    assert "training_images" in predictor.provenance
    rng = np.random.default_rng(2)
    images = [
        rng.integers(0, 256, shape, dtype=np.uint8)
        for shape in ((90, 70, 3), (INPUT_SIZE, INPUT_SIZE, 3), (60, 300))
    ]
    found = predictor.predict_batch(images)
    assert predictor.predict_batch([]) == []
    assert len(found) == len(images)
    for image, prediction in zip(images, found, strict=True):
        check_prediction(predictor, prediction, image.shape[:2])
        alone = predictor.predict(image)
        np.testing.assert_allclose(
            alone.image_score, prediction.image_score, rtol=1e-4, atol=1e-5
        )


def check_prediction(
    predictor: Predictor, prediction: Prediction, size: tuple[int, ...]
) -> None:
    """Assert that score, decision and maps follow from the grids."""
    calibration = predictor.calibration
    assert list(prediction.grids) == list(calibration.scales)
    combined = combine_maps(prediction.grids)
    assert list(prediction.terms) == list(calibration.terms)
    score = combined.max()
    for points in prediction.terms.values():
        score = score + np.float32(points)
    assert prediction.image_score == score
    assert prediction.threshold == calibration.threshold
    assert prediction.is_anomalous == (prediction.image_score > calibration.threshold)
    assert prediction.p_value == calibration.p_value(prediction.image_score)
    assert prediction.anomaly_map.shape == size
    assert prediction.anomaly_map.dtype == np.float32
    assert prediction.anomaly_map.max() <= combined.max() + 1e-6
    for name in prediction.grids:
        assert prediction.map(name).shape == size


def check_same_calibration(one: Predictor, other: Predictor) -> None:
    """Assert that two ways to open a model decide alike on the same grids."""
    raw = {name: np.ones((1, 4, 4), np.float32) for name in one.calibration.scales}
    expected = normalize_maps(raw, one.calibration.scales)
    found = normalize_maps(raw, other.calibration.scales)
    for name, grid in expected.items():
        np.testing.assert_array_equal(grid, found[name])
    assert one.calibration.normal_scores == other.calibration.normal_scores
    assert one.calibration.threshold == other.calibration.threshold
