"""Detectors of random weights, for measurements in which weights do not matter."""

import torch

from efficientad.decisions.decision import Calibration
from efficientad.engines.names import DetectorEngine
from efficientad.inspection.opening import detector_engine
from efficientad.inspection.predictor import Predictor
from efficientad.method.detector import ChannelStatistics, Detector
from efficientad.method.maps import MapScale
from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork
from efficientad.method.sizes import DESCRIPTOR_CHANNELS, ModelSize
from efficientad.model_files.tensors import as_arrays


def random_detector(
    size: ModelSize,
    n_local: int = DESCRIPTOR_CHANNELS,
    n_global: int = DESCRIPTOR_CHANNELS,
    *,
    n_shared: int = 0,
) -> Detector:
    """Return an uncalibrated detector with the same random weights in every call.

    Args:
        size: The paper's S or M.
        n_local: Channels of the local map.
        n_global: Channels of the global map.
        n_shared: First layers that the student has in common with the teacher.
    """
    torch.manual_seed(0)
    n_hidden = DESCRIPTOR_CHANNELS
    std = torch.rand(n_local) * 0.05 + 0.02
    teacher = PatchDescriptionNetwork(size, n_local, n_hidden=n_hidden)
    student = PatchDescriptionNetwork(size, n_local + n_global, n_hidden=2 * n_hidden)
    detector = Detector(
        teacher,
        student,
        Autoencoder(n_global),
        ChannelStatistics(torch.randn(n_local) * 0.01, std),
    )
    for index in range(n_shared):
        weights = teacher.convolutions[index].state_dict()
        student.convolutions[index].load_state_dict(weights)
    return detector.requires_grad_(requires_grad=False)


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
