"""Frozen backbones: the features of an image at strides 4, 8, 16 and 32.

A stage is the last layer of its stride. Residual networks (ResNet, WideResNet, ResNeXt)
and inverted ones (MobileNetV2, EfficientNet-Lite) are those that teachers are distilled
from. Here DenseNet-201, EfficientNet-B5 and the teachers themselves come to them. All
are read from files that hold weights and no code.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efficientad.distillation.source_networks import (
    find_source_network,
    source_network,
)
from efficientad.distillation.weights_reader import Weights, read_weights
from efficientad.errors import ModelFileError
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.method.sizes import ModelSize
from efficientad.model_files.teachers import shipped_teacher_path
from efficientad_lab.methods.architectures import densenet201, efficientnet_b5

Grid = Float[Tensor, "batch _ _ _"]
"""(batch, channels, rows, columns)."""

TEACHERS: Final[Mapping[str, ModelSize]] = {
    "pdn-small": "small",
    "pdn-medium": "medium",
}
"""Names of the shipped teachers."""
_SIZE_OF_N_CONVOLUTIONS: Final[Mapping[int, ModelSize]] = {4: "small", 6: "medium"}
_PROBE: Final = 64


class Stages(nn.Module):
    """The stages of a backbone. They stay as they are, also while a method trains.

    Args:
        weights: Weights of the backbone, whose names tell the architecture.
        strides: Strides of the stages that are used, ascending.

    Attributes:
        weights: The weights that were given, without those of a classifier.
        channels: Number of channels by stride.

    Raises:
        ModelFileError: If they belong to another architecture, or it has no stage of
            one of the strides.
    """

    def __init__(self, weights: Weights, strides: Sequence[int]) -> None:
        super().__init__()
        self.weights = Weights(
            weights.path, _needed(weights, strides), weights.metadata
        )
        self.strides = tuple(strides)
        self.architecture, layers = _layers(weights, is_deep=max(strides) > 16)  # noqa: PLR2004 - strides
        self._ends, self.channels = _ends(layers)
        missing = [stride for stride in strides if stride not in self._ends]
        if missing:
            raise ModelFileError(
                f"the method needs stages of stride {missing}, {self.architecture} of "
                f"{weights.path} has those of {[*self._ends]}; give another backbone"
            )
        n_used = max(self._ends[stride] for stride in strides) + 1
        self.layers = nn.ModuleList(layers[:n_used])
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, images: Grid) -> list[Grid]:
        """Return the stages of ImageNet-normalized images, in the order of `strides`.

        Args:
            images: Sides are multiples of the largest stride.
        """
        found = {}
        for index, layer in enumerate(self.layers):
            images = layer(images)
            found[index] = images
        return [found[self._ends[stride]] for stride in self.strides]

    def train(self, mode: bool = True) -> "Stages":  # noqa: ARG002, FBT001, FBT002 - PyTorch's
        """Return itself, always in evaluation mode."""
        return super().train(mode=False)


def open_stages(name_or_file: str | Path, strides: Sequence[int]) -> Stages:
    """Open a backbone.

    Args:
        name_or_file: Weights file, name of a packaged network such as `mobilenet-v2`,
            or `pdn-small` or `pdn-medium` for a shipped teacher.
        strides: Strides of the stages that are used, ascending.

    Raises:
        MissingDependencyError: If the named package is not installed.
        ModelFileError: If the file is missing, damaged, holds code, or holds another
            architecture.
    """
    size = TEACHERS.get(str(name_or_file))
    path = find_source_network(name_or_file) if size is None else None
    return Stages(read_weights(path or shipped_teacher_path(size or "small")), strides)


class _Teacher(nn.Module):
    def __init__(self, weights: Weights, size: ModelSize) -> None:
        super().__init__()
        n_channels = weights.tensor(f"convolutions.{3 if size == 'small' else 5}.bias")
        self.network = PatchDescriptionNetwork(size, len(n_channels))
        shapes = self.network.state_dict()
        self.network.load_state_dict(
            {name: weights.tensor(name, tuple(shapes[name].shape)) for name in shapes}
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return descriptors whose grid covers the image evenly."""
        descriptors: Tensor = self.network(images, padded=True)
        return descriptors


def _layers(weights: Weights, *, is_deep: bool) -> tuple[str, list[nn.Module]]:
    """Return the name of an architecture and its layers."""
    n = sum(f"convolutions.{i}.weight" in weights for i in range(6))
    if n in _SIZE_OF_N_CONVOLUTIONS:
        size = _SIZE_OF_N_CONVOLUTIONS[n]
        # The stage of stride 8 averages descriptors.
        return f"pdn-{size}", [_Teacher(weights, size), nn.AvgPool2d(2)]
    if "features.denseblock1.denselayer1.norm1.weight" in weights or (
        "features.denseblock1.denselayer1.norm.1.weight" in weights
    ):
        return "densenet201", densenet201(weights)
    if "features.1.0.block.0.0.weight" in weights:
        return "efficientnet_b5", efficientnet_b5(weights)
    network = source_network(weights, is_deep=is_deep)
    parts = [network.to_fine, network.to_coarse, network.to_deep]
    layers: list[nn.Module] = []
    for part in parts:
        # A layer of a ResNet has several strides inside of its first block only.
        layers += part if isinstance(part, nn.Sequential) else []
    return network.architecture, layers


@torch.inference_mode()
def _ends(layers: Sequence[nn.Module]) -> tuple[dict[int, int], dict[int, int]]:
    """Return index of the last layer, and number of channels, by stride."""
    ends, channels = {}, {}
    images = torch.zeros(1, 3, _PROBE, _PROBE)
    for index, layer in enumerate(layers):
        images = layer.eval()(images)
        stride = _PROBE // images.shape[-1]
        ends[stride], channels[stride] = index, images.shape[1]
    return ends, channels


def _needed(weights: Weights, strides: Sequence[int]) -> dict[str, Tensor]:
    """Return the weights without classifier, and without late stages of a ResNet."""
    is_short = max(strides) < 32 and "layer3.0.conv1.weight" in weights  # noqa: PLR2004 - a stride
    return {
        name: tensor
        for name, tensor in weights.tensors.items()
        if tensor.is_floating_point()
        and tensor.ndim != 2  # noqa: PLR2004 - the matrix of a classifier
        and not (is_short and name.startswith(("layer4.", "fc.")))
    }
