"""What every test may ask for, and what holds for all of them."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

# The same examples in every run, and no deadline: a busy machine is not a failure.
settings.register_profile("repeatable", derandomize=True, deadline=None)
# Other examples in every run: HYPOTHESIS_PROFILE=exploring, for the night.
settings.register_profile("exploring", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked gpu on a machine without one."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


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
    """Make an untrained detector that can judge, for tests of how it runs."""
    import torch

    from efficientad.method.decision import Calibration, MapQuantiles
    from efficientad.method.detector import ChannelStatistics, Detector
    from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork

    def made(size="small"):
        torch.manual_seed(0)
        detector = Detector(
            PatchDescriptionNetwork(size),
            PatchDescriptionNetwork(size, 768),
            Autoencoder(),
            ChannelStatistics(torch.randn(384) * 0.01, torch.rand(384) * 0.05 + 0.02),
        )
        quantiles = MapQuantiles(0.5, 2.0)
        detector.calibration = Calibration(quantiles, quantiles, (0.1, 0.2), 0.01)
        return detector.eval().requires_grad_(requires_grad=False)

    return made
