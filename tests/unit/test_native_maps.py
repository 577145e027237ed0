"""Raw maps by native layers against the plain networks."""

import copy
import subprocess
import sys
import threading

import numpy as np
import pytest

import efficientad
from efficientad.engines.native import NativeEngine
from efficientad.engines.pytorch import PyTorchEngine
from efficientad.errors import ConfigError
from efficientad.inspection.opening import detector_engine
from efficientad.kernels import layers, native
from efficientad_lab.benchmark.baseline import BaselineEngine
from efficientad_lab.benchmark.candidates import available_engines

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


def native_engine(detector, name="native"):
    engine = detector_engine(detector, name)
    assert isinstance(engine, NativeEngine)
    return engine


def noise(n):
    rng = np.random.default_rng(n)
    return rng.integers(0, 256, (n, 256, 256, 3), dtype=np.uint8)


def extreme_images():
    black = np.zeros((256, 256, 3), np.uint8)
    white = np.full_like(black, 255)
    single = black.copy()
    single[128, 128] = 255
    stripes = black.copy()
    stripes[:, ::2] = 255
    return np.stack([black, white, single, stripes])


def maps_of(engine, pixels):
    return engine.run(pixels).grids


def assert_same(actual, expected, tolerance=TOLERANCE):
    assert list(actual) == list(expected) == ["local", "global"]
    for name, grids in actual.items():
        np.testing.assert_allclose(grids, expected[name], rtol=tolerance, atol=0)


@needs_compiler
@pytest.mark.parametrize("make", [lambda: noise(2), extreme_images])
def test_small_maps_are_those_of_the_plain_networks(detector, make):
    pixels = make()

    found = maps_of(native_engine(detector), pixels)

    assert_same(found, maps_of(BaselineEngine(detector), pixels))


@needs_compiler
def test_medium_maps_are_those_of_the_plain_networks(make_detector):
    detector = make_detector("medium")
    pixels = noise(1)

    found = maps_of(native_engine(detector), pixels)

    assert_same(found, maps_of(BaselineEngine(detector), pixels))


def with_shared_layers(detector, n):
    """Return a copy whose student has the first layers of its teacher."""
    other = copy.deepcopy(detector)
    pairs = zip(other.student.convolutions, other.teacher.convolutions, strict=True)
    for own, given in list(pairs)[:n]:
        own.load_state_dict(given.state_dict())
    return other


@needs_compiler
@pytest.mark.parametrize(
    ("size", "n"),
    [
        *(("small", n) for n in (1, 2, 3)),
        pytest.param("medium", 2, marks=pytest.mark.slow),
    ],
)
def test_layers_that_both_networks_have_are_computed_once(make_detector, size, n):
    detector = with_shared_layers(make_detector(size), n)
    pixels = noise(1)
    engine = native_engine(detector)

    found = maps_of(engine, pixels)

    assert_same(found, maps_of(BaselineEngine(detector), pixels))
    n_alone = sum(len(layers) == 1 for layers in engine._networks._layers)
    assert n_alone == min(n, 2) + 1


@needs_bf16
def test_medium_maps_in_bf16_are_near(make_detector):
    detector = make_detector("medium")
    pixels = np.concatenate([noise(1), extreme_images()])
    exact = maps_of(native_engine(detector), pixels)
    engine = native_engine(detector, "native_bf16")

    rounded = maps_of(engine, pixels)

    assert engine.precision == "bf16"
    assert not np.array_equal(rounded["local"], exact["local"])
    assert_same(rounded, exact, BF16_TOLERANCE)


@needs_compiler
def test_where_bf16_does_not_work_single_precision_stands_in(
    make_detector, monkeypatch, caplog
):
    detector = make_detector("medium")
    pixels = noise(1)
    exact = maps_of(native_engine(detector), pixels)
    monkeypatch.setattr(layers, "has_bf16", lambda: False)
    native.warn_once.cache_clear()

    for _ in range(2):
        engine = detector_engine(detector, "native_bf16")
        assert engine.precision == "fp32"
    assert_same(maps_of(engine, pixels), exact, tolerance=0)

    (warning,) = caplog.messages
    assert "products in bf16 unavailable, using single precision" in warning
    assert available_engines(detector) == ("native", "pytorch")


@needs_compiler
def test_the_small_networks_have_nothing_to_round(detector):
    pixels = noise(1)
    rounded = native_engine(detector, "native_bf16")

    found = maps_of(rounded, pixels)

    assert_same(found, maps_of(native_engine(detector), pixels), tolerance=0)
    assert rounded.precision == "fp32"
    assert "native_bf16" not in available_engines(detector)


@needs_compiler
def test_a_small_change_of_a_weight_would_be_noticed(detector):
    """Positive control of the comparison."""
    changed = copy.deepcopy(detector)
    changed.autoencoder.describe.bias.add_(0.02)
    pixels = noise(1)
    found, expected = (maps_of(native_engine(d), pixels) for d in (changed, detector))

    with pytest.raises(AssertionError):
        assert_same(found, expected)


@needs_compiler
def test_weights_that_change_later_do_not_count(detector):
    """An engine transforms the weights once; PyTorch runs them as they are."""
    changing = copy.deepcopy(detector)
    pixels = noise(1)
    engine, plain = native_engine(changing), PyTorchEngine(changing)
    before = maps_of(engine, pixels)
    for value in changing.state_dict().values():
        value.mul_(1.5)

    assert_same(maps_of(engine, pixels), before, tolerance=0)
    found = maps_of(native_engine(changing), pixels)
    assert_same(found, maps_of(plain, pixels))
    assert not np.allclose(found["local"], before["local"])


@needs_compiler
def test_an_image_s_maps_do_not_depend_on_its_batch(detector):
    pixels = noise(6)
    engine = native_engine(detector)

    together = maps_of(engine, pixels)
    alone = maps_of(engine, pixels[4:5])

    for name, grids in together.items():
        np.testing.assert_array_equal(grids[4], alone[name][0])


@needs_compiler
def test_threads_may_share_an_engine(detector):
    engine = native_engine(detector)
    images = [noise(n)[:1] for n in (1, 2)]
    expected = [maps_of(engine, image)["local"] for image in images]
    found: list[list[np.ndarray]] = [[], []]

    def run(index):
        for _ in range(5):
            found[index].append(maps_of(engine, images[index])["local"])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert engine.is_concurrent
    assert not np.array_equal(*expected)
    for one, maps in zip(expected, found, strict=True):
        assert len(maps) == 5
        assert all(np.array_equal(one, m) for m in maps)


@needs_compiler
def test_without_native_layers_predictions_stay_the_same(detector, joined, monkeypatch):
    image = noise(1)[0]
    fast = joined(detector, engine="auto")
    assert isinstance(fast.engine, NativeEngine)
    expected = fast.predict(image)
    monkeypatch.setattr(layers, "is_available", lambda: False)

    plain = joined(detector, engine="auto")
    found = plain.predict(image)

    assert isinstance(plain.engine, PyTorchEngine)
    # A tenth is where the high quantile of normal pixels lies.
    assert found.image_score == pytest.approx(expected.image_score, abs=1e-5)
    np.testing.assert_allclose(found.grids["local"], expected.grids["local"], atol=1e-3)


@needs_compiler
@pytest.mark.parametrize("widths", [(17, 13), (32, 13), (17, 32)])
def test_channels_that_fill_no_panel_go_by_pytorch(make_detector, widths, caplog):
    odd = make_detector("small", *widths)
    native.warn_once.cache_clear()

    engine = detector_engine(odd, "native")

    assert isinstance(engine, PyTorchEngine)
    assert "they take other numbers of channels than this detector" in caplog.text
    arrays = {name: value.numpy() for name, value in odd.state_dict().items()}
    with pytest.raises(ConfigError, match="channels in multiples of"):
        NativeEngine(arrays, "small")


@needs_compiler
def test_other_devices_and_numbers_go_by_pytorch(detector):
    double, elsewhere = (copy.deepcopy(detector) for _ in range(2))

    for other in (double.double(), elsewhere.to("meta")):
        assert isinstance(detector_engine(other, "native"), PyTorchEngine)
        assert available_engines(other) == ("pytorch",)
    assert available_engines(detector)[0] == "native"


@pytest.mark.parametrize("engine", ["auto", "native", "native_bf16", "pytorch"])
def test_an_engine_can_be_chosen(detector, joined, tmp_path, engine):
    path = tmp_path / "part.ead"
    efficientad.save(joined(detector), path)

    predictor = efficientad.load(path, device="cpu", engine=engine)

    is_native = engine != "pytorch" and layers.is_available()
    assert isinstance(predictor.engine, NativeEngine if is_native else PyTorchEngine)
    assert predictor.precision == "fp32"


@pytest.mark.parametrize("engine", ["native", "native_bf16"])
def test_native_layers_need_the_cpu(tmp_path, engine):
    (tmp_path / "part.ead").touch()

    with pytest.raises(ConfigError, match="use --device cpu, or --engine pytorch"):
        efficientad.load(tmp_path / "part.ead", device="cuda", engine=engine)


IN_A_CHILD = """
import multiprocessing, sys
import numpy as np
import efficientad

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)

def score(path, result):
    result.put(efficientad.load(path, n_threads=2).predict(IMAGE).image_score)

def score_of(predictor, result):
    result.put(predictor.predict(IMAGE).image_score)

if __name__ == "__main__":
    method, path = sys.argv[1:]
    predictor = efficientad.load(path, n_threads=2)
    before = predictor.predict(IMAGE).image_score
    context = multiprocessing.get_context(method)
    result = context.SimpleQueue()
    of_parent = (predictor, result) if method == "fork" else (path, result)
    target = score_of if method == "fork" else score
    child = context.Process(target=target, args=of_parent)
    child.start()
    assert result.get() == before
    child.join()
    assert predictor.predict(IMAGE).image_score == before
    assert "torch" not in sys.modules
"""


@needs_compiler
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_process_predicts_as_its_parent_does(
    detector, joined, tmp_path, method
):
    efficientad.save(joined(detector), tmp_path / "part.ead")
    script = tmp_path / "script.py"
    script.write_text(IN_A_CHILD)

    done = subprocess.run(
        [sys.executable, script, method, tmp_path / "part.ead"],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert done.returncode == 0, done.stderr
