"""Finding how a part lies in an image, by phase correlation with a reference.

The spectrum of an image turns with it and does not shift, so the angle follows from
spectra in polar form (Reddy and Chatterji 1996), up to half a turn; the shift follows
from the correlation of the turned image. The best of a few angles is then refined. All
of it is done on 128 x 128 pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from efficientad.errors import ConfigError, ImageError
from efficientad.images.encoding import pixels_of_text, png_text
from efficientad.images.pose import Pose
from efficientad.images.rgb import RGBImage, resize_image
from efficientad.settings import Range, check_fields

Gray = NDArray[np.float32]
"""(128, 128); the border's median is 0."""

SIDE: Final = 128
_ANGLES: Final = 360
"""Angles of a spectrum within half a turn."""
_RADII: Final = np.arange(4, SIDE // 2 - 4)
_MOST_NEEDED: Final = 0.7
_AGREES, _DISAGREES = 0.95, 0.85
"""Correlations from which on, and below which, images show a part that lies anywhere.
"""
_N_PEAKS: Final = 3
_APART: Final = 8
_STEPS: Final = (2.0, 1.0, 0.5, 0.25, 0.125)
"""Degrees by which an angle is refined."""
_BLUR: Final = 1.0
_MIDDLE: Final = 128
_HALF_TURN: Final = 180.0

_AWAY: Final = np.hypot(*(np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2))
_DISC: Final[Gray] = np.clip((SIDE / 2 - _AWAY) / 8, 0, 1).astype(np.float32)
"""Weights without corners, which turn with the image."""


@dataclass(frozen=True)
class Alignment:
    """A reference image of a part, and how well images of it agree."""

    reference: str
    """PNG of 128 x 128 gray pixels, in base64."""
    least_agreement: Annotated[float, Range(-1, 1)]
    """Lowest correlation with the reference at which the part counts as found."""
    aspect: Annotated[float, Range(0.01, 100)] = 1.0
    """Width of the images divided by their height."""

    def __post_init__(self) -> None:
        """Reject a reference that is no such picture."""
        check_fields(self)
        if self.gray.shape != (SIDE, SIDE):
            raise ConfigError("the reference of an alignment needs 128 x 128 pixels")

    def pose(self, image: RGBImage) -> Pose:
        """Return how the part lies in an image.

        Raises:
            ImageError: If the part is not found.
        """
        pose, agreement = _found(self.gray, self.spectrum, gray_of(image))
        if agreement < self.least_agreement:
            raise ImageError(
                f"the part was not found: the image agrees with the reference by "
                f"{agreement:.2f}, at least {self.least_agreement:.2f} is needed; look "
                "at its place and its light"
            )
        return pose

    def squeezed_aligned(self, image: RGBImage) -> RGBImage:
        """Return an aligned image of the networks' input size, as it is there.

        The part need not agree with the reference.
        """
        height, width = image.shape[:2]
        own = resize_image(image, height, max(1, round(height * self.aspect)))
        pose, _ = _found(self.gray, self.spectrum, gray_of(own))
        return resize_image(pose.aligned(own), height, width)

    @cached_property
    def gray(self) -> Gray:
        """Reference, (128, 128)."""
        try:
            pixels = pixels_of_text(self.reference, SIDE)
        except ValueError:
            raise ConfigError("the reference of an alignment is no picture") from None
        return pixels.astype(np.float32) - _MIDDLE

    @cached_property
    def spectrum(self) -> NDArray[np.float64]:
        """Spectrum of the reference in polar form."""
        return _polar_spectrum(self.gray)


def fit_alignment(images: Sequence[Gray], aspect: float = 1.0) -> Alignment:
    """Return the alignment of a part: the mean of its images in the pose of the first.

    There is at least one normal image by `gray_of`.
    """
    first = images[0]
    spectrum = _polar_spectrum(first)
    turned = [_turned(i, _found(first, spectrum, i)[0]) for i in images]
    mean = np.rint(np.mean([first, *turned], axis=0) + _MIDDLE)
    blank = Alignment(png_text(np.clip(mean, 0, 255).astype(np.uint8)), -1.0)
    agreements = [_found(blank.gray, blank.spectrum, i)[1] for i in images]
    # A defect or another session may agree less; an image without the part does so
    # much less.
    least = max(-1.0, min(_MOST_NEEDED, 2 * min(agreements) - 1))
    return Alignment(blank.reference, least, aspect)


def is_worth_it(alignment: Alignment, images: Sequence[Gray]) -> bool:
    """Return whether images agree well in their alignment, and otherwise do not."""
    reference, spectrum = alignment.gray, alignment.spectrum
    aligned = [_found(reference, spectrum, image)[1] for image in images]
    mean = np.mean(images, axis=0)
    products = [float((mean * image).sum()) for image in images]
    norms = [float(np.linalg.norm(image)) for image in images]
    scale = float(np.linalg.norm(mean)) * float(np.mean(norms))
    as_they_lie = float(np.mean(products)) / scale if scale else 1.0
    return min(aligned) >= _AGREES and as_they_lie < _DISAGREES


def gray_of(image: RGBImage) -> Gray:
    """Return an image as poses are found in it: small, gray and square."""
    height, width = image.shape[:2]
    shrink = SIDE / max(height, width)
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    small = Image.fromarray(image).convert("L").resize(size, Image.Resampling.BOX)
    # Without noise, which a turn would smooth.
    values = np.asarray(small.filter(ImageFilter.GaussianBlur(_BLUR)), np.float32)
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    top, left = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    square = np.zeros((SIDE, SIDE), np.float32)
    square[top : top + size[1], left : left + size[0]] = values - np.median(border)
    return square


def _polar_spectrum(gray: Gray) -> NDArray[np.float64]:
    """Return the logarithms of the spectrum by angle and radius, (360, radii)."""
    spectrum = np.log1p(np.abs(np.fft.fftshift(np.fft.fft2(gray * _DISC))))
    angles = np.arange(_ANGLES) * np.pi / _ANGLES
    rows = SIDE / 2 + np.outer(np.sin(angles), _RADII)
    columns = SIDE / 2 + np.outer(np.cos(angles), _RADII)
    top, left = rows.astype(int), columns.astype(int)
    down, across = rows - top, columns - left
    upper = spectrum[top, left] * (1 - across) + spectrum[top, left + 1] * across
    lower = (
        spectrum[top + 1, left] * (1 - across) + spectrum[top + 1, left + 1] * across
    )
    values: NDArray[np.float64] = upper * (1 - down) + lower * down
    centered: NDArray[np.float64] = values - values.mean(0)
    return centered


def _found(reference: Gray, spectrum: NDArray[Any], gray: Gray) -> tuple[Pose, float]:
    """Return the best pose of an image, and its correlation with the reference."""
    product = np.fft.fft(spectrum, axis=0).conj() * np.fft.fft(
        _polar_spectrum(gray), axis=0
    )
    by_angle = np.fft.ifft(product.sum(1)).real
    candidates: list[int] = []
    for index in np.argsort(-by_angle).tolist():
        distances = [abs(index - other) % _ANGLES for other in candidates]
        if all(min(d, _ANGLES - d) > _APART for d in distances):
            candidates.append(index)
        if len(candidates) == _N_PEAKS:
            break
    angles = [i * _HALF_TURN / _ANGLES + f for i in candidates for f in (0, _HALF_TURN)]
    transformed = np.fft.rfft2(reference).conj()
    norm = float(np.linalg.norm(reference))

    def at(angle: float) -> tuple[float, float, float, float]:
        turned = _turned(gray, Pose(angle, 0.0, 0.0))
        product = np.fft.irfft2(transformed * np.fft.rfft2(turned))
        down, right = np.unravel_index(product.argmax(), product.shape)
        scale = norm * float(np.linalg.norm(turned))
        agreement = float(product[down, right]) / scale if scale else 0.0
        steps = _step(product[:, right], down), _step(product[down], right)
        return agreement, angle, *steps

    best = max(at(angle) for angle in angles)
    for step in _STEPS:
        best = max(best, at(best[1] - step), at(best[1] + step))
    agreement, angle, down, right = best
    return Pose(angle % 360, right / SIDE, down / SIDE), agreement


def _step(line: NDArray[Any], peak: Any) -> float:
    """Return the shift that a peak stands for, between pixels by a parabola."""
    before, at, after = line[peak - 1], line[peak], line[(peak + 1) % SIDE]
    bend = before - 2 * at + after
    shift = float(peak) + (float((before - after) / (2 * bend)) if bend else 0.0)
    return shift if shift < SIDE / 2 else shift - SIDE


def _turned(gray: Gray, pose: Pose) -> Gray:
    affine = pose.affine(SIDE, SIDE)
    turned = Image.fromarray(gray).transform(
        (SIDE, SIDE), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
    )
    return np.asarray(turned)
