"""The way of an image to the networks: levels, alignment and size."""

from dataclasses import dataclass
from typing import Final

from efficientad.images.alignment import Alignment
from efficientad.images.levels import Levels, require_levels
from efficientad.images.rgb import (
    INPUT_SIZE,
    ColorOrder,
    ImageLike,
    Layout,
    RGBImage,
    as_rgb,
)
from efficientad.settings import check_fields


@dataclass(frozen=True)
class Preparation:
    """How images are read, aligned and resized. It is part of a detector."""

    size: tuple[int, int] = (INPUT_SIZE, INPUT_SIZE)
    """Height and width that images are resized to. If it is larger than 256 x 256, the
    local map is computed in tiles."""
    alignment: Alignment | None = None
    """Reference that images are aligned with first. None: they are not."""
    levels: Levels | None = None
    """Values of 16-bit images that become 0 and 255. None: 0 and 65535."""

    def __post_init__(self) -> None:
        """Reject settings of another type, and levels that are no range."""
        check_fields(self)
        require_levels(self.levels)

    def read(
        self,
        image: ImageLike,
        name: str = "the given image",
        *,
        color: ColorOrder = "rgb",
        layout: Layout = "hwc",
    ) -> RGBImage:
        """Return an image of any kind with these levels, as `as_rgb` does."""
        return as_rgb(image, name, color=color, layout=layout, levels=self.levels)


AS_IT_IS: Final = Preparation()
"""A whole image, squeezed to 256 x 256."""
