"""Raw maps by native layers against the plain networks."""

import copy
import threading

import numpy as np
import pytest
import torch

from efficientad.errors import ConfigError
from efficientad.inspection import opening as runtimes
from efficientad.kernels import layers, native
from efficientad.method.detector import Detector
from efficientad.model_files import detector_file as model_file
from efficientad_lab.benchmark.baseline import baseline, raw_maps

needs_compiler = pytest.mark.skipif(
    not layers.is_available(), reason="needs a C++ compiler for the native layers"
)
needs_bf16 = pytest.mark.skipif(
    not layers.is_available() or not layers.has_bf16(),
    reason="needs a processor with products in bf16",
)
# The largest difference of a map as a share of the value there.
TOLERANCE = 1e-4
BF16_TOLERANCE = 1e-2


@pytest.fixture(scope="module")
def detector(make_detector):
    return make_detector()


def noise(n):
    generator = torch.Generator().manual_seed(n)
    return torch.randint(
        0, 256, (n, 256, 256, 3), dtype=torch.uint8, generator=generator
    )


def extreme_images():
    black = np.zeros((256, 256, 3), np.uint8)
    white = np.full_like(black, 255)
    single = black.copy()
    single[128, 128] = 255
    stripes = black.copy()
    stripes[:, ::2] = 255
    return torch.from_numpy(np.stack([black, white, single, stripes]))


def assert_same(actual, expected, tolerance=TOLERANCE):
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=0)


@needs_compiler
@pytest.mark.parametrize("make", [lambda: noise(2), extreme_images])
def test_small_maps_are_those_of_the_plain_networks(detector, make):
    pixels = make()

    assert detector.is_native
    assert_same(detector.judged_maps(pixels), raw_maps(baseline(detector), pixels))


@needs_compiler
def test_medium_maps_are_those_of_the_plain_networks(make_detector):
    detector = make_detector("medium")
    pixels = noise(1)

    assert_same(detector.judged_maps(pixels), raw_maps(baseline(detector), pixels))


@needs_bf16
def test_medium_maps_in_bf16_are_near(make_detector):
    detector = make_detector("medium")
    pixels = torch.cat([noise(1), extreme_images()])
    exact = detector.judged_maps(pixels)
    detector.runtime = "native_bf16"

    rounded = detector.judged_maps(pixels)

    assert not torch.equal(rounded.local_map, exact.local_map)
    assert_same(rounded, exact, BF16_TOLERANCE)


@needs_compiler
def test_where_bf16_does_not_work_single_precision_stands_in(
    make_detector, monkeypatch, caplog
):
    detector = make_detector("medium")
    pixels = noise(1)
    exact = detector.judged_maps(pixels)
    monkeypatch.setattr(layers, "has_bf16", lambda: False)
    native.warn_once.cache_clear()
    detector.runtime = "native_bf16"

    for _ in range(2):
        assert_same(detector.judged_maps(pixels), exact, tolerance=0)

    (warning,) = caplog.messages
    assert "products in bf16 unavailable, using single precision" in warning
    assert detector.runtimes == ("native", "pytorch")


@needs_compiler
def test_the_small_networks_have_nothing_to_round(detector):
    pixels = noise(1)
    rounded = copy.deepcopy(detector)
    rounded.runtime = "native_bf16"

    assert_same(rounded.judged_maps(pixels), detector.judged_maps(pixels), tolerance=0)
    assert "native_bf16" not in detector.runtimes


@needs_compiler
def test_a_small_change_of_a_weight_would_be_noticed(detector):
    """Positive control of the comparison."""
    changed = copy.deepcopy(detector)
    changed.autoencoder.describe.bias.add_(0.02)
    pixels = noise(1)

    with pytest.raises(AssertionError):
        assert_same(changed.judged_maps(pixels), detector.judged_maps(pixels))


@needs_compiler
def test_weights_that_change_are_taken_up(detector):
    changed = copy.deepcopy(detector)
    pixels = noise(1)
    before = changed.judged_maps(pixels)
    changed.student.convolutions[2].weight.mul_(1.5)

    after = changed.judged_maps(pixels)

    assert not torch.allclose(after.local_map, before.local_map)
    changed.runtime = "pytorch"
    assert_same(after, changed.judged_maps(pixels))


@needs_compiler
def test_an_image_s_maps_do_not_depend_on_its_batch(detector):
    pixels = noise(6)

    together = detector.judged_maps(pixels)
    alone = detector.judged_maps(pixels[4:5])

    assert torch.equal(together.local_map[4], alone.local_map[0])
    assert torch.equal(together.global_map[4], alone.global_map[0])


@needs_compiler
def test_threads_may_share_a_detector(detector):
    images = [noise(n)[:1] for n in (1, 2)]
    expected = [detector.judged_maps(image).local_map for image in images]
    found: list[list[torch.Tensor]] = [[], []]

    def judge(index):
        for _ in range(5):
            found[index].append(detector.judged_maps(images[index]).local_map)

    threads = [threading.Thread(target=judge, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for one, maps in zip(expected, found, strict=True):
        assert len(maps) == 5
        assert all(torch.equal(one, m) for m in maps)


def test_without_native_layers_predictions_stay_the_same(detector, monkeypatch):
    image = noise(1)[0].numpy()
    native = detector.predict(image)
    monkeypatch.setattr(layers, "is_available", lambda: False)

    plain = detector.predict(image)

    # A tenth is where the high quantile of normal pixels lies.
    assert plain.image_score == pytest.approx(native.image_score, abs=1e-5)
    np.testing.assert_allclose(plain.local_grid, native.local_grid, atol=1e-3)


def test_other_devices_and_numbers_go_by_pytorch(make_detector):
    detector = make_detector()

    assert not copy.deepcopy(detector).double().is_native
    assert not detector.to("meta").is_native


@pytest.mark.parametrize("runtime", ["auto", "native", "native_bf16", "pytorch"])
def test_a_runtime_can_be_chosen(detector, tmp_path, runtime):
    path = tmp_path / "part.ead"
    model_file.save(detector, path)

    predictor = runtimes.load_predictor(path, device="cpu", runtime=runtime)

    assert isinstance(predictor, Detector)
    assert predictor.is_native == (runtime != "pytorch" and layers.is_available())


def test_native_layers_need_the_cpu(tmp_path):
    (tmp_path / "part.ead").touch()

    with pytest.raises(ConfigError, match="use --device cpu, or --runtime pytorch"):
        runtimes.load_predictor(tmp_path / "part.ead", device="cuda", runtime="native")
