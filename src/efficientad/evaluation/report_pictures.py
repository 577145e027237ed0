"""The pictures of a report: an image, its maps as layers, and outlines, as data.

A page with 500 of them has to stay below 15 MB, so each gets an equal share, and the
size of its image follows. Maps are small and transparent, one for each name; a browser
lays them over the image and enlarges them smoothly.
"""

import base64
import io
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from efficientad.datasets import NORMAL
from efficientad.decisions.decision import Decision
from efficientad.images.encoding import data_uri, encoded
from efficientad.images.heatmaps import (
    MASK_COLOR,
    THRESHOLD_COLOR,
    color_scale,
    outline_mask,
    overlay_layer,
    resize_mask,
)
from efficientad.images.rgb import Mask, RGBImage, resize_image
from efficientad.inspection.panels import drawn_map, drawn_regions
from efficientad.inspection.prediction import Prediction
from efficientad.method.maps import on_finest_grid

MAX_PICTURES: Final = 1000
"""Pictures that a report shows, at most."""

COMBINED: Final = "combined"

_PAGE_BYTES: Final = 13_500_000
_SIDES: Final = (1024, 768, 576, 432, 324, 243, 182, 137, 96)
_LAYER_SIDE: Final = 256
_QUALITY: Final = 82
_INTEREST_COLOR: Final = (150, 150, 150)

Verdict = Literal["found", "missed", "false alarm", "passed", "unsure"]
Source = Literal["local", "global", "image", ""]


@dataclass(frozen=True, eq=False, slots=True)
class Picture:
    """A test image as a report shows it."""

    name: str
    """Path within the category."""
    defect_type: str
    """`good` where there is no defect."""
    image_score: float
    p_value: str
    """As `Prediction.p_value_text`."""
    decision: Decision
    reason: str
    """Sentence on the decision, without a full stop."""
    source: Source
    """Reason for an anomalous image, `image` for its composition; else empty."""
    width: int
    """Width of the image in pixels."""
    height: int
    """Height of the image in pixels."""
    photo: str
    """The image as a data URI."""
    layers: dict[str, str]
    """Maps by name, `combined` first, as transparent data URIs."""
    lines: str
    """Outlines as a transparent data URI; empty where there are none."""

    @property
    def is_defect(self) -> bool:
        """Whether the image shows a defect."""
        return self.defect_type != NORMAL

    @property
    def verdict(self) -> Verdict:
        """Whether the decision is right for this image."""
        if self.decision == "unsure":
            return "unsure"
        is_anomalous = self.decision == "anomalous"
        if self.is_defect:
            return "found" if is_anomalous else "missed"
        return "false alarm" if is_anomalous else "passed"


def picture_of(
    name: str,
    defect_type: str,
    image: RGBImage,
    prediction: Prediction,
    defect_mask: Mask | None = None,
    *,
    n_pictures: int = 1,
) -> Picture:
    """Return a picture that takes its share of a page of `n_pictures`.

    The mask, of the shape of the image, is None if it is normal or not annotated.
    """
    low, high = color_scale(prediction.normal_range)
    finest = max(max(grid.shape) for grid in prediction.grids.values())
    rows, columns = _fitted(image, min(2 * finest, _LAYER_SIDE))
    grids = {COMBINED: prediction.combined_grid, **prediction.grids}
    layers = {
        key: data_uri(overlay_layer(drawn, low=low, high=high))
        for key, grid in grids.items()
        for drawn in [drawn_map(grid, rows, columns, prediction.pose)]
    }
    room = _PAGE_BYTES / min(n_pictures, MAX_PICTURES) - sum(map(len, layers.values()))
    for longest in _SIDES:
        small = _at_most(image, longest)
        photo = _jpeg(small)
        if len(photo) <= room:
            break
    source, reason = _reason(prediction)
    return Picture(
        name=name,
        defect_type=defect_type,
        image_score=prediction.image_score,
        p_value=prediction.p_value_text,
        decision=prediction.decision,
        reason=reason,
        source=source,
        width=prediction.width,
        height=prediction.height,
        photo=photo,
        layers=layers,
        lines=_lines(prediction, defect_mask, *small.shape[:2]),
    )


def thumbnail(picture: Picture, side: int = 160) -> str:
    """Return the image of a picture, smaller, as a data URI."""
    content = base64.b64decode(picture.photo.partition(",")[2])
    with Image.open(io.BytesIO(content)) as photo:
        return _jpeg(_at_most(np.asarray(photo), side))


def _reason(prediction: Prediction) -> tuple[Source, str]:
    """Return what a decision follows from, and a sentence on it."""
    if prediction.flagged_for == "composition":
        return "image", (
            "no single place exceeds the threshold, but the image as a whole is unlike "
            "the normal images"
        )
    if prediction.flagged_for == "":
        score, threshold = prediction.image_score, prediction.threshold
        if 0 <= score < threshold:
            return "", f"the score is {score / threshold:.0%} of the threshold"
        return "", "the score is not above the threshold"
    combined = prediction.combined_grid
    cells = prediction.rule.cells(*combined.shape)
    inside = combined if cells is None else np.where(cells, combined, -np.inf)
    place = np.unravel_index(int(inside.argmax()), combined.shape)
    grids = on_finest_grid(prediction.grids)
    leading = max(grids, key=lambda name: float(grids[name][place]))
    where = f": {_regions(prediction)}"
    if leading == "global":
        return "global", f"the arrangement is unlike that of normal images{where}"
    return "local", f"a patch looks unlike those of normal images{where}"


def _regions(prediction: Prediction) -> str:
    """Return where the regions of a prediction are, in pixels of the image."""
    largest, n = prediction.regions[0], len(prediction.regions)
    size = f"{largest.width} x {largest.height} pixels"
    place = f"{size} at x {largest.x}, y {largest.y}"
    return place if n == 1 else f"{n} regions, the largest {place}"


def _lines(
    prediction: Prediction, defect_mask: Mask | None, height: int, width: int
) -> str:
    """Return the outlines of defect regions, annotation and region of interest."""
    masks = {THRESHOLD_COLOR: drawn_regions(prediction, height, width)}
    if defect_mask is not None:
        masks[MASK_COLOR] = resize_mask(defect_mask, height, width)
    if prediction.rule.region_of_interest:
        masks[_INTEREST_COLOR] = prediction.region_of_interest(height, width)
    lines = np.zeros((height, width), np.uint8)
    for index, mask in enumerate(masks.values(), 1):
        lines[outline_mask(mask)] = index
    if not lines.any():
        return ""
    layer = Image.fromarray(lines).convert("P")
    layer.putpalette([0, 0, 0, *(value for color in masks for value in color)])
    return data_uri(encoded(layer, transparency=0, optimize=True, bits=2))


def _at_most(image: RGBImage, longest: int) -> RGBImage:
    """Return an image whose longest side is resized to a number of pixels, or less."""
    if max(image.shape[:2]) <= longest:
        return image
    return resize_image(image, *_fitted(image, longest))


def _fitted(image: RGBImage, longest: int) -> tuple[int, int]:
    """Return height and width for the longest side to have a number of pixels."""
    height, width = (
        max(1, round(longest * n / max(image.shape[:2]))) for n in image.shape[:2]
    )
    return height, width


def _jpeg(image: NDArray[np.uint8]) -> str:
    picture = Image.fromarray(image)
    content = encoded(picture, "JPEG", quality=_QUALITY, optimize=True)
    return data_uri(content, "jpeg")
