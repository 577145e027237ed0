"""Anomaly maps as pictures.

A map is colored on a fixed scale from `low` to `high`, never on its own minimum and
maximum: so the same color means the same anomaly in every picture, and a normal part
looks normal. The colors are those of "inferno": lighter is more anomalous, in gray
print and to color-blind eyes too.

What the maps mean is not known here.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from efficientad.errors import ConfigError, ImageError
from efficientad.images.rgb import Mask, RGBImage, resize_image

AnomalyMap = NDArray[np.float32]
"""(height, width)."""

Color = tuple[int, int, int]

MASK_COLOR: Final[Color] = (0, 255, 160)
"""Outlines the annotated defect: no heatmap contains it."""

THRESHOLD_COLOR: Final[Color] = (90, 200, 255)
"""Outlines what is above the threshold."""

# Eleven equidistant colors of "inferno", by S. van der Walt and N. Smith (CC0); the
# colors between them are interpolated.
_INFERNO: Final = (
    (0, 0, 4),
    (22, 11, 57),
    (66, 10, 104),
    (106, 23, 110),
    (147, 38, 103),
    (188, 55, 84),
    (221, 81, 58),
    (243, 120, 25),
    (252, 165, 10),
    (246, 215, 70),
    (252, 255, 164),
)
_N_COLORS: Final = 256


def _color_table() -> NDArray[np.uint8]:
    anchors = np.array(_INFERNO, np.float64)
    places = np.linspace(0, _N_COLORS - 1, len(anchors))
    channels = [np.interp(np.arange(_N_COLORS), places, c) for c in anchors.T]
    table: NDArray[np.uint8] = np.rint(np.stack(channels, axis=1)).astype(np.uint8)
    return table


_COLORS: Final = _color_table()

# What almost all normal pixels stay below: no scale ends lower.
_MIN_HIGH: Final = 0.1

# Above 1: what is hardly anomalous hardly shows.
_OPACITY_EXPONENT: Final = 1.5

# Of the shorter side of an image.
_LINE_SHARE: Final = 1 / 150

_PANEL_BACKGROUND: Final[Color] = (255, 255, 255)
_CAPTION_COLOR: Final[Color] = (40, 40, 40)
_CAPTION_SIZE: Final = 13
_CAPTION_HEIGHT: Final = 20
_GAP: Final = 8
_BAR_WIDTH: Final = 12
_MIN_COLUMN: Final = 40
_MAX_ASPECT: Final = 3
_ELLIPSIS: Final = "…"


@runtime_checkable
class DrawablePrediction(Protocol):
    """What a panel needs to know: a dataclass that draws its maps at its own size."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def image_score(self) -> float:
        """Of the whole image."""

    @property
    def threshold(self) -> float:
        """Scores above it are anomalous."""

    @property
    def is_anomalous(self) -> bool:
        """Whether the score is above."""

    @property
    def height(self) -> int:
        """Of the maps, pixels."""

    @property
    def width(self) -> int:
        """Of the maps, pixels."""

    @property
    def local_map(self) -> AnomalyMap:
        """Normalized, like the others."""

    @property
    def global_map(self) -> AnomalyMap:
        """Normalized."""

    @property
    def anomaly_map(self) -> AnomalyMap:
        """Both combined."""


class Tile(NamedTuple):
    """A picture of a panel and what stands above it."""

    caption: str
    image: RGBImage


def color_scale(threshold: float) -> tuple[float, float]:
    """Give the scale that suits a decision threshold, for normalized maps.

    It depends on the detector alone, so that all its pictures can be compared: 0, which
    most normal pixels stay below, is black, the threshold half way, orange-red.

    Returns:
        Its two ends, `low` and `high`.
    """
    is_usable = math.isfinite(threshold) and threshold > _MIN_HIGH / 2
    return 0.0, 2 * threshold if is_usable else _MIN_HIGH


def heatmap(anomaly_map: AnomalyMap, *, low: float, high: float) -> RGBImage:
    """Color a map on a fixed scale.

    Args:
        anomaly_map: (height, width), finite.
        low: Where the scale begins; all below has its color, black.
        high: Where the scale ends; all above has its color, light yellow.

    Returns:
        A picture of the same size.

    Raises:
        ConfigError: If `low` is not below `high`.
        ImageError: If the map is not two-dimensional or not finite.
    """
    return _COLORS[_levels(anomaly_map, low, high)]


def overlay(
    image: RGBImage,
    anomaly_map: AnomalyMap,
    *,
    low: float,
    high: float,
    opacity: float = 0.75,
) -> RGBImage:
    """Lay a heatmap over an image, more opaque where more anomalous.

    Where the map is at `low` or below, the image stays as it is.

    Args:
        image: The image the map belongs to.
        anomaly_map: Of the image's size, finite.
        low: Where the scale begins.
        high: Where the scale ends.
        opacity: At `high` and above, from 0 to 1.

    Raises:
        ConfigError: If `low` is not below `high`, or `opacity` is out of range.
        ImageError: If the map is not finite or not of the image's size.
    """
    if not 0 <= opacity <= 1:
        raise ConfigError(f"opacity must be from 0 to 1, got {opacity}")
    _require_same_size("the anomaly map", anomaly_map, image)
    levels = _levels(anomaly_map, low, high)
    share = np.linspace(0, 1, _N_COLORS) ** _OPACITY_EXPONENT
    alpha = np.rint(255 * opacity * share).astype(np.uint8)[levels]
    blended = Image.composite(
        Image.fromarray(_COLORS[levels]),
        Image.fromarray(image),
        Image.fromarray(alpha),
    )
    return np.array(blended)


def outline(image: RGBImage, mask: Mask, color: Color = MASK_COLOR) -> RGBImage:
    """Draw a line around each region of a mask on a copy of an image.

    It runs outside, so that even a region of one pixel stays visible, and inside along
    the image's border. It is about as wide on a large image that is shown small.

    Raises:
        ImageError: If the mask is not of the image's size.
    """
    _require_same_size("the mask", mask, image)
    n = max(1, round(min(image.shape[:2]) * _LINE_SHARE))
    grown = mask
    for _ in range(n):
        grown = _dilated(grown)
    line = grown & ~mask
    for border in np.s_[:n, :], np.s_[-n:, :], np.s_[:, :n], np.s_[:, -n:]:
        line[border] |= mask[border]
    drawn = image.copy()
    drawn[line] = color
    return drawn


def color_bar(height: int, *, low: float, high: float) -> RGBImage:
    """Draw the scale, `high` at the top, with its two numbers."""
    font = ImageFont.load_default(_CAPTION_SIZE)
    texts = (f"{high:.3g}", f"{low:.3g}")
    text_width = max(_length(text, font) for text in texts)
    width = _BAR_WIDTH + _GAP // 2 + text_width + 1
    canvas = Image.new("RGB", (width, height), _PANEL_BACKGROUND)
    levels = np.linspace(_N_COLORS - 1, 0, height).round().astype(np.uint8)
    bar = np.repeat(_COLORS[levels][:, None], _BAR_WIDTH, axis=1)
    canvas.paste(Image.fromarray(bar), (0, 0))
    draw = ImageDraw.Draw(canvas)
    left = _BAR_WIDTH + _GAP // 2
    draw.text((left, 0), texts[0], _CAPTION_COLOR, font, anchor="lt")
    draw.text((left, height - 1), texts[1], _CAPTION_COLOR, font, anchor="lb")
    return np.array(canvas)


def panel(tiles: Sequence[Tile], *, height: int = 256) -> RGBImage:
    """Put pictures side by side under their captions.

    Args:
        tiles: At least one. A caption without enough room is cut.
        height: Of every picture that is not very wide; its width follows.
    """
    pictures = [_fitted(tile.image, height) for tile in tiles]
    widths = [max(picture.shape[1], _MIN_COLUMN) for picture in pictures]
    size = (sum(widths) + _GAP * (len(tiles) + 1), height + _CAPTION_HEIGHT + 2 * _GAP)
    canvas = Image.new("RGB", size, _PANEL_BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(_CAPTION_SIZE)
    left = _GAP
    for tile, picture, width in zip(tiles, pictures, widths, strict=True):
        caption = _cut(tile.caption, width, font)
        draw.text((left, _GAP), caption, _CAPTION_COLOR, font)
        canvas.paste(Image.fromarray(picture), (left, _GAP + _CAPTION_HEIGHT))
        left += width + _GAP
    return np.array(canvas)


def prediction_panel(
    image: RGBImage,
    prediction: DrawablePrediction,
    *,
    defect_mask: Mask | None = None,
    height: int = 256,
) -> RGBImage:
    """Show an image beside its three maps, all on the scale of its threshold.

    In the combined map, laid over the image, what exceeds the threshold is outlined.

    Args:
        image: The image that was judged, at its own size.
        prediction: What was said about it.
        defect_mask: Of the image's size; if given, its outline on the image is shown.
        height: Of every picture that is not very wide; its width follows.

    Raises:
        ImageError: If prediction or mask do not belong to an image of this size.
    """
    judged = (prediction.height, prediction.width)
    if judged != image.shape[:2]:
        raise ImageError(
            f"the image must have the size it was judged at, {judged}, got "
            f"{image.shape[:2]}; give the same image"
        )
    low, high = color_scale(prediction.threshold)
    small = _fitted(image, height)
    # The maps are drawn from their grids at the panel's size, never at the image's.
    drawn = replace(prediction, height=small.shape[0], width=small.shape[1])
    verdict = "anomalous" if prediction.is_anomalous else "normal"
    tiles = [Tile(f"score {prediction.image_score:.3g}: {verdict}", small)]
    if defect_mask is not None:
        _require_same_size("the mask", defect_mask, image)
        mask = resize_mask(defect_mask, *small.shape[:2])
        tiles.append(Tile("annotated defect", outline(small, mask)))
    tiles.append(Tile("local", heatmap(drawn.local_map, low=low, high=high)))
    tiles.append(Tile("global", heatmap(drawn.global_map, low=low, high=high)))
    covered = overlay(small, drawn.anomaly_map, low=low, high=high)
    is_above = drawn.anomaly_map > prediction.threshold
    tiles.append(Tile("combined", outline(covered, is_above, THRESHOLD_COLOR)))
    tiles.append(Tile("", color_bar(height, low=low, high=high)))
    return panel(tiles, height=height)


def resize_mask(mask: Mask, height: int, width: int) -> Mask:
    """Resize a mask; every region stays visible, however small it becomes."""
    picture = Image.fromarray(mask.astype(np.float32))
    share = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    resized: Mask = share > 0
    return resized


def _levels(anomaly_map: AnomalyMap, low: float, high: float) -> NDArray[np.uint8]:
    """Give each value its place on the scale, 0 to 255."""
    if not (low < high and math.isfinite(high - low)):
        raise ConfigError(
            f"a color scale needs low < high, both finite, got {low} and {high}"
        )
    if anomaly_map.ndim != 2:  # noqa: PLR2004 - height and width
        raise ImageError(
            f"an anomaly map needs the shape (height, width), got {anomaly_map.shape}"
        )
    if not np.isfinite(anomaly_map).all():
        raise ImageError(
            "an anomaly map needs finite values, got some that are not; check the model"
        )
    share = (np.clip(anomaly_map, low, high) - low) / (high - low)
    levels: NDArray[np.uint8] = np.rint(share * (_N_COLORS - 1)).astype(np.uint8)
    return levels


def _require_same_size(name: str, values: AnomalyMap | Mask, image: RGBImage) -> None:
    if values.shape != image.shape[:2]:
        raise ImageError(
            f"{name} must have the image's height and width, {image.shape[:2]}, got "
            f"{values.shape}"
        )


def _dilated(mask: Mask) -> Mask:
    """Add the pixels above, below, left and right of each one."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def _fitted(image: RGBImage, height: int) -> RGBImage:
    """Resize to a height, or to less where that would be too wide."""
    scale = min(height / image.shape[0], _MAX_ASPECT * height / image.shape[1])
    rows, columns = (max(1, round(scale * n)) for n in image.shape[:2])
    if (rows, columns) == image.shape[:2]:
        return image
    return resize_image(image, rows, columns)


def _length(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return int(np.ceil(font.getlength(text)))


def _cut(
    caption: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> str:
    if _length(caption, font) <= width:
        return caption
    cut = caption
    while cut and _length(cut + _ELLIPSIS, font) > width:
        cut = cut[:-1]
    return cut + _ELLIPSIS if cut else ""
