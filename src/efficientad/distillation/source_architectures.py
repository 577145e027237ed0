"""Deep classification networks, as far as distillation needs them.

A source network is known here by two of its stages: the last one of stride 8 ("fine")
and the last one of stride 16 ("coarse"). Everything behind them is never built. Two
families cover all supported networks: residual networks (ResNet, WideResNet) and
inverted residual networks (MobileNetV2, EfficientNet-Lite). Depth and width are read
from the weights' names and shapes. Batch normalization is folded into the convolution
before it, so nothing here can be trained by mistake.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from efficientad.distillation.weights_reader import Weights
from efficientad.errors import ModelFileError
from efficientad.kernels.winograd import conv2d
from efficientad.method.inputs import IMAGENET_MEAN, IMAGENET_STD, Images

FineStage = Float[Tensor, "batch fine_channels fine_height fine_width"]
CoarseStage = Float[Tensor, "batch coarse_channels coarse_height coarse_width"]

_TORCH_EPS: Final = 1e-5  # of torchvision's batch normalizations
_TENSORFLOW_EPS: Final = 1e-3  # of EfficientNet's

_LAYERS: Final = (1, 2, 3)
# Of the networks below. A stem of 3x3 would stride otherwise.
_RESNET_STEM: Final = (64, 3, 7, 7)
# Blocks of the stages of stride 4, 8 and 16, and channels inside the first stage.
_RESNETS: Final[dict[tuple[str, tuple[int, ...], int], str]] = {
    ("basic", (2, 2, 2), 64): "resnet18",
    ("basic", (3, 4, 6), 64): "resnet34",
    ("bottleneck", (3, 4, 6), 64): "resnet50",
    ("bottleneck", (3, 4, 23), 64): "resnet101",
    ("bottleneck", (3, 8, 36), 64): "resnet152",
    ("bottleneck", (3, 4, 6), 128): "wide_resnet50_2",
    ("bottleneck", (3, 4, 23), 128): "wide_resnet101_2",
}
# Number of blocks, and channels of the stage of stride 8.
_EFFICIENTNETS: Final = {
    (16, 40): "efficientnet-lite0",
    (21, 40): "efficientnet-lite1",
    (21, 48): "efficientnet-lite2",
}
_MOBILENETS: Final = {(17, 32): "mobilenet-v2"}

# Both families of inverted residuals have seven stages with these strides; the stem
# before them has stride 2, so stage 2 ends at stride 8 and stage 4 at stride 16.
_STAGE_STRIDES: Final = (1, 2, 2, 2, 1, 2, 1)
_FINE_STAGE: Final = 2
_COARSE_STAGE: Final = 4

# The pairs of names (convolution, batch normalization) of one block, in order.
_BlockNames = tuple[tuple[str, str], ...]


class SourceNetwork(nn.Module, ABC):
    """A frozen network that is looked at through two of its stages.

    Attributes:
        architecture: Its usual name, for provenance.
        stage_channels: Channels of the fine and of the coarse stage.
    """

    architecture: str
    stage_channels: tuple[int, int]

    @abstractmethod
    def stages(self, images: Images) -> tuple[FineStage, CoarseStage]:
        """Outputs of stride 8 and 16 for RGB images, ImageNet-normalized."""


@final
class ResNet(SourceNetwork):
    """A ResNet or WideResNet up to its third stage, torchvision's names."""

    def __init__(self, weights: Weights, *, stride_in_first_convolution: bool) -> None:
        """Build the network that the weights' names and shapes describe.

        Args:
            weights: Stem to `layer3` at least; the rest is ignored.
            stride_in_first_convolution: Whether a bottleneck strides in its first 1x1
                convolution (the original networks) and not in its 3x3 (torchvision).

        Raises:
            ModelFileError: If they describe none of the known networks.
        """
        super().__init__()
        kind = "bottleneck" if "layer1.0.conv3.weight" in weights else "basic"
        n_blocks = tuple(
            _count(weights, f"layer{i}.", ".conv1.weight") for i in _LAYERS
        )
        inner_channels = weights.tensor("layer1.0.conv1.weight").shape[0]
        known = _RESNETS.get((kind, n_blocks, inner_channels))
        if known is None:
            raise ModelFileError(
                f"{weights.path} holds a residual network of another make ({kind}"
                f" blocks {n_blocks}, {inner_channels} channels); give one of"
                f" {', '.join(_RESNETS.values())}"
            )
        _refuse_other_layers(weights, n_blocks)
        self.architecture = known
        n_convolutions = 3 if kind == "bottleneck" else 2
        stride_at = 1 if kind == "bottleneck" and not stride_in_first_convolution else 0
        weights.tensor("conv1.weight", _RESNET_STEM)
        self.stem = FoldedConvolution(weights, ("conv1", "bn1"), 3, stride=2)
        channels = [self.stem.out_channels]
        layers = []
        for layer, n in zip(_LAYERS, n_blocks, strict=True):
            blocks = []
            for i in range(n):
                strides = [1] * n_convolutions
                strides[stride_at] = 2 if i == 0 and layer > 1 else 1
                prefix = f"layer{layer}.{i}."
                blocks.append(ResidualBlock(weights, prefix, channels[-1], strides))
                channels.append(blocks[-1].out_channels)
            layers.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3 = layers
        n_fine = n_blocks[0] + n_blocks[1]
        self.stage_channels = (channels[n_fine], channels[-1])

    def stages(self, images: Images) -> tuple[FineStage, CoarseStage]:
        """Outputs of `layer2` and `layer3`."""
        stem = functional.relu(self.stem(images))
        pooled = functional.max_pool2d(stem, kernel_size=3, stride=2, padding=1)
        fine = self.layer2(self.layer1(pooled))
        return fine, self.layer3(fine)


def _refuse_other_layers(weights: Weights, n_blocks: Sequence[int]) -> None:
    """Refuse what the known networks do not have, such as squeeze and excitation."""
    for layer, n in zip(_LAYERS, n_blocks, strict=True):
        known = re.compile(
            rf"layer{layer}\.\d+\.((conv|bn)[1-3]|downsample\.[01])\.\w+"
        )
        for name in weights.tensors:
            if name.startswith(f"layer{layer}.") and not known.fullmatch(name):
                raise ModelFileError(
                    f"{weights.path} holds a residual network of another make: its "
                    f"{n} blocks of layer {layer} have {name}; give one of "
                    f"{', '.join(_RESNETS.values())}"
                )


@final
class InvertedResidualNetwork(SourceNetwork):
    """MobileNetV2 (torchvision's names) or EfficientNet-Lite up to stride 16."""

    input_scale: Tensor
    input_shift: Tensor

    def __init__(self, weights: Weights) -> None:
        """Build the network that the weights' names and shapes describe.

        Raises:
            ModelFileError: If they describe none of the known networks.
        """
        super().__init__()
        self.is_efficientnet = "_conv_stem.weight" in weights
        stem = ("features.0.0", "features.0.1")
        names = _mobilenet_blocks(weights)
        if self.is_efficientnet:
            stem = ("_conv_stem", "_bn0")
            names = _efficientnet_blocks(weights)
        stage_ends = _stage_ends(weights, names)
        self.architecture = _inverted_residual_name(
            weights, names, stage_ends, is_efficientnet=self.is_efficientnet
        )
        self.stem = FoldedConvolution(
            weights, stem, 3, stride=2, is_tensorflow=self.is_efficientnet
        )
        channels = self.stem.out_channels
        blocks = []
        for i in range(stage_ends[_COARSE_STAGE]):
            stride = _STAGE_STRIDES[stage_ends.index(i) + 1] if i in stage_ends else 1
            block = InvertedResidualBlock(
                weights, names[i], channels, stride, is_tensorflow=self.is_efficientnet
            )
            blocks.append(block)
            channels = block.out_channels
        n_fine = stage_ends[_FINE_STAGE]
        self.to_fine = nn.Sequential(*blocks[:n_fine])
        self.to_coarse = nn.Sequential(*blocks[n_fine:])
        self.stage_channels = (blocks[n_fine - 1].out_channels, channels)
        # EfficientNet-Lite was trained on (x - 127) / 128, x in 0 ... 255.
        mean = torch.tensor(IMAGENET_MEAN).reshape(3, 1, 1)
        std = torch.tensor(IMAGENET_STD).reshape(3, 1, 1)
        self.register_buffer("input_scale", 255 * std / 128)
        self.register_buffer("input_shift", (255 * mean - 127) / 128)

    def stages(self, images: Images) -> tuple[FineStage, CoarseStage]:
        """Outputs of the third and of the fifth stage of blocks."""
        if self.is_efficientnet:
            images = images * self.input_scale + self.input_shift
        fine = self.to_fine(functional.relu6(self.stem(images)))
        return fine, self.to_coarse(fine)


@final
class FoldedConvolution(nn.Module):
    """A convolution with its batch normalization folded in; no activation."""

    kernel: Tensor
    bias: Tensor

    def __init__(
        self,
        weights: Weights,
        names: tuple[str, str],
        in_channels: int,
        *,
        stride: int = 1,
        is_depthwise: bool = False,
        is_tensorflow: bool = False,
    ) -> None:
        """Read and fold one convolution.

        Args:
            weights: Where its tensors are.
            names: Of the convolution and of its batch normalization.
            in_channels: What the layer before gives.
            stride: In both directions.
            is_depthwise: Whether each channel has its own kernel.
            is_tensorflow: Whether it pads and normalizes as TensorFlow does: at stride
                2 more zeros after the picture than before it, and a larger epsilon.
        """
        super().__init__()
        convolution, norm = names
        kernel = weights.tensor(f"{convolution}.weight")
        out, *_, size = kernel.shape if kernel.ndim > 1 else (0, 0)
        self.out_channels = out
        needed = (out, 1 if is_depthwise else in_channels, size, size)
        weights.tensor(f"{convolution}.weight", needed)
        mean = weights.tensor(f"{norm}.running_mean", (out,))
        variance = weights.tensor(f"{norm}.running_var", (out,)).clamp(min=0)
        eps = _TENSORFLOW_EPS if is_tensorflow else _TORCH_EPS
        scale = weights.tensor(f"{norm}.weight", (out,)) / (variance + eps).sqrt()
        shift = weights.tensor(f"{norm}.bias", (out,))
        self.register_buffer("kernel", kernel * scale.reshape(-1, 1, 1, 1))
        self.register_buffer("bias", shift - mean * scale)
        self.stride = stride
        self.groups = out if is_depthwise else 1
        self.pads_after_more = is_tensorflow and stride > 1

    def forward(self, images: Tensor) -> Tensor:
        """Convolve, normalize; zeros around the picture."""
        size = self.kernel.shape[-1]
        padding = size // 2
        if self.pads_after_more:
            images = _pad_like_tensorflow(images, size, self.stride)
            padding = 0
        if self.stride == 1 and self.groups == 1:
            return conv2d(images, self.kernel, self.bias, padding=padding)
        return functional.conv2d(
            images, self.kernel, self.bias, self.stride, padding, groups=self.groups
        )


@final
class ResidualBlock(nn.Module):
    """Two or three convolutions beside a shortcut."""

    def __init__(
        self, weights: Weights, prefix: str, in_channels: int, strides: list[int]
    ) -> None:
        super().__init__()
        channels = in_channels
        convolutions = []
        for i, stride in enumerate(strides, start=1):
            names = (f"{prefix}conv{i}", f"{prefix}bn{i}")
            convolutions.append(
                FoldedConvolution(weights, names, channels, stride=stride)
            )
            channels = convolutions[-1].out_channels
        self.convolutions = nn.Sequential(*convolutions)
        self.out_channels = channels
        stride = max(strides)
        self.shortcut: FoldedConvolution | nn.Identity = nn.Identity()
        if stride > 1 or channels != in_channels:
            names = (f"{prefix}downsample.0", f"{prefix}downsample.1")
            self.shortcut = FoldedConvolution(
                weights, names, in_channels, stride=stride
            )

    def forward(self, images: Tensor) -> Tensor:
        """ReLU after every convolution, the last time after the sum."""
        *inner, last = self.convolutions
        hidden = images
        for convolution in inner:
            hidden = functional.relu(convolution(hidden))
        result: Tensor = last(hidden) + self.shortcut(images)
        return functional.relu(result)


@final
class InvertedResidualBlock(nn.Module):
    """Widen, filter each channel by itself, narrow; beside a shortcut where it fits."""

    def __init__(
        self,
        weights: Weights,
        names: _BlockNames,
        in_channels: int,
        stride: int,
        *,
        is_tensorflow: bool,
    ) -> None:
        super().__init__()
        channels = in_channels
        convolutions = []
        for i, pair in enumerate(names, start=1):
            is_depthwise = i == len(names) - 1
            convolution = FoldedConvolution(
                weights,
                pair,
                channels,
                stride=stride if is_depthwise else 1,
                is_depthwise=is_depthwise,
                is_tensorflow=is_tensorflow,
            )
            convolutions.append(convolution)
            channels = convolution.out_channels
        self.convolutions = nn.Sequential(*convolutions)
        self.out_channels = channels
        self.has_shortcut = stride == 1 and channels == in_channels

    def forward(self, images: Tensor) -> Tensor:
        """ReLU6 after every convolution but the last."""
        *inner, last = self.convolutions
        hidden = images
        for convolution in inner:
            hidden = functional.relu6(convolution(hidden))
        result: Tensor = last(hidden)
        return images + result if self.has_shortcut else result


def _pad_like_tensorflow(images: Tensor, size: int, stride: int) -> Tensor:
    padding = []
    for n_pixels in (images.shape[-1], images.shape[-2]):
        n_outputs = -(-n_pixels // stride)
        total = max((n_outputs - 1) * stride + size - n_pixels, 0)
        padding += [total // 2, total - total // 2]
    return functional.pad(images, padding)


def _count(weights: Weights, prefix: str, suffix: str, start: int = 0) -> int:
    n = 0
    while f"{prefix}{start + n}{suffix}" in weights:
        n += 1
    return n


def _mobilenet_blocks(weights: Weights) -> list[_BlockNames]:
    blocks: list[_BlockNames] = []
    n_blocks = _count(weights, "features.", ".conv.0.0.weight", start=1)
    for i in range(1, n_blocks + 1):
        prefix = f"features.{i}.conv."
        n_inner = _count(weights, prefix, ".0.weight")
        inner = [(f"{prefix}{j}.0", f"{prefix}{j}.1") for j in range(n_inner)]
        blocks.append((*inner, (f"{prefix}{n_inner}", f"{prefix}{n_inner + 1}")))
    return blocks


def _efficientnet_blocks(weights: Weights) -> list[_BlockNames]:
    blocks: list[_BlockNames] = []
    for i in range(_count(weights, "_blocks.", "._depthwise_conv.weight")):
        prefix = f"_blocks.{i}."
        names: _BlockNames = (
            (f"{prefix}_depthwise_conv", f"{prefix}_bn1"),
            (f"{prefix}_project_conv", f"{prefix}_bn2"),
        )
        if f"{prefix}_expand_conv.weight" in weights:
            names = ((f"{prefix}_expand_conv", f"{prefix}_bn0"), *names)
        blocks.append(names)
    return blocks


def _stage_ends(weights: Weights, names: list[_BlockNames]) -> list[int]:
    """Number of blocks up to the end of each stage; a stage has one width."""
    widths = [weights.tensor(f"{block[-1][0]}.weight").shape[0] for block in names]
    return [
        i
        for i in range(1, len(widths) + 1)
        if i == len(widths) or widths[i] != widths[i - 1]
    ]


def _inverted_residual_name(
    weights: Weights,
    names: list[_BlockNames],
    stage_ends: list[int],
    *,
    is_efficientnet: bool,
) -> str:
    known = _EFFICIENTNETS if is_efficientnet else _MOBILENETS
    has_squeeze = any("_se_" in name for name in weights.tensors)
    if len(stage_ends) == len(_STAGE_STRIDES) and not has_squeeze:
        last_fine = names[stage_ends[_FINE_STAGE] - 1][-1][0]
        fine_channels = weights.tensor(f"{last_fine}.weight").shape[0]
        name = known.get((len(names), fine_channels))
        if name is not None:
            return name
    raise ModelFileError(
        f"{weights.path} holds a network of inverted residuals of another make; give"
        f" one of {', '.join((*_MOBILENETS.values(), *_EFFICIENTNETS.values()))}"
    )
