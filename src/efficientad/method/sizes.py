"""Sizes of the method: the layers of its networks, and where a descriptor looks.

The layers are in the order of the paper's Figure 2 and of its supplement's tables; the
rows are all there is to know to build the networks. No torch here.
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
"""Length of a descriptor: numbers that the teacher describes a patch by."""
PATCH_SIZE: Final = 33
"""Side of the square of pixels that a descriptor depends on."""
PATCH_STRIDE: Final = 4
"""Pixels from one descriptor to the next."""
GRID_SIZE: Final = (INPUT_SIZE - PATCH_SIZE) // PATCH_STRIDE + 1
"""Rows and columns of descriptors of an image of 256 x 256 pixels, without padding."""


class Conv(NamedTuple):
    """Convolution with bias over a square of `kernel` x `kernel` pixels."""

    kernel: int
    channels: int
    stride: int = 1
    padding: int = 0
    relu: bool = True


class Pool(NamedTuple):
    """Average over 2 x 2 pixels with stride 2; zeros of the padding count."""

    padding: int = 0


class Resize(NamedTuple):
    """Bilinear resizing to `side` x `side`."""

    side: int


class Dropout(NamedTuple):
    """Dropout of this share of the values while training."""

    share: float


Layer: TypeAlias = Conv | Pool | Resize | Dropout

PATCH_DESCRIPTION_NETWORKS: Final[dict[ModelSize, tuple[Layer, ...]]] = {
    "small": (
        Conv(4, 128, padding=3),
        Pool(padding=1),
        Conv(4, 256, padding=3),
        Pool(padding=1),
        Conv(3, 256, padding=1),
        Conv(4, DESCRIPTOR_CHANNELS, relu=False),
    ),
    "medium": (
        Conv(4, 256, padding=3),
        Pool(padding=1),
        Conv(4, 512, padding=3),
        Pool(padding=1),
        Conv(1, 512),
        Conv(3, 512, padding=1),
        Conv(4, DESCRIPTOR_CHANNELS),
        Conv(1, DESCRIPTOR_CHANNELS, relu=False),
    ),
}
"""Padded, as while distilling: 64 x 64 descriptors. See `unpadded`."""

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
    Resize(GRID_SIZE),
    Conv(3, 64, padding=1),
    Conv(3, DESCRIPTOR_CHANNELS, padding=1, relu=False),
)
AUTOENCODER: Final = ENCODER + DECODER
DECODER_SIZES: Final = tuple(
    layer.side for layer in DECODER[:-3] if isinstance(layer, Resize)
)


def unpadded(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the layers without padding, as for the student and for prediction.

    The weights are the same: 256 x 256 pixels then give 56 x 56 descriptors.
    """
    return tuple(
        layer._replace(padding=0) if isinstance(layer, Conv | Pool) else layer
        for layer in layers
    )


def with_channels(
    layers: Sequence[Layer], n_channels: int, n_hidden: int | None = None
) -> tuple[Layer, ...]:
    """Return the layers of a network whose descriptors have another length.

    Args:
        layers: Layers of a network with descriptors of 384 channels.
        n_channels: Length of a descriptor, 768 for a student.
        n_hidden: Channels of the other layers that have 384 of them. None: as many as
            a descriptor has, as in the paper.
    """
    hidden = tuple(
        layer._replace(channels=n_hidden or n_channels)
        if isinstance(layer, Conv) and layer.channels == DESCRIPTOR_CHANNELS
        else layer
        for layer in layers[:-1]
    )
    last = layers[-1]
    assert isinstance(last, Conv)
    return *hidden, last._replace(channels=n_channels)
