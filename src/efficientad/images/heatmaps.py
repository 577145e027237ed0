"""Anomaly maps as pictures.

A map is colored on a fixed scale from `low` to `high`, never on its own minimum and
maximum: the same color means the same anomaly in every picture, and a normal part looks
normal. The colors are those of "inferno": lighter is more anomalous, also in gray print
and for color-blind eyes.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from efficientad.images.encoding import encoded
from efficientad.images.rgb import Mask, RGBImage, resize_image

AnomalyMap = NDArray[np.float32]
"""(height, width)."""

Color = tuple[int, int, int]

MASK_COLOR: Final[Color] = (0, 255, 160)
"""Outline of the annotated defect; no heatmap contains it."""

THRESHOLD_COLOR: Final[Color] = (90, 200, 255)
"""Outline of the pixels above the threshold."""

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

_PLACES: Final = np.linspace(0, _N_COLORS - 1, len(_INFERNO))
_CHANNELS: Final = [
    np.interp(np.arange(_N_COLORS), _PLACES, c) for c in np.array(_INFERNO).T
]
_COLORS: Final[NDArray[np.uint8]] = np.rint(np.stack(_CHANNELS, 1)).astype(np.uint8)

# Smallest distance from the lower end of a scale to its middle.
_MIN_HALF: Final = 0.05

# Colors of an overlay, which begins with the color at this place of the scale: black
# could not be seen on dark images.
_FIRST_COLOR: Final = 0.3
_OVERLAY_COLORS: Final = _COLORS[
    np.rint(np.linspace(_FIRST_COLOR, 1, _N_COLORS) * (_N_COLORS - 1)).astype(np.intp)
]
# Opacity of an overlay: at both ends of the scale and half way.
_OPACITY: Final = np.rint(
    255 * np.interp(np.linspace(0, 1, _N_COLORS), (0, 0.5, 1), (0, 0.55, 0.75))
).astype(np.uint8)

# Width of an outline as a share of the image's shorter side.
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


class Tile(NamedTuple):
    """A picture of a panel and the caption above it."""

    caption: str
    image: RGBImage


def color_scale(normal_range: tuple[float, float]) -> tuple[float, float]:
    """Return the ends `low` and `high` of the color scale for a range of normal scores.

    The scale depends on the calibration alone, so that all pictures of a detector can
    be compared. Half of the median normal score, which few normal pixels reach, is
    black; the upper limit of normal scores is half way, orange-red.
    """
    median, limit = normal_range
    low = max(median, 0.0) / 2
    return low, low + 2 * max(limit - low, _MIN_HALF)


def heatmap(anomaly_map: AnomalyMap, *, low: float, high: float) -> RGBImage:
    """Return a finite map as a picture of the same size, colored on a fixed scale.

    Values below `low` are black, too, and those above `high` light yellow.
    """
    return _COLORS[_levels(anomaly_map, low, high)]


def overlay(
    image: RGBImage, anomaly_map: AnomalyMap, *, low: float, high: float
) -> RGBImage:
    """Return an image under its map in color, more opaque where more anomalous.

    Where the map is at `low` or below, the image is unchanged. Above, the colors are
    brighter than those of `heatmap`: slight anomalies are visible on dark images, too.
    """
    levels = _levels(anomaly_map, low, high)
    blended = Image.composite(
        Image.fromarray(_OVERLAY_COLORS[levels]),
        Image.fromarray(image),
        Image.fromarray(_OPACITY[levels]),
    )
    return np.array(blended)


def overlay_layer(anomaly_map: AnomalyMap, *, low: float, high: float) -> bytes:
    """Return a PNG file of what `overlay` lays over an image, partly transparent."""
    layer = Image.fromarray(_levels(anomaly_map, low, high)).convert("P")
    layer.putpalette(_OVERLAY_COLORS.tobytes())
    return encoded(layer, transparency=_OPACITY.tobytes(), optimize=True)


def outline(image: RGBImage, mask: Mask, color: Color = MASK_COLOR) -> RGBImage:
    """Return a copy of an image with a line around each region of a mask."""
    drawn = image.copy()
    drawn[outline_mask(mask)] = color
    return drawn


def outline_mask(mask: Mask) -> Mask:
    """Return the pixels of a line around each region of a mask, (height, width).

    The line runs outside the region, so that a region of one pixel stays visible, and
    inside along the image's border. It is wider on larger images, so that it stays
    visible when they are shown small.
    """
    n = max(1, round(min(mask.shape) * _LINE_SHARE))
    grown = mask.copy()
    for _ in range(n):
        # The pixels above, below, left and right of each pixel.
        before = grown.copy()
        grown[1:] |= before[:-1]
        grown[:-1] |= before[1:]
        grown[:, 1:] |= before[:, :-1]
        grown[:, :-1] |= before[:, 1:]
    line = grown & ~mask
    for border in np.s_[:n, :], np.s_[-n:, :], np.s_[:, :n], np.s_[:, -n:]:
        line[border] |= mask[border]
    return line


def draw_boxes(image: RGBImage, boxes: Sequence[tuple[int, int, int, int]]) -> RGBImage:
    """Return a copy of an image with a frame around each box.

    Boxes are left, top, right and bottom in pixels; the last two lie behind.
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    n = max(1, round(min(image.shape[:2]) * _LINE_SHARE))
    for left, top, right, bottom in boxes:
        corners = (left - n, top - n, right + n - 1, bottom + n - 1)
        draw.rectangle(corners, outline=THRESHOLD_COLOR, width=n)
    return np.array(picture)


def color_bar(height: int, *, low: float, high: float) -> RGBImage:
    """Return a picture of the scale, `high` at the top, with its two numbers."""
    font = ImageFont.load_default(_CAPTION_SIZE)
    texts = (f"{high:.3g}", f"{low:.3g}")
    left = _BAR_WIDTH + _GAP // 2
    width = left + max(_length(text, font) for text in texts) + 1
    canvas = Image.new("RGB", (width, height), _PANEL_BACKGROUND)
    levels = np.linspace(_N_COLORS - 1, 0, height).round().astype(np.uint8)
    bar = np.repeat(_COLORS[levels][:, None], _BAR_WIDTH, axis=1)
    canvas.paste(Image.fromarray(bar), (0, 0))
    draw = ImageDraw.Draw(canvas)
    draw.text((left, 0), texts[0], _CAPTION_COLOR, font, anchor="lt")
    draw.text((left, height - 1), texts[1], _CAPTION_COLOR, font, anchor="lb")
    return np.array(canvas)


def panel(tiles: Sequence[Tile], *, height: int = 256) -> RGBImage:
    """Return pictures side by side under their captions, cut where they are too long.

    Pictures have the height in pixels, or less if they are very wide.
    """
    pictures = [fit_image(tile.image, height) for tile in tiles]
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


def write_caption(image: RGBImage, text: str) -> RGBImage:
    """Return a copy of an image with a line of text along its upper edge.

    The letters grow with the image; a text that is too long is cut.
    """
    height, width = image.shape[:2]
    font = ImageFont.load_default(max(_CAPTION_SIZE, min(height, width) // 24))
    shown, pad = _cut(text, width - _GAP, font), _GAP // 2
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    bottom = draw.textbbox((pad, pad), text, font)[3] + pad
    draw.rectangle((0, 0, width, bottom), _CAPTION_COLOR)
    draw.text((pad, pad), shown, _PANEL_BACKGROUND, font)
    return np.array(canvas)


def fit_image(image: RGBImage, height: int) -> RGBImage:
    """Return an image resized to a height in pixels, or to less if it is very wide."""
    scale = min(height / image.shape[0], _MAX_ASPECT * height / image.shape[1])
    rows, columns = (max(1, round(scale * n)) for n in image.shape[:2])
    if (rows, columns) == image.shape[:2]:
        return image
    return resize_image(image, rows, columns)


def resize_mask(mask: Mask, height: int, width: int) -> Mask:
    """Return a mask resized so that even the smallest region stays visible."""
    picture = Image.fromarray(mask.astype(np.float32))
    share = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    return share > 0


def _levels(anomaly_map: AnomalyMap, low: float, high: float) -> NDArray[np.uint8]:
    """Return the place of each value on the scale, 0 to 255."""
    share = (np.clip(anomaly_map, low, high) - low) / (high - low)
    levels: NDArray[np.uint8] = np.rint(share * (_N_COLORS - 1)).astype(np.uint8)
    return levels


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
