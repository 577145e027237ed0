"""The pose of a part in an image: an angle and a shift against a reference.

Lengths are shares of the image's longer side, so that a pose holds at any size of the
image. What a pose brings into the image from outside repeats its border.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from efficientad.images.rgb import Mask, RGBImage

Affine = tuple[float, float, float, float, float, float]
"""Source of a target point (x, y): ax + by + c, dx + ey + f. A pixel's center is at a
half."""


@dataclass(frozen=True, slots=True)
class Pose:
    """How a part lies in an image, against its reference."""

    angle: float
    """Degrees by which the part is turned, clockwise as one sees it."""
    right: float
    """Shift of the part to the right, after the turn back."""
    down: float
    """Shift of the part downwards, after the turn back."""

    def aligned(self, image: RGBImage) -> RGBImage:
        """Return an image in which the part lies as in the reference, same size."""
        height, width = image.shape[:2]
        corners = [
            self.point_in_own_frame(x, y, height, width)
            for x in (0, width)
            for y in (0, height)
        ]
        beyond = (max(-x, x - width, -y, y - height, 0) for x, y in corners)
        margin = math.ceil(max(beyond)) + 2
        padded = np.pad(
            image, ((margin, margin), (margin, margin), (0, 0)), mode="edge"
        )
        a, b, c, d, e, f = self.affine(height, width)
        affine = (a, b, c + margin, d, e, f + margin)
        picture = Image.fromarray(padded).transform(
            (width, height), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC
        )
        return np.asarray(picture)

    def in_own_frame(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return an aligned map, (height, width), in the frame of the image.

        Pixels that alignment moved out of sight get the map's lowest value.
        """
        height, width = values.shape
        picture = Image.fromarray(values).transform(
            (width, height),
            Image.Transform.AFFINE,
            _inverse(self.affine(height, width)),
            Image.Resampling.BILINEAR,
            fillcolor=float(values.min()),
        )
        return np.asarray(picture)

    def mask_in_own_frame(self, mask: Mask) -> Mask:
        """Return an aligned mask, (height, width), in the frame of the image."""
        return self.in_own_frame(mask.astype(np.float32)) > 1 / 2

    def point_in_own_frame(
        self, x: float, y: float, height: int, width: int
    ) -> tuple[float, float]:
        """Return where a point of the aligned image lies in the image."""
        a, b, c, d, e, f = self.affine(height, width)
        return a * x + b * y + c, d * x + e * y + f

    def affine(self, height: int, width: int) -> Affine:
        """Return where pixels of the aligned image lie in the image."""
        turn = math.radians(self.angle)
        cos, sin, side = math.cos(turn), math.sin(turn), max(height, width)
        middle_x, middle_y = width / 2, height / 2
        # Shifted first, then turned about the middle.
        x, y = self.right * side - middle_x, self.down * side - middle_y
        left, top = cos * x - sin * y + middle_x, sin * x + cos * y + middle_y
        return cos, -sin, left, sin, cos, top


def _inverse(affine: Affine) -> Affine:
    a, b, c, d, e, f = affine  # a turn: its inverse is its transpose
    return a, d, -(a * c + d * f), b, e, -(b * c + e * f)
