"""Sizes of the method: the layers of its networks, and where a descriptor looks.

The rows follow the paper's Figure 2 and the tables of its supplement, and are all that
is needed to build the networks. No torch here.
"""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

ModelSize = Literal["small", "medium"]
"""The paper's EfficientAD-S and EfficientAD-M."""

INPUT_SIZE: Final = 256
"""Side of the images that the networks see, in pixels."""
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
"""Red, green and blue of ImageNet's training images, on pixel values from 0 to 1."""

DESCRIPTOR_CHANNELS: Final = 384
"""Numbers that describe a patch."""
PATCH_SIZE: Final = 33
"""Side of a patch in pixels."""
PATCH_STRIDE: Final = 4
"""Pixels from one patch to the next."""
GRID_SIZE: Final = (INPUT_SIZE - PATCH_SIZE) // PATCH_STRIDE + 1
"""Rows and columns of descriptors of an image, without padding: 56."""


class Conv(NamedTuple):
    """Convolution with bias."""

    kernel: int
    channels: int
    stride: int = 1
    padding: int = 0
    relu: bool = True


class Pool(NamedTuple):
    """Average over 2 x 2 with stride 2; zeros of the padding count."""

    padding: int = 0


class Resize(NamedTuple):
    """Bilinear resizing to a square."""

    side: int


class Dropout(NamedTuple):
    """Dropout while training."""

    share: float


Layer: TypeAlias = Conv | Pool | Resize | Dropout

PATCH_DESCRIPTION_NETWORKS: Final[dict[ModelSize, tuple[Layer, ...]]] = {
    "small": (
        Conv(4, 128, padding=3),
        Pool(padding=1),
        Conv(4, 256, padding=3),
        Pool(padding=1),
        Conv(3, 256, padding=1),
        Conv(4, 384, relu=False),
    ),
    "medium": (
        Conv(4, 256, padding=3),
        Pool(padding=1),
        Conv(4, 512, padding=3),
        Pool(padding=1),
        Conv(1, 512),
        Conv(3, 512, padding=1),
        Conv(4, 384),
        Conv(1, 384, relu=False),
    ),
}
"""Padded, as while distilling: 64 x 64 descriptors."""

ENCODER: Final[tuple[Layer, ...]] = (
    Conv(4, 32, stride=2, padding=1),
    Conv(4, 32, stride=2, padding=1),
    Conv(4, 64, stride=2, padding=1),
    Conv(4, 64, stride=2, padding=1),
    Conv(4, 64, stride=2, padding=1),
    Conv(8, 64, relu=False),  # the bottleneck: 64 numbers for the whole image
)
DECODER: Final[tuple[Layer, ...]] = (
    *(Resize(3), Conv(4, 64, padding=2), Dropout(0.2)),
    *(Resize(8), Conv(4, 64, padding=2), Dropout(0.2)),
    *(Resize(15), Conv(4, 64, padding=2), Dropout(0.2)),
    *(Resize(32), Conv(4, 64, padding=2), Dropout(0.2)),
    *(Resize(63), Conv(4, 64, padding=2), Dropout(0.2)),
    *(Resize(127), Conv(4, 64, padding=2), Dropout(0.2)),
    *(Resize(GRID_SIZE), Conv(3, 64, padding=1)),
    Conv(3, 384, padding=1, relu=False),
)
AUTOENCODER: Final = ENCODER + DECODER
DECODER_SIZES: Final = tuple(x.side for x in DECODER[:-3] if isinstance(x, Resize))


def unpadded(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the layers without padding, for training the student and for prediction.

    The weights are the same: 256 x 256 pixels then give 56 x 56 descriptors.
    """
    return tuple(
        layer._replace(padding=0) if isinstance(layer, Conv | Pool) else layer
        for layer in layers
    )


def with_channels(
    layers: Sequence[Layer], n_channels: int, n_hidden: int
) -> tuple[Layer, ...]:
    """Return the layers of a network with other channels in place of 384.

    The last layer gets `n_channels`, 768 for a student, and others `n_hidden`, the same
    in the paper.
    """
    *hidden, last = (
        layer._replace(channels=n_hidden)
        if isinstance(layer, Conv) and layer.channels == DESCRIPTOR_CHANNELS
        else layer
        for layer in layers
    )
    assert isinstance(last, Conv)
    return *hidden, last._replace(channels=n_channels)


def convolution_shapes(layers: Sequence[Layer]) -> list[tuple[int, int, int, int]]:
    """Return the shapes of the convolutions' weights, (out, in, kernel, kernel)."""
    shapes, n_in = [], 3
    for layer in layers:
        if isinstance(layer, Conv):
            shapes.append((layer.channels, n_in, layer.kernel, layer.kernel))
            n_in = layer.channels
    return shapes


def autoencoder_shapes(n_channels: int) -> dict[str, tuple[int, int, int, int]]:
    """Return the shapes of the autoencoder's convolutions by their names."""
    n = len(ENCODER) - 1
    layers = with_channels(AUTOENCODER, n_channels, n_channels)
    shapes = convolution_shapes(layers)
    names = [f"encoder.{i}" for i in range(n)] + ["bottleneck"]
    names += [f"decoder.{i}" for i in range(len(shapes) - n - 3)]
    named = zip([*names, "refine", "describe"], shapes, strict=True)
    return {f"autoencoder.{name}": shape for name, shape in named}
