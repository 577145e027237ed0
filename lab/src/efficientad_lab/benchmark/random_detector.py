"""Detectors of random weights, for measurements in which weights do not matter."""

import torch

from efficientad.engines.names import DetectorEngine
from efficientad.inspection.opening import detector_engine
from efficientad.inspection.predictor import Predictor
from efficientad.method.decision import Calibration
from efficientad.method.detector import ChannelStatistics, Detector
from efficientad.method.maps import MapScale
from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork
from efficientad.method.sizes import DESCRIPTOR_CHANNELS, ModelSize
from efficientad.model_files.tensors import as_arrays


def random_detector(
    size: ModelSize,
    n_local: int = DESCRIPTOR_CHANNELS,
    n_global: int = DESCRIPTOR_CHANNELS,
) -> Detector:
    """Return an uncalibrated detector with the same random weights in every call."""
    torch.manual_seed(0)
    n_hidden = DESCRIPTOR_CHANNELS
    std = torch.rand(n_local) * 0.05 + 0.02
    return Detector(
        PatchDescriptionNetwork(size, n_local, n_hidden=n_hidden),
        PatchDescriptionNetwork(size, n_local + n_global, n_hidden=2 * n_hidden),
        Autoencoder(n_global),
        ChannelStatistics(torch.randn(n_local) * 0.01, std),
    ).requires_grad_(requires_grad=False)


def calibrated(detector: Detector, engine: DetectorEngine = "auto") -> Predictor:
    """Return a predictor of the detector with a calibration of round numbers."""
    scales = dict.fromkeys(("local", "global"), MapScale(0.5, 1.0))
    return Predictor(
        engine=detector_engine(detector, engine),
        calibration=Calibration(scales, (0.1,)),
        provenance={"training_images": {}},
        size=detector.size,
        weights=as_arrays(detector.state_dict()),
    )
