"""One self-contained file for a trained detector, `part.ead`.

It holds the three networks, the teacher's channel statistics, the calibration (map
scales, held-out normal scores, threshold) and the provenance. `container` describes the
format: numbers and text, nothing that executes.
"""

from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from efficientad.errors import ConfigError, ModelFileError
from efficientad.method.decision import Calibration
from efficientad.method.detector import ChannelStatistics, Detector
from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork
from efficientad.method.sizes import PATCH_DESCRIPTION_NETWORKS, Conv, ModelSize
from efficientad.model_files import container
from efficientad.model_files.calibration_entry import (
    calibration_entry,
    read_calibration,
)


class DetectorFile(NamedTuple):
    """The content of a detector file."""

    detector: Detector
    calibration: Calibration
    provenance: dict[str, Any]
    """How the detector came to be: settings, hashes, versions; JSON-like."""


def write_detector(file: DetectorFile, path: Path) -> None:
    """Write a detector to one file, atomically.

    Raises:
        StorageError: If the file cannot be written; what stood there stays.
    """
    detector, calibration, provenance = file
    entry = calibration_entry(calibration) | {"threshold": calibration.threshold}
    content = {
        "size": detector.size,
        "calibration": entry,
        "calibration_statement": calibration.statement(),
        "provenance": provenance,
    }
    container.write(path, "detector", detector.state_dict(), content)


def read_detector(path: Path) -> DetectorFile:
    """Read a detector file; the networks are on the CPU, in evaluation mode.

    Raises:
        ModelFileError: If the file is missing, truncated, foreign or of another
            version.
    """
    tensors, content = container.read(path, "detector")
    try:
        detector = _detector(tensors, content)
        calibration = read_calibration(content["calibration"])
    except RuntimeError as error:
        raise ModelFileError(
            f"{path} does not hold the weights of a {content['size']} detector; train "
            "it again"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path} does not hold a complete detector (bad entry: {error}); train it "
            "again"
        ) from error
    return DetectorFile(detector.eval(), calibration, content.get("provenance", {}))


def _detector(tensors: dict[str, Tensor], content: dict[str, Any]) -> Detector:
    size = content["size"]
    if size not in get_args(ModelSize):
        raise ConfigError(f"size {size!r}")
    blank = torch.zeros(len(tensors["teacher_mean"]))
    student = _network(size, tensors, "student")
    n_global = len(tensors["autoencoder.describe.bias"])
    if student.n_channels != len(blank) + n_global:
        raise ConfigError(f"{student.n_channels} channels of the student")
    detector = Detector(
        _network(size, tensors, "teacher"),
        student,
        Autoencoder(n_global),
        ChannelStatistics(blank, blank.clone()),
    )
    detector.load_state_dict(tensors)
    return detector.requires_grad_(requires_grad=False)


def _network(
    size: ModelSize, tensors: dict[str, Tensor], name: str
) -> PatchDescriptionNetwork:
    """Return a network as wide as its weights are.

    Raises:
        RuntimeError: If they are of another size, as PyTorch does.
    """
    layers = PATCH_DESCRIPTION_NETWORKS[size]
    last = sum(isinstance(layer, Conv) for layer in layers) - 1
    names = [f"{name}.convolutions.{index}.bias" for index in (last - 1, last)]
    if not all(name in tensors for name in names):
        raise RuntimeError(f"needed {' and '.join(names)}")
    n_hidden, n_channels = (len(tensors[name]) for name in names)
    return PatchDescriptionNetwork(size, n_channels, n_hidden=n_hidden)
