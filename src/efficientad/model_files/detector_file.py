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
from efficientad.method.composition import CELLS, Composition
from efficientad.method.decision import Calibration
from efficientad.method.detector import ChannelStatistics, Detector
from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork
from efficientad.method.sizes import PATCH_DESCRIPTION_NETWORKS, Conv, ModelSize
from efficientad.model_files import container
from efficientad.model_files.calibration_entry import read_calibration
from efficientad.model_files.provenance_entry import read_provenance


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
        detector = _detector(tensors, content["size"])
        calibration = read_calibration(content["calibration"])
        if calibration.terms and detector.composition is None:
            raise ConfigError("a term without its Gaussian")
        provenance = read_provenance(content.get("provenance", {}))
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
    return DetectorFile(detector.eval(), calibration, provenance)


def _detector(tensors: dict[str, Tensor], size: Any) -> Detector:
    """Return a detector of a size, an unchecked value, as wide as the stored weights.

    Raises:
        KeyError, TypeError, ValueError: If size, statistics or autoencoder are missing
            or wrong.
        RuntimeError: If the weights are those of another size.
    """
    if size not in get_args(ModelSize):
        raise ConfigError(f"size {size!r}")
    blank = torch.zeros(len(tensors["teacher_mean"]))
    n_global = len(tensors["autoencoder.describe.bias"])
    n_layers = sum(isinstance(x, Conv) for x in PATCH_DESCRIPTION_NETWORKS[size])
    networks = []
    # Networks without memory: the file may ask for any width.
    with torch.device("meta"):
        for name in ("teacher", "student"):
            biases = [f"{name}.convolutions.{n_layers - n}.bias" for n in (2, 1)]
            if not all(bias in tensors for bias in biases):
                raise RuntimeError(f"needed {' and '.join(biases)}")
            n_hidden, n_channels = (len(tensors[bias]) for bias in biases)
            network = PatchDescriptionNetwork(size, n_channels, n_hidden=n_hidden)
            networks.append(network)
        autoencoder = Autoencoder(n_global)
    teacher, student = networks
    if student.n_channels != len(blank) + n_global:
        raise ConfigError(f"{student.n_channels} channels of the student")
    statistics = ChannelStatistics(blank, blank)
    detector = Detector(teacher, student, autoencoder, statistics)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    composition = Composition.from_arrays(arrays)
    if composition is not None:
        composition.require_length(CELLS**2 * len(blank))
        detector.set_composition(composition)
    detector.load_state_dict({k: v.float() for k, v in tensors.items()}, assign=True)
    if not (detector.teacher_std > 0).all():
        raise ConfigError("teacher_std is not positive")
    return detector.requires_grad_(requires_grad=False)
