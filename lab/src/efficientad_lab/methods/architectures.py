"""DenseNet-201 and EfficientNet-B5 of torchvision's weights, as lists of layers."""

import re
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from efficientad.distillation.weights_reader import Weights

_DENSE_BLOCKS: Final = (6, 12, 48, 32)
_GROWTH: Final = 32
_OLD_NAME: Final = re.compile(r"\.(norm|conv)(\d)\.")

# Kernel, stride, expansion, channels and blocks of the first six stages of B5.
_B5_STEM: Final = 48
_B5_STAGES: Final = (
    (3, 1, 1, 24, 3),
    (3, 2, 6, 40, 5),
    (5, 2, 6, 64, 5),
    (3, 2, 6, 128, 7),
    (5, 1, 6, 176, 7),
    (5, 2, 6, 304, 9),
)
_B5_EPS: Final = 1e-3


class _DenseLayer(nn.Module):
    """Adds a few channels to those it gets."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        n_hidden = 4 * _GROWTH
        self.norm1, self.norm2 = nn.BatchNorm2d(n_in), nn.BatchNorm2d(n_hidden)
        self.conv1 = nn.Conv2d(n_in, n_hidden, 1, bias=False)
        self.conv2 = nn.Conv2d(n_hidden, _GROWTH, 3, padding=1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the input with new channels after it."""
        hidden = self.conv1(functional.relu(self.norm1(images)))
        new = self.conv2(functional.relu(self.norm2(hidden)))
        return torch.cat([images, new], dim=1)


def densenet201(weights: Weights) -> list[nn.Module]:
    """Return stem, dense blocks and transitions up to the third block, stride 16.

    Raises:
        ModelFileError: If the weights are those of another DenseNet.
    """
    n_stem, n = 64, 64
    stem = nn.Sequential()
    stem.add_module("conv0", nn.Conv2d(3, n_stem, 7, 2, 3, bias=False))
    stem.add_module("norm0", nn.BatchNorm2d(n_stem))
    parts: dict[str, nn.Module] = dict(stem.named_children())
    layers = [stem, nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    for index, n_layers in enumerate(_DENSE_BLOCKS[:3], start=1):
        block = nn.Sequential()
        for i in range(n_layers):
            block.add_module(f"denselayer{i + 1}", _DenseLayer(n + i * _GROWTH))
        n += n_layers * _GROWTH
        parts[f"denseblock{index}"] = block
        layers.append(block)
        if index < 3:  # noqa: PLR2004 - the last block that is used
            transition = nn.Sequential()
            transition.add_module("norm", nn.BatchNorm2d(n))
            transition.add_module("relu", nn.ReLU())
            transition.add_module("conv", nn.Conv2d(n, n // 2, 1, bias=False))
            transition.add_module("pool", nn.AvgPool2d(2))
            parts[f"transition{index}"] = transition
            layers.append(transition)
            n //= 2
    for name, part in parts.items():
        _fill(part, weights, f"features.{name}.")
    return layers


class _SqueezeExcitation(nn.Module):
    """Scales each channel by what the means of all channels say."""

    def __init__(self, n: int, n_squeezed: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(n, n_squeezed, 1), nn.Conv2d(n_squeezed, n, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scaled channels."""
        hidden = functional.silu(self.fc1(images.mean((2, 3), keepdim=True)))
        scaled: Tensor = images * torch.sigmoid(self.fc2(hidden))
        return scaled


class _InvertedBlock(nn.Module):
    """Widens, filters each channel by itself, scales and narrows."""

    def __init__(
        self, n_in: int, n_out: int, kernel: int, stride: int, wide: int
    ) -> None:
        super().__init__()
        n = wide * n_in
        parts: list[nn.Module] = [_convolution(n_in, n, 1)] if wide > 1 else []
        parts.append(_convolution(n, n, kernel, stride, groups=n))
        parts.append(_SqueezeExcitation(n, max(1, n_in // 4)))
        parts.append(_convolution(n, n_out, 1, is_last=True))
        self.block = nn.Sequential(*parts)
        self.has_shortcut = stride == 1 and n_in == n_out

    def forward(self, images: Tensor) -> Tensor:
        """Return the block's output."""
        found: Tensor = self.block(images)
        return images + found if self.has_shortcut else found


def efficientnet_b5(weights: Weights) -> list[nn.Module]:
    """Return stem and the first six stages, up to 304 channels of stride 32.

    The padding is that of TensorFlow, which the published systems use.

    Raises:
        ModelFileError: If the weights are those of another EfficientNet.
    """
    layers: list[nn.Module] = [_convolution(3, _B5_STEM, 3, 2)]
    n_in = _B5_STEM
    for kernel, stride, wide, n_out, n_blocks in _B5_STAGES:
        blocks = []
        for i in range(n_blocks):
            own = stride if i == 0 else 1
            blocks.append(_InvertedBlock(n_in, n_out, kernel, own, wide))
            n_in = n_out
        layers.append(nn.Sequential(*blocks))
    for index, layer in enumerate(layers):
        _fill(layer, weights, f"features.{index}.")
    return layers


class _SamePadding(nn.Conv2d):
    """A convolution that pads as TensorFlow does: more zeros after than before."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the convolution of padded images."""
        size, (stride, _) = self.kernel_size[0], self.stride
        pads = []
        for length in (images.shape[-1], images.shape[-2]):
            n_out = -(-length // stride)
            total = max(0, (n_out - 1) * stride + size - length)
            pads += [total // 2, total - total // 2]
        return super().forward(functional.pad(images, pads))


def _convolution(
    n_in: int,
    n_out: int,
    kernel: int,
    stride: int = 1,
    *,
    groups: int = 1,
    is_last: bool = False,
) -> nn.Sequential:
    layers = [
        _SamePadding(n_in, n_out, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(n_out, eps=_B5_EPS),
    ]
    return nn.Sequential(*layers, *([] if is_last else [nn.SiLU()]))


def _fill(part: nn.Module, weights: Weights, prefix: str) -> None:
    """Copy the weights with a prefix into a part, under their old names too."""
    state = {}
    for name, own in part.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = own
            continue
        full = f"{prefix}{name}"
        if full not in weights:
            full = _OLD_NAME.sub(r".\1.\2.", full)
        state[name] = weights.tensor(full, tuple(own.shape))
    part.load_state_dict(state)
