"""One self-contained file for a trained detector, `part.ead`.

It holds the three networks, the teacher's channel statistics, the calibration (map
quantiles, held-out normal scores, threshold) and how it all came to be. See
`tensor_file` for the container: numbers and text, nothing that executes.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from efficientad.datasets import normal_image_paths, require_disjoint
from efficientad.errors import ConfigError, ModelFileError, NotCalibratedError
from efficientad.images.rgb import ImageLike
from efficientad.method.decision import Calibration, MapQuantiles
from efficientad.method.detector import ChannelStatistics, Detector
from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork
from efficientad.method.sizes import PATCH_DESCRIPTION_NETWORKS, Conv, ModelSize
from efficientad.model_files import container as tensor_file
from efficientad.training.calibration import calibrate
from efficientad.training.config import Device
from efficientad.training.devices import choose_device
from efficientad.training.normal_images import read_normal_images, without_twins


def save(detector: Detector, path: str | Path) -> None:
    """Write a detector to one file, atomically.

    Raises:
        NotCalibratedError: If the detector has no calibration.
        StorageError: If the file cannot be written; what stood there stays.
    """
    calibration = detector.calibration
    if calibration is None:
        raise NotCalibratedError(
            "only a calibrated detector can be saved: call calibrate first"
        )
    content = {
        "size": detector.size,
        "calibration": asdict(calibration) | {"threshold": calibration.threshold},
        "calibration_statement": calibration.statement(),
        "provenance": detector.provenance,
    }
    tensor_file.write(Path(path), "detector", detector.state_dict(), content)


def load(path: str | Path, *, device: Device = "auto") -> Detector:
    """Read a detector from its file.

    Args:
        path: A file `save` or `efficientad train` wrote.
        device: Where the networks shall run.

    Raises:
        ModelFileError: If the file is missing, truncated, foreign or of another
            version.
        ConfigError: If the device is not there.
    """
    path = Path(path)
    tensors, content = tensor_file.read(path, "detector")
    try:
        detector = _detector(tensors, content)
        detector.calibration = _calibration(content["calibration"])
    except RuntimeError as error:
        raise ModelFileError(
            f"{path} does not hold the weights of a {content['size']} detector; train "
            "it again"
        ) from error
    except (KeyError, TypeError, ConfigError) as error:
        raise ModelFileError(
            f"{path} does not hold a complete detector (bad entry: {error}); train it "
            "again"
        ) from error
    detector.provenance = content.get("provenance", {})
    return detector.to(choose_device(device)).eval()


def recalibrate(
    detector: Detector,
    images: Path | str | Sequence[ImageLike],
    false_alarm_budget: float = 0.01,
    threshold: float | None = None,
) -> Detector:
    """Calibrate a trained detector on other normal images; the networks stay.

    Args:
        detector: Changed in place, and returned.
        images: Folder of normal images, or images, none of them trained on; copies of
            one count once.
        false_alarm_budget: Share of normal images that may be flagged, in (0, 1).
        threshold: Decision threshold to set by hand. None: derived from the images.

    Raises:
        DatasetError: If there are no images, or if some were trained on.
    """
    if isinstance(images, (str, Path)):
        images, _ = normal_image_paths(Path(images), min_images=1)
    normal = without_twins(read_normal_images(images))
    trained_on = detector.provenance.get("training_images", {})
    require_disjoint(normal.hash_of_name, trained_on)
    recipe = detector.provenance.get("recipe", {})
    recipe = {**recipe, **(recipe.get("quick") or {})}  # earlier files: a part apart
    calibration = calibrate(
        detector,
        normal.pixels,
        false_alarm_budget=false_alarm_budget,
        divides_by_level=recipe.get("divides_by_level", False),
    )
    detector.calibration = replace(calibration, given_threshold=threshold)
    used = {"validation_images": normal.hash_of_name}
    detector.provenance = {**detector.provenance, **used}
    return detector


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
    """Make a network as wide as its weights are.

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


def _calibration(content: dict[str, Any]) -> Calibration:
    return Calibration(
        MapQuantiles(**content["local_quantiles"]),
        MapQuantiles(**content["global_quantiles"]),
        tuple(content["normal_scores"]),
        content["false_alarm_budget"],
        content["given_threshold"],
    )
