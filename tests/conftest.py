"""What every test may ask for, and what holds for all of them."""

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

# Types and shapes are checked under pytest only; in production they cost nothing. As
# for type checkers, an int may stand where a float is asked for.
install_import_hook(
    ["efficientad", "efficientad_lab"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

# The same examples in every run, and no deadline: a busy machine is not a failure.
settings.register_profile("repeatable", derandomize=True, deadline=None)
# Other examples in every run: HYPOTHESIS_PROFILE=exploring, for the night.
settings.register_profile("exploring", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Skip the tests marked gpu on a machine without one, and unasked fresh ones."""
    if "fresh" not in config.getoption("markexpr"):
        for item in items:
            if item.get_closest_marker("fresh"):
                item.add_marker(pytest.mark.skip(reason="run by `make fresh`"))
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def handled_interrupt():
    """As in a terminal; what a shell runs in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True, scope="session")
def few_images_after_training():
    """For the axes, the composition and the second session, which take most time."""
    from efficientad.calibration import composition, second_session
    from efficientad.images.changes import SESSION
    from efficientad.training import principal_axes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(principal_axes, "_N_IMAGES", 2)
        patch.setattr(composition, "_MAX_CHANGES", 1)
        patch.setattr(second_session, "SESSION", SESSION[:3])
        patch.setattr(second_session, "_N_IMAGES", 1)
        yield


@pytest.fixture(autouse=True, scope="session")
def one_image_compared():
    """Exports are compared on noise alone; `every_artificial_image` undoes that."""
    from efficientad.exports import comparison

    every = comparison.artificial_images
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "artificial_images", lambda: every()[3:4])
        yield every


@pytest.fixture
def every_artificial_image(one_image_compared, monkeypatch):
    """Exports are compared on all artificial images, as in use."""
    from efficientad.exports import comparison

    monkeypatch.setattr(comparison, "artificial_images", one_image_compared)


@pytest.fixture(scope="module")
def one_thread():
    """For work so small that threads mostly wait; on a busy machine they do so long."""
    import torch

    n_before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_before)


@pytest.fixture
def rng() -> np.random.Generator:
    """The same random numbers in every run of a test."""
    return np.random.default_rng(20240104)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images, where the machine has them."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the real images in {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def make_detector():
    """Make the untrained networks of a detector."""
    import torch

    from efficientad.method.detector import ChannelStatistics, Detector
    from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork

    def made(size="small", n_local=384, n_global=384):
        torch.manual_seed(0)
        detector = Detector(
            PatchDescriptionNetwork(size, n_local, n_hidden=384),
            PatchDescriptionNetwork(size, n_local + n_global, n_hidden=768),
            Autoencoder(n_global),
            ChannelStatistics(
                torch.randn(n_local) * 0.01, torch.rand(n_local) * 0.05 + 0.02
            ),
        )
        return detector.eval().requires_grad_(requires_grad=False)

    return made


@pytest.fixture(scope="session")
def joined():
    """Join networks and a calibration in a predictor."""
    from efficientad.decisions.decision import Calibration
    from efficientad.inspection.opening import detector_engine
    from efficientad.inspection.predictor import Predictor
    from efficientad.method.maps import MapScale
    from efficientad.model_files.tensors import as_arrays

    scales = dict.fromkeys(("local", "global"), MapScale(0.5, 2.0))
    untrained = Calibration(scales, (0.1, 0.2), 0.01)

    def made(detector, calibration=untrained, engine="auto", provenance=None):
        return Predictor(
            engine=detector_engine(detector, engine),
            calibration=calibration,
            provenance={"training_images": {}} if provenance is None else provenance,
            size=detector.size,
            weights=as_arrays(detector.state_dict()),
        )

    return made


@pytest.fixture(scope="session")
def photograph():
    """Draw images with smooth and noisy parts, as in a photograph."""
    from PIL import Image

    def drawn(height, width, seed=0):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((width, height)), np.int16)
        noise = rng.integers(-20, 21, smooth.shape)
        return np.clip(smooth + noise, 0, 255).astype(np.uint8)

    return drawn


@pytest.fixture(scope="session")
def predictor(make_detector, calibrated):
    """An untrained predictor whose maps are scaled as a trained one's."""
    return calibrated(make_detector())


@pytest.fixture(scope="session")
def calibrated(photograph, joined):
    """Join an untrained detector with scales as a trained one's."""
    from efficientad.decisions.decision import Calibration
    from efficientad.images.rgb import INPUT_SIZE
    from efficientad.inspection.opening import detector_engine
    from efficientad.method.maps import MapScale, map_levels

    pixels = photograph(INPUT_SIZE, INPUT_SIZE)[np.newaxis]

    def scale(raw):
        level = float(map_levels(raw)[0])
        low, high = np.quantile(raw / level, (0.5, 0.95)).tolist()
        # Other images of the tests lie within these limits and beyond them.
        return MapScale(low, high, least_level=0.9 * level, greatest_level=1.1 * level)

    def with_calibration(detector):
        raw = detector_engine(detector).run(pixels).grids
        scales = {name: scale(grids) for name, grids in raw.items()}
        return joined(detector, Calibration(scales, (0.1, 0.15, 0.2), 0.3))

    return with_calibration


@pytest.fixture(scope="session")
def exports(predictor, tmp_path_factory):
    """That predictor exported in both formats, by engine."""
    import efficientad

    folder = tmp_path_factory.mktemp("exports")
    found = {
        "onnxruntime": folder / "part.onnx",
        "openvino": folder / "part.xml",
    }
    for path in found.values():
        efficientad.export(predictor, path)
    return found


@pytest.fixture(scope="session")
def exported(exports):
    """These, opened, by engine."""
    import efficientad

    return {name: efficientad.load(path) for name, path in exports.items()}


@pytest.fixture(scope="session")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source network's file with random weights."""
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("source") / "resnet18.safetensors"
    save_file(_random_resnet18(), path)
    return path


def _random_resnet18() -> "dict[str, Tensor]":
    """Stem to `layer3`, names as in torchvision's file."""
    import torch

    generator = torch.Generator().manual_seed(0)
    weights: dict[str, Tensor] = {}

    def add(convolution: str, norm: str, n_in: int, n_out: int, kernel: int) -> None:
        shape = (n_out, n_in, kernel, kernel)
        scale = (2 / (n_in * kernel**2)) ** 0.5
        weights[f"{convolution}.weight"] = (
            torch.randn(shape, generator=generator) * scale
        )
        weights[f"{norm}.bias"] = torch.zeros(n_out)
        weights[f"{norm}.running_mean"] = torch.zeros(n_out)
        weights[f"{norm}.weight"] = torch.ones(n_out)
        weights[f"{norm}.running_var"] = torch.ones(n_out)

    add("conv1", "bn1", 3, 64, 7)
    for layer, (n_in, n_out) in enumerate([(64, 64), (64, 128), (128, 256)], start=1):
        for block, first in enumerate((n_in, n_out)):
            prefix = f"layer{layer}.{block}"
            add(f"{prefix}.conv1", f"{prefix}.bn1", first, n_out, 3)
            add(f"{prefix}.conv2", f"{prefix}.bn2", n_out, n_out, 3)
        if n_in != n_out:
            prefix = f"layer{layer}.0.downsample"
            add(f"{prefix}.0", f"{prefix}.1", n_in, n_out, 1)
    return weights
