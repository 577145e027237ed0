"""The three networks: patch description networks (teacher, student), autoencoder.

Paper, section 3.1, "Patch description networks", and 3.3, "Logical anomaly detection";
layer tables in the supplement.

A patch description network (PDN) is fully convolutional. Each output vector, a
descriptor, depends on exactly one patch of 33 x 33 pixels; neighbouring descriptors are
4 pixels apart. With padding, as while distilling, 256 x 256 pixels give 64 x 64
descriptors; without, as while training a student and at inference, 56 x 56. The weights
are the same, and the unpadded descriptors are the interior of the padded ones.

The networks know nothing about normalization of images or descriptors.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from efficientad.kernels.winograd import conv2d, relu_pool

Images = Float[Tensor, "batch 3 height width"]
Descriptors = Float[Tensor, "batch channels rows columns"]

ModelSize = Literal["small", "medium"]

DESCRIPTOR_CHANNELS = 384
PATCH_SIZE = 33
PATCH_STRIDE = 4
BOTTLENECK_SIZE = 64
AUTOENCODER_INPUT_SIZE = 256
GRID_SIZE = 56
"""Rows and columns of descriptors of 256 x 256 pixels, unpadded."""

# One row a convolution: kernel, channels out (None: the network's own), padding while
# distilling, and what follows it.
_Layer = tuple[int, int | None, int, Literal["pool", "relu", "none"]]
LAYERS: dict[ModelSize, tuple[_Layer, ...]] = {
    "small": (
        (4, 128, 3, "pool"),
        (4, 256, 3, "pool"),
        (3, 256, 1, "relu"),
        (4, None, 0, "none"),
    ),
    "medium": (
        (4, 256, 3, "pool"),
        (4, 512, 3, "pool"),
        (1, 512, 0, "relu"),
        (3, 512, 1, "relu"),
        (4, None, 0, "relu"),
        (1, None, 0, "none"),
    ),
}


class PatchDescriptionNetwork(nn.Module):
    """Describes every 33 x 33 patch of an image by one vector.

    Args:
        size: The paper's EfficientAD-S or EfficientAD-M network.
        n_channels: Length of a descriptor: 384 for a teacher, 768 for a student.
        n_hidden: Channels of the medium network's last hidden layer. None: as many as
            a descriptor has, as in the paper.
        has_batch_norm: Normalize each hidden convolution's output over the batch. A
            means of training only: `folded` gives the same function as a plain
            network.
    """

    def __init__(
        self,
        size: ModelSize,
        n_channels: int = DESCRIPTOR_CHANNELS,
        *,
        n_hidden: int | None = None,
        has_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.size: ModelSize = size
        self.n_channels = n_channels
        self.n_hidden = n_channels if n_hidden is None else n_hidden
        self.has_batch_norm = has_batch_norm
        self.convolutions = nn.ModuleList()
        self.norms = nn.ModuleList()
        n_in = 3
        for kernel, channels, _, after in LAYERS[size]:
            own = n_channels if after == "none" else self.n_hidden
            n_out = channels or own
            self.convolutions.append(nn.Conv2d(n_in, n_out, kernel))
            if has_batch_norm and after != "none":
                self.norms.append(nn.BatchNorm2d(n_out))
            n_in = n_out

    def forward(self, images: Images, *, padded: bool = False) -> Descriptors:
        """Describe the patches of normalized RGB images.

        Args:
            images: ImageNet-normalized, at least 33 x 33 pixels when not padded.
            padded: Pad with zeros as while distilling.

        Returns:
            One descriptor every 4 pixels; (i, j) unpadded looks at rows 4i to 4i + 32.
        """
        return self.head(self.hidden(images, padded=padded), padded=padded)

    def hidden(self, images: Images, *, padded: bool = False) -> Tensor:
        """Give what the last convolution reads.

        Args:
            images: As for a whole pass.
            padded: As for a whole pass.
        """
        x = images
        norms = iter(self.norms)
        for convolution, layer in zip(
            list(self.convolutions)[:-1], LAYERS[self.size][:-1], strict=True
        ):
            x = self._layer(x, convolution, norms, layer, padded=padded)
        return x

    def head(
        self,
        hidden: Tensor,
        channels: slice = slice(None),
        *,
        padded: bool = False,
    ) -> Descriptors:
        """Give some channels of the descriptors; the others cost nothing.

        Args:
            hidden: What `hidden` gave.
            channels: Of the descriptors.
            padded: As for `hidden`.
        """
        last = self.convolutions[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        _, _, padding, _ = LAYERS[self.size][-1]
        weight, bias = last.weight[channels], last.bias[channels]
        return conv2d(hidden, weight, bias, padding=padding if padded else 0)

    def _layer(
        self,
        x: Tensor,
        convolution: nn.Module,
        norms: Iterator[nn.Module],
        layer: _Layer,
        *,
        padded: bool,
    ) -> Tensor:
        _, _, padding, after = layer
        assert isinstance(convolution, nn.Conv2d)
        x = conv2d(
            x,
            convolution.weight,
            convolution.bias,
            padding=padding if padded else 0,
            relu=after == "relu" and not self.has_batch_norm,
        )
        if self.has_batch_norm:
            x = next(norms)(x)
        if after == "pool":
            return relu_pool(x, padding=1 if padded else 0)
        return functional.relu(x, inplace=True) if self.has_batch_norm else x

    def folded(self) -> "PatchDescriptionNetwork":
        """Give the plain network that computes what this one does in evaluation mode.

        Exact but for rounding: batch normalization with fixed statistics is one affine
        map per channel, taken up by the convolution before it.
        """
        plain = PatchDescriptionNetwork(
            self.size, self.n_channels, n_hidden=self.n_hidden
        )
        state = {
            name: value
            for name, value in self.state_dict().items()
            if name.startswith("convolutions")
        }
        for index, norm in enumerate(self.norms):
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.running_var is not None
            assert norm.running_mean is not None
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            weight, bias = f"convolutions.{index}.weight", f"convolutions.{index}.bias"
            state[weight] = state[weight] * scale.view(-1, 1, 1, 1)
            state[bias] = norm.bias + (state[bias] - norm.running_mean) * scale
        plain.load_state_dict(state)
        return plain.train(self.training)

    @torch.no_grad()
    def projected(
        self,
        matrix: Float[Tensor, "channels own_channels"],
        mean: Float[Tensor, " own_channels"],
    ) -> "PatchDescriptionNetwork":
        """Give the plain network whose descriptors are `matrix @ (descriptor - mean)`.

        The last convolution is linear, so it takes up both, and with fewer channels
        costs less.

        Args:
            matrix: A row for each channel of the new descriptors.
            mean: What is taken off the descriptors before.
        """
        plain = PatchDescriptionNetwork(self.size, len(matrix), n_hidden=self.n_hidden)
        last = f"convolutions.{len(self.convolutions) - 1}"
        state = dict(self.folded().state_dict())
        state[f"{last}.bias"] = state[f"{last}.bias"] - mean
        plain.load_state_dict(_projected(state, last, matrix))
        return plain.to(matrix.device).train(self.training)


def _projected(
    state: dict[str, Tensor], last: str, matrix: Float[Tensor, "channels own_channels"]
) -> dict[str, Tensor]:
    """Multiply what a network gives, by its last convolution."""
    weight, bias = (state[f"{last}.{part}"].double() for part in ("weight", "bias"))
    rows = matrix.double()
    return state | {
        f"{last}.weight": torch.einsum("ac,cihw->aihw", rows, weight),
        f"{last}.bias": rows @ bias,
    }


ENCODER_CHANNELS = (32, 32, 64, 64, 64)
DECODER_SIZES = (3, 8, 15, 32, 63, 127)
_DECODER_CHANNELS = 64
_DROPOUT = 0.2


class Autoencoder(nn.Module):
    """Predicts the teacher's descriptors of a whole image through 64 numbers.

    The bottleneck is too narrow for fine detail, so the prediction is blurred; it holds
    the arrangement of the parts, which a 33 x 33 patch cannot.
    """

    def __init__(self, n_channels: int = DESCRIPTOR_CHANNELS) -> None:
        super().__init__()
        channels = (3, *ENCODER_CHANNELS)
        self.encoder = nn.ModuleList(
            nn.Conv2d(n_in, n_out, 4, stride=2, padding=1)
            for n_in, n_out in pairwise(channels)
        )
        self.bottleneck = nn.Conv2d(channels[-1], BOTTLENECK_SIZE, 8)
        self.decoder = nn.ModuleList(
            nn.Conv2d(_DECODER_CHANNELS, _DECODER_CHANNELS, 4, padding=2)
            for _ in DECODER_SIZES
        )
        self.dropout = nn.Dropout(_DROPOUT)
        self.refine = nn.Conv2d(_DECODER_CHANNELS, _DECODER_CHANNELS, 3, padding=1)
        self.describe = nn.Conv2d(_DECODER_CHANNELS, n_channels, 3, padding=1)

    def forward(
        self,
        images: Float[Tensor, "batch 3 256 256"],
        grid: tuple[int, int] = (GRID_SIZE, GRID_SIZE),
    ) -> Descriptors:
        """Predict the descriptors of normalized images.

        Args:
            images: ImageNet-normalized, 256 x 256 pixels.
            grid: Rows and columns of descriptors: 56 unpadded, 64 padded.
        """
        # The encoder's strided layers are fastest in the default memory layout.
        x = images.contiguous()
        for convolution in self.encoder:
            x = functional.relu(convolution(x))
        x = self.bottleneck(x)
        for size, convolution in zip(DECODER_SIZES, self.decoder, strict=True):
            assert isinstance(convolution, nn.Conv2d)
            x = _resized(x, (size, size))
            x = conv2d(x, convolution.weight, convolution.bias, padding=2, relu=True)
            x = self.dropout(x)
        x = _resized(x, grid)
        x = conv2d(x, self.refine.weight, self.refine.bias, padding=1, relu=True)
        return conv2d(x, self.describe.weight, self.describe.bias, padding=1)

    @torch.no_grad()
    def projected(
        self, matrix: Float[Tensor, "channels own_channels"]
    ) -> "Autoencoder":
        """Give the autoencoder whose descriptors are `matrix @ descriptor`.

        Args:
            matrix: A row for each channel of the new descriptors.
        """
        other = Autoencoder(len(matrix))
        other.load_state_dict(_projected(self.state_dict(), "describe", matrix))
        return other.to(matrix.device).train(self.training)


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(x, size, mode="bilinear", align_corners=False)
