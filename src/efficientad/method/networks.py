"""The three networks: patch description networks (teacher, student), autoencoder.

Paper, section 3.1, "Patch description networks", and 3.3, "Logical anomaly detection".
The layers are in `sizes`; here they become PyTorch modules. `plain_network` is the
shortest form. The classes compute the same from the same rows: they can leave out the
padding or some of the descriptors' channels, and take faster `Operations`.

A patch description network (PDN) is fully convolutional. Each output vector, a
descriptor, depends on exactly one patch of 33 x 33 pixels; neighbouring descriptors are
4 pixels apart. The unpadded descriptors are the interior of the padded ones.

The networks know nothing about normalization of images or descriptors.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from efficientad.method.inputs import Images
from efficientad.method.sizes import (
    AUTOENCODER,
    DESCRIPTOR_CHANNELS,
    ENCODER,
    GRID_SIZE,
    PATCH_DESCRIPTION_NETWORKS,
    Conv,
    Dropout,
    Layer,
    ModelSize,
    Pool,
    Resize,
    unpadded,
    with_channels,
)

Descriptors = Float[Tensor, "batch channels rows columns"]


class Convolve(Protocol):
    """Computes a convolution with bias, and ReLU where asked for."""

    def __call__(
        self,
        image: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        stride: int = 1,
        padding: int = 0,
        relu: bool = False,
    ) -> Tensor:
        """Return the result."""
        ...


class ReluPool(Protocol):
    """Computes ReLU, then the average over 2 x 2 pixels."""

    def __call__(self, image: Tensor, *, padding: int = 0) -> Tensor:
        """Return the result."""
        ...


class Operations(NamedTuple):
    """Functions that compute the layers; all sets agree but for rounding."""

    convolve: Convolve
    relu_pool: ReluPool


def _convolve(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int = 1,
    padding: int = 0,
    relu: bool = False,
) -> Tensor:
    result = functional.conv2d(image, weight, bias, stride=stride, padding=padding)
    return functional.relu(result) if relu else result


def _relu_pool(image: Tensor, *, padding: int = 0) -> Tensor:
    return functional.avg_pool2d(functional.relu(image), 2, 2, padding=padding)


PLAIN = Operations(_convolve, _relu_pool)
"""PyTorch's own operations."""


def plain_network(layers: Sequence[Layer]) -> nn.Sequential:
    """Return the layers as PyTorch's modules, with random weights."""
    modules: list[nn.Module] = []
    n_in = 3
    for layer in layers:
        match layer:
            case Conv(kernel, n_out, stride, padding, relu):
                modules.append(nn.Conv2d(n_in, n_out, kernel, stride, padding))
                modules += [nn.ReLU(inplace=True)] if relu else []
                n_in = n_out
            case Pool(padding):
                modules.append(nn.AvgPool2d(2, 2, padding))
            case Resize(side):
                modules.append(nn.Upsample((side, side), mode="bilinear"))
            case Dropout(share):
                modules.append(nn.Dropout(share))
    return nn.Sequential(*modules)


class _Network(nn.Module):
    """Runs layers with convolutions of its own."""

    def __init__(self, operations: Operations) -> None:
        super().__init__()
        self.operations = operations

    def _run(
        self, x: Tensor, layers: Sequence[Layer], convolutions: Iterable[nn.Module]
    ) -> Tensor:
        remaining = iter(convolutions)
        for layer, following in zip(layers, (*layers[1:], None), strict=True):
            match layer:
                case Conv():
                    # ReLU before pooling is part of the pooling.
                    relu = layer.relu and not isinstance(following, Pool)
                    x = self._convolved(x, next(remaining), layer, relu=relu)
                case Pool(padding):
                    x = self.operations.relu_pool(x, padding=padding)
                case Resize(side):
                    x = functional.interpolate(
                        x, (side, side), mode="bilinear", align_corners=False
                    )
                case Dropout(share):
                    x = functional.dropout(x, share, self.training)
        return x

    def _convolved(
        self, x: Tensor, convolution: nn.Module, layer: Conv, *, relu: bool
    ) -> Tensor:
        assert isinstance(convolution, nn.Conv2d)
        return self.operations.convolve(
            x,
            convolution.weight,
            convolution.bias,
            stride=layer.stride,
            padding=layer.padding,
            relu=relu,
        )


class PatchDescriptionNetwork(_Network):
    """Describes every 33 x 33 patch of an image by one vector.

    Args:
        size: The paper's EfficientAD-S or EfficientAD-M network.
        n_channels: Length of a descriptor: 384 for a teacher, 768 for a student.
        n_hidden: Channels of the medium network's last hidden layer. None: as many as
            a descriptor has, as in the paper.
        operations: Functions that compute the layers.
    """

    has_batch_norm = False

    def __init__(
        self,
        size: ModelSize,
        n_channels: int = DESCRIPTOR_CHANNELS,
        *,
        n_hidden: int | None = None,
        operations: Operations = PLAIN,
    ) -> None:
        super().__init__(operations)
        self.size: ModelSize = size
        self.n_channels = n_channels
        self.n_hidden = n_channels if n_hidden is None else n_hidden
        layers = PATCH_DESCRIPTION_NETWORKS[size]
        self._padded = with_channels(layers, n_channels, self.n_hidden)
        self._unpadded = unpadded(self._padded)
        self.convolutions = nn.ModuleList(_convolutions(self._unpadded))

    def forward(self, images: Images, *, padded: bool = False) -> Descriptors:
        """Describe the patches of normalized RGB images.

        Args:
            images: ImageNet-normalized, at least 33 x 33 pixels when not padded.
            padded: Pad with zeros as while distilling.

        Returns:
            One descriptor every 4 pixels; (i, j) unpadded looks at rows 4i to 4i + 32.
        """
        return self.head(self.hidden(images, padded=padded))

    def hidden(self, images: Images, *, padded: bool = False) -> Tensor:
        """Return the input of the last convolution."""
        layers = self._padded if padded else self._unpadded
        return self._run(images, layers[:-1], list(self.convolutions)[:-1])

    def head(self, hidden: Tensor, channels: slice = slice(None)) -> Descriptors:
        """Return some channels of the descriptors; the others cost nothing.

        Args:
            hidden: Result of `hidden`.
            channels: Channels of the descriptors.
        """
        last = self.convolutions[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        return self.operations.convolve(
            hidden, last.weight[channels], last.bias[channels]
        )


class Autoencoder(_Network):
    """Predicts the teacher's descriptors of a whole image through 64 numbers.

    The bottleneck is too narrow for fine detail, so the prediction is blurred; it holds
    the arrangement of the parts, which a 33 x 33 patch cannot.

    Args:
        n_channels: Length of a descriptor.
        operations: Functions that compute the layers.
    """

    def __init__(
        self,
        n_channels: int = DESCRIPTOR_CHANNELS,
        *,
        operations: Operations = PLAIN,
    ) -> None:
        super().__init__(operations)
        self._layers = with_channels(AUTOENCODER, n_channels)
        convolutions = _convolutions(self._layers)
        n_encoding = len(ENCODER)
        self.encoder = nn.ModuleList(convolutions[: n_encoding - 1])
        self.bottleneck = convolutions[n_encoding - 1]
        self.decoder = nn.ModuleList(convolutions[n_encoding:-2])
        self.refine, self.describe = convolutions[-2:]

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
        assert grid[0] == grid[1]
        layers = [
            Resize(grid[0]) if layer == Resize(GRID_SIZE) else layer
            for layer in self._layers
        ]
        last = self.refine, self.describe
        convolutions = *self.encoder, self.bottleneck, *self.decoder, *last
        # The encoder's strided layers are fastest in the default memory layout.
        return self._run(images.contiguous(), layers, convolutions)


def _convolutions(layers: Sequence[Layer]) -> list[nn.Conv2d]:
    return [m for m in plain_network(layers) if isinstance(m, nn.Conv2d)]
