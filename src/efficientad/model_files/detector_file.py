"""One self-contained file for a trained detector, `part.ead`.

It holds the three networks, the teacher's channel statistics, the calibration (map
scales, held-out normal scores, threshold) and the provenance. `container` describes the
format: numbers and text, nothing that executes. No torch here.
"""

from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from efficientad.decisions.decision import Calibration
from efficientad.errors import ConfigError, ModelFileError
from efficientad.images.preparation import AS_IT_IS, Preparation
from efficientad.method.composition import CELLS, Composition
from efficientad.method.sizes import (
    PATCH_DESCRIPTION_NETWORKS,
    Conv,
    ModelSize,
    autoencoder_shapes,
    convolution_shapes,
    with_channels,
)
from efficientad.model_files import container
from efficientad.model_files.calibration_entry import (
    calibration_entry,
    has_later_entries,
    preparation_entries,
    read_calibration,
    read_preparation,
)
from efficientad.model_files.container import Arrays
from efficientad.model_files.json_text import read_provenance


class DetectorFile(NamedTuple):
    """The content of a detector file."""

    weights: Arrays
    """Weights and statistics of the networks, as `Detector.from_arrays` takes them."""
    size: ModelSize
    """The paper's S or M."""
    calibration: Calibration
    provenance: dict[str, Any]
    """How the detector came to be: settings, hashes, versions; JSON-like."""
    preparation: Preparation = AS_IT_IS
    """How images are read, aligned and resized."""


def write_detector(file: DetectorFile, path: Path) -> None:
    """Write a detector to one file, atomically.

    Raises:
        StorageError: If the file cannot be written; the previous file stays.
    """
    calibration = file.calibration
    content = {
        "size": file.size,
        "calibration": calibration_entry(calibration)
        | {"threshold": calibration.threshold},
        "calibration_statement": calibration.statement(),
        "provenance": file.provenance,
    }
    later = preparation_entries(file.preparation)
    composition = Composition.from_arrays(file.weights)
    of_student = composition is not None and composition.network == "student"
    is_later = later or has_later_entries(calibration) or of_student
    version = container.LATEST_VERSION if is_later else container.FORMAT_VERSION
    content |= later
    container.write(path, "detector", file.weights, content, version=version)


def read_detector(path: Path) -> DetectorFile:
    """Return the content of a detector file.

    Raises:
        ModelFileError: If the file is missing, truncated, foreign or of another
            version.
    """
    arrays, content = container.read(path, "detector")
    weights = {k: v.astype(np.float32, copy=False) for k, v in arrays.items()}
    try:
        size = content["size"]
        if size not in get_args(ModelSize):
            raise ConfigError(f"size {size!r}")
        calibration = read_calibration(content["calibration"])
        preparation = read_preparation(content)
        provenance = read_provenance(content.get("provenance", {}))
        shapes = {name: array.shape for name, array in weights.items()}
        expected = _shapes_of(weights, size)
        if not (weights["teacher_std"] > 0).all():
            raise ConfigError("teacher_std is not positive")
        if calibration.terms and Composition.from_arrays(weights) is None:
            raise ConfigError("a term without its Gaussian")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path} does not hold a complete detector (bad entry: {error}); train it "
            "again"
        ) from error
    if shapes != expected:
        raise ModelFileError(
            f"{path} does not hold the weights of a {size} detector; train it again"
        )
    return DetectorFile(weights, size, calibration, provenance, preparation)


def _shapes_of(weights: Arrays, size: ModelSize) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all arrays of a detector with as many channels.

    Raises:
        KeyError: If an array that says how many is missing.
    """
    layers = PATCH_DESCRIPTION_NETWORKS[size]
    n_layers = sum(isinstance(layer, Conv) for layer in layers)
    n_local = len(weights["teacher_mean"])
    n_global = len(weights["autoencoder.describe.bias"])
    shapes: dict[str, tuple[int, ...]] = {
        "teacher_mean": (n_local,),
        "teacher_std": (n_local,),
    }
    named = autoencoder_shapes(n_global)
    for network, n in (("teacher", n_local), ("student", n_local + n_global)):
        n_hidden = len(weights.get(f"{network}.convolutions.{n_layers - 2}.bias", ()))
        found = convolution_shapes(with_channels(layers, n, n_hidden))
        named |= {f"{network}.convolutions.{i}": s for i, s in enumerate(found)}
    for name, shape in named.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    composition = Composition.from_arrays(weights)
    if composition is not None:
        n = CELLS**2 * n_local
        axes = len(composition.axes), n
        shapes |= dict(zip(composition.arrays(), ((n,), (n,), axes), strict=True))
    return shapes
