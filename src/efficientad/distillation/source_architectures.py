"""Deep classification networks up to their stage of stride 16, or 32.

Distillation uses two stages of a source network: the last one of stride 8 ("fine") and
the last one of stride 16 ("coarse"). Other methods also use a later one. Two families
cover all supported networks: residual networks (ResNet, WideResNet, ResNeXt) and
inverted residual networks (MobileNetV2, EfficientNet-Lite). Names and shapes of the
weights tell which network they belong to. Batch normalization is folded into the
convolution before it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efficientad.distillation.weights_reader import Weights
from efficientad.errors import ModelFileError
from efficientad.method.inputs import Images
from efficientad.method.sizes import IMAGENET_MEAN, IMAGENET_STD

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
    (3, (3, 4, 23), 256): "resnext101_32x8d",
}
_GROUPS: Final = {"resnext101_32x8d": 32}
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
_DEEP_STRIDES: Final = (2,)
_N_FINE_STAGES: Final = 3


class SourceNetwork(nn.Module):
    """A frozen network with two outputs, and its usual name.

    `to_deep` has the layers from the coarse stage to the first one of stride 32, if
    asked for.
    """

    def __init__(
        self,
        architecture: str,
        to_fine: nn.Module,
        to_coarse: nn.Module,
        stage_channels: tuple[int, int],
        to_deep: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.architecture, self.stage_channels = architecture, stage_channels
        self.to_fine, self.to_coarse, self.to_deep = to_fine, to_coarse, to_deep

    def stages(self, images: Images) -> tuple[FineStage, CoarseStage]:
        """Return the outputs of stride 8 and 16; sizes must be multiples of 16."""
        fine = self.to_fine(images)
        return fine, self.to_coarse(fine)


def resnet(
    weights: Weights, *, stride_in_first_convolution: bool, is_deep: bool = False
) -> SourceNetwork:
    """Build the ResNet, WideResNet or ResNeXt of weights with torchvision's names.

    Arguments are those of `source_network`.

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
    builder = _Builder(weights)
    stride_at = int(is_bottleneck and not stride_in_first_convolution)
    stem = builder.convolution(("conv1", "bn1"), stride=2)
    layers: list[tuple[nn.Module, int]] = []
    plan = [*zip(_RESNET_LAYERS, n_blocks, strict=True)]
    if is_deep:
        plan.append(("layer4.", _count(weights, "layer4.{}.conv1.weight")))
    for layer, n in plan:
        blocks = []
        for i in range(n):
            at, numbers = f"{layer}{i}.", range(1, n_convolutions + 1)
            names = [(f"{at}conv{j}", f"{at}bn{j}") for j in numbers]
            shortcut = (f"{at}downsample.0", f"{at}downsample.1")
            stride = 2 if i == 0 and layers else 1
            groups = {1: _GROUPS.get(name, 1)}
            blocks.append(builder.block(names, stride, stride_at, shortcut, groups))
        layers.append((nn.Sequential(*blocks), builder.n_channels))
    (first, _), (second, n_fine), (third, n_coarse), *deep = layers
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    fine = nn.Sequential(stem, nn.ReLU(), pool, first, second)
    to_deep = deep[0][0] if deep else None
    return SourceNetwork(name, fine, third, (n_fine, n_coarse), to_deep)


def inverted_residual_network(
    weights: Weights, *, is_deep: bool = False
) -> SourceNetwork:
    """Build the MobileNetV2 (torchvision's names) or EfficientNet-Lite of some weights.

    Raises:
        ModelFileError: If they belong to none of the known networks.
    """
    is_efficientnet = "_conv_stem.weight" in weights
    if is_efficientnet:
        stem_names, names = ("_conv_stem", "_bn0"), _efficientnet_blocks(weights)
    else:
        stem_names, names = ("features.0.0", "features.0.1"), _mobilenet_blocks(weights)
    all_names = list(names)
    widths = [weights.tensor(f"{block[-1][0]}.weight").shape[0] for block in all_names]
    stages = [(width, len(list(same))) for width, same in groupby(widths)]
    name = _INVERTED.get(tuple(stages[: len(_STAGE_STRIDES)]))
    if name is None or any("_se_" in tensor for tensor in weights.tensors):
        raise ModelFileError(
            f"{weights.path} holds a network of inverted residuals of another make;"
            f" give one of {', '.join(_INVERTED.values())}"
        )
    builder = _Builder(weights, is_tensorflow=is_efficientnet)
    stem = [builder.convolution(stem_names, stride=2), nn.ReLU6()]
    if is_efficientnet:
        stem.insert(0, _efficientnet_normalization())
    of_stages = _STAGE_STRIDES + (_DEEP_STRIDES if is_deep else ())
    strides = [
        stride if i == 0 else 1
        for stride, (_, n) in zip(of_stages, stages, strict=False)
        for i in range(n)
    ]
    blocks = [
        builder.block(own, stride, len(own) - 2)
        for own, stride in zip(all_names, strides, strict=False)
    ]
    n_fine = sum(n for _, n in stages[:_N_FINE_STAGES])
    n_coarse = sum(n for _, n in stages[: len(_STAGE_STRIDES)])
    fine = nn.Sequential(*stem, *blocks[:n_fine])
    coarse = nn.Sequential(*blocks[n_fine:n_coarse])
    deep = nn.Sequential(*blocks[n_coarse:]) if is_deep else None
    channels = stages[_N_FINE_STAGES - 1][0], stages[len(_STAGE_STRIDES) - 1][0]
    return SourceNetwork(name, fine, coarse, channels, deep)


def _mobilenet_blocks(weights: Weights) -> Iterator[list[Names]]:
    for i in range(1, 1 + _count(weights, "features.{}.conv.0.0.weight", start=1)):
        at = f"features.{i}.conv."
        n = _count(weights, f"{at}{{}}.0.weight")
        inner = [(f"{at}{j}.0", f"{at}{j}.1") for j in range(n)]
        yield [*inner, (f"{at}{n}", f"{at}{n + 1}")]


def _efficientnet_blocks(weights: Weights) -> Iterator[list[Names]]:
    for i in range(_count(weights, "_blocks.{}._depthwise_conv.weight")):
        at, kinds = f"_blocks.{i}.", ("expand", "depthwise", "project")
        names = [(f"{at}_{kind}_conv", f"{at}_bn{j}") for j, kind in enumerate(kinds)]
        yield names if f"{names[0][0]}.weight" in weights else names[1:]


def _count(weights: Weights, pattern: str, start: int = 0) -> int:
    n = 0
    while pattern.format(start + n) in weights:
        n += 1
    return n


@dataclass
class _Builder:
    """Builds the layers of a network one after the other."""

    weights: Weights
    is_tensorflow: bool = False
    """Whether zeros are padded as in TensorFlow, and its epsilon is used."""
    n_channels: int = 3
    """Channels of the last layer."""

    def convolution(
        self, names: Names, *, stride: int = 1, groups: int = 1
    ) -> nn.Module:
        """Build a convolution with its batch normalization folded in."""
        kernel = self.weights.tensor(f"{names[0]}.weight")
        out, *_, size = kernel.shape if kernel.ndim > 1 else (0, 0)
        n_in = self.n_channels // groups
        if groups > 1:
            out = self.n_channels
        self.weights.tensor(f"{names[0]}.weight", (out, n_in, size, size))
        gain, shift, mean, variance = (
            self.weights.tensor(f"{names[1]}.{part}", (out,))
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        eps = 1e-3 if self.is_tensorflow else 1e-5
        scale = gain / (variance.clamp(min=0) + eps).sqrt()
        self.n_channels = out
        frozen = _frozen_convolution(
            kernel * scale.reshape(-1, 1, 1, 1),
            shift - mean * scale,
            stride=stride,
            padding=size // 2,
            groups=groups,
        )
        if not self.is_tensorflow or stride == 1:
            return frozen
        # For even sizes, TensorFlow pads more zeros after the image than before it.
        frozen.padding = (0, 0)
        before, after = (size - 2) // 2, (size - 1) // 2
        return nn.Sequential(nn.ZeroPad2d((before, after, before, after)), frozen)

    def block(
        self,
        names: Sequence[Names],
        stride: int,
        stride_at: int,
        projection: Names | None = None,
        groups: Mapping[int, int] | None = None,
    ) -> "Block":
        """Build a block; an inverted one if there is no projection for its shortcut.

        A residual block has ReLU after each convolution, the last time after the sum.
        An inverted one widens, filters each channel by itself and narrows, with ReLU6
        after all but the last convolution, and has a shortcut only where sizes and
        channels stay the same.
        """
        n_in = self.n_channels
        is_inverted = projection is None
        path: list[nn.Module] = []
        for i, pair in enumerate(names):
            own = stride if i == stride_at else 1
            n_groups = (groups or {}).get(i, 1)
            if is_inverted and i == stride_at:
                n_groups = self.n_channels  # each channel by itself
            path.append(self.convolution(pair, stride=own, groups=n_groups))
            path.append(nn.ReLU6() if is_inverted else nn.ReLU())
        last = nn.Identity() if is_inverted else path[-1]
        if stride == 1 and self.n_channels == n_in:
            return Block(path[:-1], nn.Identity(), last)
        if projection is None:
            return Block(path[:-1], None, last)
        self.n_channels = n_in
        return Block(path[:-1], self.convolution(projection, stride=stride), last)


class Block(nn.Module):
    """Layers beside a shortcut, and an activation after their sum."""

    def __init__(
        self, path: Sequence[nn.Module], shortcut: nn.Module | None, last: nn.Module
    ) -> None:
        super().__init__()
        self.path, self.shortcut, self.last = nn.Sequential(*path), shortcut, last

    def forward(self, images: Tensor) -> Tensor:
        """Return the block's output."""
        result = self.path(images)
        if self.shortcut is not None:
            result = result + self.shortcut(images)
        output: Tensor = self.last(result)
        return output


def _efficientnet_normalization() -> nn.Conv2d:
    """Replace ImageNet's normalization by (x - 127) / 128, x in 0 ... 255."""
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    kernel = (255 * std / 128).view(3, 1, 1, 1)
    return _frozen_convolution(kernel, (255 * mean - 127) / 128, groups=3)


def _frozen_convolution(
    kernel: Tensor, bias: Tensor, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> nn.Conv2d:
    out, n_in, *_, size = kernel.shape
    shape = groups * n_in, out, size, stride, padding
    convolution = nn.Conv2d(*shape, groups=groups, device="meta")
    convolution.load_state_dict({"weight": kernel, "bias": bias}, assign=True)
    return convolution.requires_grad_(requires_grad=False)
