"""Deep classification networks up to their stage of stride 16.

Distillation uses two stages of a source network: the last one of stride 8 ("fine") and
the last one of stride 16 ("coarse"). Two families cover all supported networks:
residual networks (ResNet, WideResNet) and inverted residual networks (MobileNetV2,
EfficientNet-Lite). Names and shapes of the weights tell which network they belong to.
Batch normalization is folded into the convolution before it.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple, final

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
Names = tuple[str, str]
"""Prefixes of a convolution's weights and of its batch normalization's."""

# Convolutions of a block, blocks of the stages of stride 4, 8 and 16, and channels
# inside the first stage.
_RESNETS: Final[dict[tuple[int, tuple[int, ...], int], str]] = {
    (2, (2, 2, 2), 64): "resnet18",
    (2, (3, 4, 6), 64): "resnet34",
    (3, (3, 4, 6), 64): "resnet50",
    (3, (3, 4, 23), 64): "resnet101",
    (3, (3, 8, 36), 64): "resnet152",
    (3, (3, 4, 6), 128): "wide_resnet50_2",
    (3, (3, 4, 23), 128): "wide_resnet101_2",
}
_RESNET_STEM: Final = (64, 3, 7, 7)  # a stem of 3x3 would stride otherwise
_RESNET_LAYERS: Final = ("layer1.", "layer2.", "layer3.")
_RESNET_TENSOR: Final = re.compile(r"\d+\.((conv|bn)[1-3]|downsample\.[01])\.\w+")

# Channels and blocks of the first five stages.
_INVERTED: Final[dict[tuple[tuple[int, int], ...], str]] = {
    ((16, 1), (24, 2), (32, 3), (64, 4), (96, 3)): "mobilenet-v2",
    ((16, 1), (24, 2), (40, 2), (80, 3), (112, 3)): "efficientnet-lite0",
    ((16, 1), (24, 3), (40, 3), (80, 4), (112, 4)): "efficientnet-lite1",
    ((16, 1), (24, 3), (48, 3), (88, 4), (120, 4)): "efficientnet-lite2",
}
_STAGE_STRIDES: Final = (1, 2, 2, 2, 1)  # after a stem of stride 2
_N_FINE_STAGES: Final = 3


class _Family(NamedTuple):
    is_inverted: bool
    is_tensorflow: bool
    """Zeros are padded as TensorFlow does, and its epsilon is larger."""


_RESIDUAL: Final = _Family(is_inverted=False, is_tensorflow=False)


class _BlockPlan(NamedTuple):
    convolutions: Sequence[Names]
    stride: int
    stride_at: int
    """Index of the convolution with the stride."""
    projection: Names | None
    """Convolution of the shortcut, where sizes or channels change."""


class SourceNetwork(nn.Module):
    """A frozen network with two outputs.

    Args:
        architecture: Its usual name, for provenance.
        stem: Layers before the first block.
        to_fine: Blocks up to the fine stage.
        to_coarse: Blocks from there to the coarse stage.
        stage_channels: Channels of the fine and of the coarse stage.
    """

    def __init__(
        self,
        architecture: str,
        stem: nn.Module,
        to_fine: nn.Module,
        to_coarse: nn.Module,
        stage_channels: tuple[int, int],
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.stem, self.to_fine, self.to_coarse = stem, to_fine, to_coarse
        self.stage_channels = stage_channels

    def stages(self, images: Images) -> tuple[FineStage, CoarseStage]:
        """Return the outputs of stride 8 and 16 for ImageNet-normalized RGB images."""
        fine = self.to_fine(self.stem(images))
        return fine, self.to_coarse(fine)


def resnet(weights: Weights, *, stride_in_first_convolution: bool) -> SourceNetwork:
    """Build the ResNet or WideResNet of some weights with torchvision's names.

    Args:
        weights: From the stem to `layer3` at least; the rest is ignored.
        stride_in_first_convolution: Whether a bottleneck strides in its first 1x1
            convolution (the original networks) instead of its 3x3 (torchvision).

    Raises:
        ModelFileError: If they belong to none of the known networks.
    """
    is_bottleneck = "layer1.0.conv3.weight" in weights
    n_convolutions = 3 if is_bottleneck else 2
    n_blocks = tuple(_count(weights, f"{p}{{}}.conv1.weight") for p in _RESNET_LAYERS)
    inner_channels = weights.tensor("layer1.0.conv1.weight").shape[0]
    name = _RESNETS.get((n_convolutions, n_blocks, inner_channels))
    foreign = [
        tensor  # such as squeeze and excitation
        for tensor in weights.tensors
        if tensor.startswith(_RESNET_LAYERS)
        and not _RESNET_TENSOR.fullmatch(tensor.partition(".")[2])
    ]
    if name is None or foreign:
        kind = "bottleneck" if is_bottleneck else "basic"
        more = f", {foreign[0]}" if foreign else ""
        raise ModelFileError(
            f"{weights.path} holds a residual network of another make: {kind} blocks"
            f" {n_blocks}, {inner_channels} channels{more}; give one of"
            f" {', '.join(_RESNETS.values())}"
        )
    weights.tensor("conv1.weight", _RESNET_STEM)
    stride_at = int(is_bottleneck and not stride_in_first_convolution)
    plans = []
    for layer, n in zip(_RESNET_LAYERS, n_blocks, strict=True):
        for i in range(n):
            at = f"{layer}{i}."
            names = [
                (f"{at}conv{j + 1}", f"{at}bn{j + 1}") for j in range(n_convolutions)
            ]
            stride = 2 if i == 0 and layer != _RESNET_LAYERS[0] else 1
            projection = (f"{at}downsample.0", f"{at}downsample.1")
            plans.append(_BlockPlan(names, stride, stride_at, projection))
    stem = FoldedConvolution(weights, ("conv1", "bn1"), 3, stride=2)
    layers = [stem, nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)]
    return _network(weights, name, layers, plans, n_blocks[0] + n_blocks[1], _RESIDUAL)


def inverted_residual_network(weights: Weights) -> SourceNetwork:
    """Build the MobileNetV2 (torchvision's names) or EfficientNet-Lite of some weights.

    Raises:
        ModelFileError: If they belong to none of the known networks.
    """
    is_efficientnet = "_conv_stem.weight" in weights
    family = _Family(is_inverted=True, is_tensorflow=is_efficientnet)
    if is_efficientnet:
        stem_names, names = ("_conv_stem", "_bn0"), [*_efficientnet_blocks(weights)]
    else:
        stem_names, names = (
            ("features.0.0", "features.0.1"),
            [*_mobilenet_blocks(weights)],
        )
    widths = [weights.tensor(f"{block[-1][0]}.weight").shape[0] for block in names]
    stages = [(width, len([*same])) for width, same in groupby(widths)]
    stages = stages[: len(_STAGE_STRIDES)]
    name = _INVERTED.get(tuple(stages))
    if name is None or any("_se_" in tensor for tensor in weights.tensors):
        raise ModelFileError(
            f"{weights.path} holds a network of inverted residuals of another make;"
            f" give one of {', '.join(_INVERTED.values())}"
        )
    strides = [
        stride if i == 0 else 1
        for stride, (_, n) in zip(_STAGE_STRIDES, stages, strict=True)
        for i in range(n)
    ]
    plans = [
        _BlockPlan(block, stride, len(block) - 2, None)
        for block, stride in zip(names, strides, strict=False)
    ]
    stem = FoldedConvolution(weights, stem_names, 3, stride=2, family=family)
    layers = [*[_Rescaling()] * is_efficientnet, stem, nn.ReLU6()]
    n_fine = sum(n for _, n in stages[:_N_FINE_STAGES])
    return _network(weights, name, layers, plans, n_fine, family)


def _mobilenet_blocks(weights: Weights) -> Iterator[list[Names]]:
    for i in range(1, 1 + _count(weights, "features.{}.conv.0.0.weight", start=1)):
        at = f"features.{i}.conv."
        n = _count(weights, f"{at}{{}}.0.weight")
        inner = [(f"{at}{j}.0", f"{at}{j}.1") for j in range(n)]
        yield [*inner, (f"{at}{n}", f"{at}{n + 1}")]


def _efficientnet_blocks(weights: Weights) -> Iterator[list[Names]]:
    for i in range(_count(weights, "_blocks.{}._depthwise_conv.weight")):
        kinds = enumerate(("expand", "depthwise", "project"))
        names = [
            (f"_blocks.{i}._{kind}_conv", f"_blocks.{i}._bn{j}") for j, kind in kinds
        ]
        yield names if f"{names[0][0]}.weight" in weights else names[1:]


def _count(weights: Weights, pattern: str, start: int = 0) -> int:
    n = 0
    while pattern.format(start + n) in weights:
        n += 1
    return n


def _network(
    weights: Weights,
    architecture: str,
    stem: Sequence[nn.Module],
    plans: Sequence[_BlockPlan],
    n_fine: int,
    family: _Family,
) -> SourceNetwork:
    """Build each block for the channels of the one before it."""
    blocks: list[Block] = []
    channels = [next(m.out_channels for m in stem if isinstance(m, FoldedConvolution))]
    for plan in plans:
        blocks.append(Block(weights, plan, channels[-1], family))
        channels.append(blocks[-1].out_channels)
    return SourceNetwork(
        architecture,
        nn.Sequential(*stem),
        nn.Sequential(*blocks[:n_fine]),
        nn.Sequential(*blocks[n_fine:]),
        (channels[n_fine], channels[-1]),
    )


class _Rescaling(nn.Module):
    """Replaces ImageNet's normalization by EfficientNet-Lite's (x - 127) / 128."""

    def __init__(self) -> None:
        super().__init__()
        mean, std = (
            torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD)
        )
        self.scale = nn.Buffer(255 * std / 128)
        self.shift = nn.Buffer((255 * mean - 127) / 128)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale + self.shift


@final
class FoldedConvolution(nn.Module):
    """A convolution with its batch normalization folded in, without activation.

    Args:
        weights: Source of its tensors.
        names: Prefixes of the convolution and of its batch normalization.
        in_channels: Channels of the layer before.
        stride: Stride in both directions.
        is_depthwise: Whether each channel has its own kernel.
        family: Kind of padding and epsilon.
    """

    def __init__(
        self,
        weights: Weights,
        names: Names,
        in_channels: int,
        *,
        stride: int = 1,
        is_depthwise: bool = False,
        family: _Family = _RESIDUAL,
    ) -> None:
        super().__init__()
        convolution, norm = names
        kernel = weights.tensor(f"{convolution}.weight")
        out, *_, size = kernel.shape if kernel.ndim > 1 else (0, 0)
        needed = (out, 1 if is_depthwise else in_channels, size, size)
        weights.tensor(f"{convolution}.weight", needed)
        gain, shift, mean, variance = (
            weights.tensor(f"{norm}.{part}", (out,))
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        eps = 1e-3 if family.is_tensorflow else 1e-5
        scale = gain / (variance.clamp(min=0) + eps).sqrt()
        self.kernel = nn.Buffer(kernel * scale.reshape(-1, 1, 1, 1))
        self.bias = nn.Buffer(shift - mean * scale)
        self.out_channels, self.stride = out, stride
        self.groups = out if is_depthwise else 1
        self.pads_like_tensorflow = family.is_tensorflow and stride > 1

    def forward(self, images: Tensor) -> Tensor:
        """Convolve and normalize; zeros around the image."""
        size = self.kernel.shape[-1]
        padding = size // 2
        if self.pads_like_tensorflow:
            images = _pad_like_tensorflow(images, size, self.stride)
            padding = 0
        if self.stride == 1 and self.groups == 1:
            return conv2d(images, self.kernel, self.bias, padding=padding)
        return functional.conv2d(
            images, self.kernel, self.bias, self.stride, padding, groups=self.groups
        )


@final
class Block(nn.Module):
    """Convolutions beside a shortcut.

    A residual block has ReLU after each convolution, the last time after the sum. An
    inverted one widens, filters each channel by itself and narrows, with ReLU6 after
    all but the last convolution, and a shortcut only if sizes and channels allow it.
    """

    def __init__(
        self, weights: Weights, plan: _BlockPlan, in_channels: int, family: _Family
    ) -> None:
        super().__init__()
        self.is_inverted = family.is_inverted
        self.convolutions = nn.ModuleList()
        self.out_channels = in_channels
        for i, names in enumerate(plan.convolutions):
            convolution = FoldedConvolution(
                weights,
                names,
                self.out_channels,
                stride=plan.stride if i == plan.stride_at else 1,
                is_depthwise=self.is_inverted and i == plan.stride_at,
                family=family,
            )
            self.convolutions.append(convolution)
            self.out_channels = convolution.out_channels
        self.shortcut: nn.Module | None = None
        if plan.stride == 1 and self.out_channels == in_channels:
            self.shortcut = nn.Identity()
        elif plan.projection is not None:
            self.shortcut = FoldedConvolution(
                weights, plan.projection, in_channels, stride=plan.stride
            )

    def forward(self, images: Tensor) -> Tensor:
        """Return the block's output."""
        activation = functional.relu6 if self.is_inverted else functional.relu
        *inner, last = self.convolutions
        hidden = images
        for convolution in inner:
            hidden = activation(convolution(hidden))
        result: Tensor = last(hidden)
        if self.shortcut is not None:
            result = result + self.shortcut(images)
        return result if self.is_inverted else functional.relu(result)


def _pad_like_tensorflow(images: Tensor, size: int, stride: int) -> Tensor:
    """Pad more zeros after the image than before it."""
    padding = []
    for n_pixels in (images.shape[-1], images.shape[-2]):
        n_outputs = -(-n_pixels // stride)
        total = max((n_outputs - 1) * stride + size - n_pixels, 0)
        padding += [total // 2, total - total // 2]
    return functional.pad(images, padding)
