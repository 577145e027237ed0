"""One self-contained file for a trained detector, `part.ead`.

It holds the three networks, the teacher's channel statistics, the calibration (map
scales, held-out normal scores, threshold) and the provenance. `container` describes the
format: numbers and text, nothing that executes.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from efficientad.errors import ConfigError, ModelFileError
from efficientad.method.composition import Composition
from efficientad.method.decision import Calibration
from efficientad.method.detector import ChannelStatistics, Detector
from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork
from efficientad.method.sizes import PATCH_DESCRIPTION_NETWORKS, Conv, ModelSize
from efficientad.model_files import container
from efficientad.model_files.calibration_entry import read_calibration


class DetectorFile(NamedTuple):
    """The content of a detector file."""

    detector: Detector
    calibration: Calibration
    provenance: dict[str, Any]
    """How the detector came to be: settings, hashes, versions; JSON-like."""


def write_detector(file: DetectorFile, path: Path) -> None:
    """Write a detector to one file, atomically.

    Raises:
        StorageError: If the file cannot be written; the previous file stays.
    """
    detector, calibration, provenance = file
    entry = asdict(calibration) | {"threshold": calibration.threshold}
    content = {
        "size": detector.size,
        "calibration": entry,
        "calibration_statement": calibration.statement(),
        "provenance": provenance,
    }
    container.write(path, "detector", detector.state_dict(), content)


def read_detector(path: Path) -> DetectorFile:
    """Return the content of a detector file; networks on the CPU, for evaluation.

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
    """Return a detector of the stored size, its networks as wide as their weights.

    Raises:
        KeyError, ValueError: If size, statistics or autoencoder are missing or wrong.
        RuntimeError: If the weights are those of another size.
    """
    size = content["size"]
    if size not in get_args(ModelSize):
        raise ConfigError(f"size {size!r}")
    blank = torch.zeros(len(tensors["teacher_mean"]))
    n_global = len(tensors["autoencoder.describe.bias"])
    n_layers = sum(isinstance(x, Conv) for x in PATCH_DESCRIPTION_NETWORKS[size])
    networks = []
    for name in ("teacher", "student"):
        biases = [f"{name}.convolutions.{n_layers - n}.bias" for n in (2, 1)]
        if not all(bias in tensors for bias in biases):
            raise RuntimeError(f"needed {' and '.join(biases)}")
        n_hidden, n_channels = (len(tensors[bias]) for bias in biases)
        network = PatchDescriptionNetwork(size, n_channels, n_hidden=n_hidden)
        networks.append(network)
    teacher, student = networks
    if student.n_channels != len(blank) + n_global:
        raise ConfigError(f"{student.n_channels} channels of the student")
    statistics = ChannelStatistics(blank, blank.clone())
    detector = Detector(teacher, student, Autoencoder(n_global), statistics)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    composition = Composition.from_arrays(arrays)
    if composition is not None:
        detector.set_composition(composition)
    detector.load_state_dict(tensors)
    return detector.requires_grad_(requires_grad=False)
