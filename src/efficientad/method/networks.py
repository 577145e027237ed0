"""The three networks: patch description networks (teacher, student), autoencoder.

Paper, section 3.1, "Patch description networks", and 3.3, "Logical anomaly detection".
`plain_network` turns rows of `sizes` into PyTorch's modules. The classes compute the
same rows, can leave out padding or channels, and take faster `Operations`.

A patch description network (PDN) is fully convolutional. Each output vector, a
descriptor, depends on exactly one patch of 33 x 33 pixels; neighboring descriptors are
4 pixels apart. The unpadded descriptors are the interior of the padded ones.

The networks know nothing about normalization of images or descriptors.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from efficientad.method import sizes
from efficientad.method.inputs import Images
from efficientad.method.sizes import (
    DESCRIPTOR_CHANNELS,
    Conv,
    Dropout,
    Layer,
    ModelSize,
    Pool,
    Resize,
)

Descriptors = Float[Tensor, "batch channels rows columns"]


class Operations(NamedTuple):
    """Functions that compute the layers; all sets agree but for rounding."""

    convolve: Callable[..., Tensor]
    """`conv2d` of an image, weight and bias; `stride`, `padding`, `relu` by name."""
    relu_pool: Callable[..., Tensor]
    """ReLU, then the average over 2 x 2; `padding` by name."""


def _convolve(
    image: Tensor, weight: Tensor, bias: Tensor, *, relu: bool = False, **how: int
) -> Tensor:
    result = functional.conv2d(image, weight, bias, **how)
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


def _convolutions(layers: Sequence[Layer]) -> list[nn.Conv2d]:
    return [m for m in plain_network(layers) if isinstance(m, nn.Conv2d)]


class _Network(nn.Module):
    """Computes layers with convolutions of its own."""

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
                    # Pooling computes the ReLU before it.
                    relu = layer.relu and not isinstance(following, Pool)
                    x = self._convolved(x, next(remaining), layer, relu=relu)
                case Pool(padding):
                    x = self.operations.relu_pool(x, padding=padding)
                case Resize(side):
                    x = functional.interpolate(x, (side, side), mode="bilinear")
                case Dropout(share):
                    x = functional.dropout(x, share, self.training)
        return x

    def _convolved(
        self, x: Tensor, convolution: nn.Module, layer: Conv, *, relu: bool
    ) -> Tensor:
        weight, bias = convolution.weight, convolution.bias
        how = {"stride": layer.stride, "padding": layer.padding}
        return self.operations.convolve(x, weight, bias, relu=relu, **how)


class PatchDescriptionNetwork(_Network):
    """Describes every 33 x 33 patch of an image by one vector.

    Args:
        size: The paper's EfficientAD-S or EfficientAD-M network.
        n_channels: Length of a descriptor: 384 for a teacher, 768 for a student.
        n_hidden: Channels of the medium network's last hidden layer. None: as many as
            a descriptor has, as in the paper.
        operations: Functions that compute the layers.
    """

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
        self.n_channels, self.n_hidden = n_channels, n_hidden or n_channels
        layers = sizes.PATCH_DESCRIPTION_NETWORKS[size]
        self._padded = sizes.with_channels(layers, n_channels, self.n_hidden)
        self._unpadded = sizes.unpadded(self._padded)
        self.convolutions = nn.ModuleList(_convolutions(self._unpadded))

    def forward(self, images: Images, *, padded: bool = False) -> Descriptors:
        """Return one descriptor every 4 pixels of normalized images.

        Unpadded, the images have at least 33 x 33 pixels, and (i, j) looks at rows 4i
        to 4i + 32. Padding by zeros is that of distilling.
        """
        return self.head(self.hidden(images, padded=padded))

    def hidden(self, images: Images, *, padded: bool = False) -> Tensor:
        """Return the input of the last convolution."""
        layers = self._padded if padded else self._unpadded
        return self._run(images, layers[:-1], list(self.convolutions)[:-1])

    def head(self, hidden: Tensor, channels: slice = slice(None)) -> Descriptors:
        """Return some channels of the descriptors; the others cost nothing."""
        *_, weight, bias = self.convolutions.parameters()
        return self.operations.convolve(hidden, weight[channels], bias[channels])


class Autoencoder(_Network):
    """Predicts the teacher's descriptors of a whole image through 64 numbers.

    The bottleneck is too narrow for fine detail, so the prediction is blurred; it holds
    the arrangement of the parts, which a 33 x 33 patch cannot.
    """

    def __init__(
        self, n_channels: int = DESCRIPTOR_CHANNELS, *, operations: Operations = PLAIN
    ) -> None:
        super().__init__(operations)
        n = len(sizes.ENCODER)
        layers = sizes.with_channels(sizes.AUTOENCODER, n_channels, n_channels)
        convolutions = _convolutions(layers)
        self.encoder = nn.ModuleList(convolutions[: n - 1])
        self.bottleneck = convolutions[n - 1]
        self.decoder = nn.ModuleList(convolutions[n:-2])
        self.refine, self.describe = convolutions[-2:]

    def forward(self, images: Float[Tensor, "batch 3 256 256"]) -> Descriptors:
        """Predict the 56 x 56 descriptors of normalized images."""
        last = self.refine, self.describe
        convolutions = *self.encoder, self.bottleneck, *self.decoder, *last
        # The encoder's strided layers are fastest in the default memory layout.
        return self._run(images.contiguous(), sizes.AUTOENCODER, convolutions)
