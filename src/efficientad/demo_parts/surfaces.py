"""A part on its bench as a surface: height, color and gloss of each point, no light.

Whoever paints the same part with and without a defect sees in the surfaces, free of
light, shadow and noise, where the defect is.
"""

from functools import cache
from itertools import pairwise
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from efficientad.demo_parts.canvas import (
    OVERSAMPLING,
    SIDE,
    Canvas,
    Color,
    Field,
    Pose,
    Surface,
    box,
    disc,
    hexagon,
    round_edge,
    segment,
    smooth_noise,
    turned_by,
    wavy_disc,
)
from efficientad.demo_parts.defects import curve_points
from efficientad.demo_parts.part import (
    HOLE_RADIUS,
    LABEL_HALF,
    OPEN_HOLES,
    PLATE_CORNER,
    PLATE_HALF,
    PLATE_THICKNESS,
    SCREW_PLACES,
    SCREW_RADIUS,
    SLOT,
    SLOT_HALF,
    WASHER_HOLE,
    WASHER_PLACE,
    WASHER_RADIUS,
    Blob,
    Curve,
    Part,
    Point,
    Screw,
)
from efficientad.images.rgb import Mask

_BENCH_SEED: Final = 4
_GAMMA: Final = 2.2

_OAK: Final[Color] = (0.205, 0.115, 0.056)
_STEEL: Final[Color] = (0.235, 0.245, 0.26)
_FRACTURE: Final[Color] = (0.42, 0.42, 0.42)
_ZINC: Final[Color] = (0.30, 0.31, 0.34)
_RECESS: Final[Color] = (0.08, 0.08, 0.09)
_BLACK: Final[Color] = (0.022, 0.023, 0.026)
_SOCKET: Final[Color] = (0.012, 0.012, 0.014)
_BRASS: Final[Color] = (0.36, 0.215, 0.05)
_DIRT: Final[Color] = (0.105, 0.048, 0.012)

# In the label's own pixels, of which there are so many to a unit of length.
_PRINT_SCALE: Final = 8
_PAPER, _BLUE, _INK = (236, 234, 226), (24, 62, 128), (26, 28, 36)
_BAR_WIDTHS: Final = (2, 1, 1, 3, 1, 2, 1, 1, 2, 3, 1, 1, 2, 1, 3, 1, 2, 1, 1)
_CODE: Final = (
    "1110111",
    "1001001",
    "1011101",
    "0110010",
    "1100111",
    "1010100",
    "1101011",
)

_N_SCRATCH_POINTS: Final = 25

# Differences of surfaces that can be seen: of colors, and of heights.
_VISIBLE_COLOR: Final = 0.02
_VISIBLE_HEIGHT: Final = 0.12


def brushed_grain(pose: Pose, size: int, rng: np.random.Generator) -> Field:
    """Brush a plate along its longer side: streaks, long and short."""
    n = OVERSAMPLING * size
    long, short = smooth_noise(rng, n, 7, n), smooth_noise(rng, n, 48, n)
    cloudy = smooth_noise(rng, 6, 4, n)
    return _canvas(pose, size).turned(0.55 * long + 0.45 * short + 0.25 * cloudy)


def paint(part: Part, pose: Pose, size: int, grain: Field) -> Surface:
    """Paint a part on the bench.

    Args:
        part: What there is.
        pose: Where it lies.
        size: Of the image, pixels.
        grain: How the plate was brushed, from `brushed_grain`.
    """
    canvas = _canvas(pose, size)
    _paint_plate(canvas, part, grain)
    if part.label is not None:
        _paint_label(canvas, part.label, part.label_turn)
    if part.washer is not None:
        _paint_washer(canvas, part.washer)
    for screw in part.screws:
        _PAINT_SCREW[screw.kind](canvas, screw)
    if part.stain is not None:
        _paint_stain(canvas, part.stain)
    return canvas.whole


def difference(one: Surface, other: Surface) -> Mask:
    """Mark the pixels in which two surfaces differ visibly.

    Returns:
        One value a pixel of the image: true if any of its points differs.
    """
    differs = np.abs(one.height - other.height) > _VISIBLE_HEIGHT
    for channel in range(3):
        apart = one.color[..., channel] - other.color[..., channel]
        differs |= np.abs(apart) > _VISIBLE_COLOR
    mask = np.zeros([n // OVERSAMPLING for n in differs.shape], np.bool_)
    for down, right in np.ndindex(OVERSAMPLING, OVERSAMPLING):
        mask |= differs[down::OVERSAMPLING, right::OVERSAMPLING]
    return mask


def _canvas(pose: Pose, size: int) -> Canvas:
    return Canvas(_bench(OVERSAMPLING * size), pose, PLATE_HALF)


@cache
def _bench(n: int) -> Surface:
    """Paint the bench, always the same one: oak, its grain from left to right."""
    rng = np.random.default_rng(_BENCH_SEED)
    warp = smooth_noise(rng, 5, 3, n)
    rows = np.arange(n, dtype=np.float32)[:, None] * np.float32(SIDE / n)
    rings = np.sin(rows / 3.1 + 3.2 * warp) + 0.6 * np.sin(rows / 1.3 + 6 * warp)
    fibers = smooth_noise(rng, 230, 9, n) + 0.7 * smooth_noise(rng, 256, 40, n)
    pores = np.clip(smooth_noise(rng, 256, 26, n) - 1.3, 0, 1)
    tone = 1 + 0.07 * rings + 0.06 * fibers - 0.35 * pores
    color = np.array(_OAK, np.float32) * tone[..., None]
    return Surface(
        height=(0.03 * fibers - 0.25 * pores).astype(np.float32),
        color=np.clip(color, 0.01, 1).astype(np.float32),
        gloss=np.full((n, n), 0.05, np.float32),
    )


def _paint_plate(canvas: Canvas, part: Part, grain: Field) -> None:
    outside, holes = _plate_distances(canvas)
    edge = np.minimum(round_edge(outside, 1.6), round_edge(holes, 1.4))
    tone = 1 + 0.085 * grain
    plate = Surface(
        height=PLATE_THICKNESS - 1.6 * (1 - edge) + 0.02 * grain,
        color=np.array(_STEEL, np.float32) * tone[..., None],
        gloss=0.42 * tone,
    )
    distance = np.maximum(outside, holes)
    if part.chip is not None:
        _chip(canvas, part.chip, plate, distance)
    if part.dent is not None:
        _dent(canvas, part.dent, plate)
    if part.scratch is not None:
        _scratch(canvas, part.scratch, plate)
    canvas.lay(
        canvas.everywhere,
        canvas.cover(distance),
        height=plate.height,
        color=plate.color,
        gloss=plate.gloss,
    )


def _plate_distances(canvas: Canvas) -> tuple[Field, Field]:
    """Give distances to the outer edge and to the holes."""
    outside = box(*canvas.places(canvas.everywhere), PLATE_HALF, PLATE_CORNER)
    holes = np.full_like(outside, -SIDE)
    for at in (*OPEN_HOLES, *SCREW_PLACES, WASHER_PLACE):
        window = canvas.around(at, 2 * HOLE_RADIUS)
        hole = -disc(*canvas.places(window, at), HOLE_RADIUS)
        holes[window] = np.maximum(holes[window], hole)
    window = canvas.around(SLOT, 2 * SLOT_HALF)
    half = (SLOT_HALF + HOLE_RADIUS, HOLE_RADIUS)
    slot = -box(*canvas.places(window, SLOT), half, HOLE_RADIUS)
    holes[window] = np.maximum(holes[window], slot)
    return outside, holes


def _chip(canvas: Canvas, chip: Blob, plate: Surface, distance: Field) -> None:
    """Break a piece off the plate; its slanted fracture is bright and rough."""
    window = canvas.around(chip.at, 3 * chip.radius)
    u, v = canvas.places(window, chip.at)
    broken = -wavy_disc(u, v, chip)
    fracture = np.clip(1 + broken / np.float32(0.3 * chip.radius), 0, 1)
    rough = np.sin(2.7 * u + np.sin(1.9 * v)) * np.sin(2.3 * v + np.sin(1.3 * u))
    plate.height[window] -= fracture * (2.4 + 0.5 * rough)
    cover = np.minimum(2 * fracture, 1)
    tone = np.array(_FRACTURE, np.float32) * (1 + 0.25 * rough)[..., None]
    plate.color[window] += cover[..., None] * (tone - plate.color[window])
    plate.gloss[window] *= 1 - 0.7 * cover
    distance[window] = np.maximum(distance[window], broken)


def _dent(canvas: Canvas, dent: Blob, plate: Surface) -> None:
    """Press the plate in; only its slopes tell."""
    window = canvas.around(dent.at, 3 * dent.radius)
    distance = wavy_disc(*canvas.places(window, dent.at), dent)
    away = np.clip(1 + distance / np.float32(dent.radius), 0, 1)
    depth = np.float32(1.2 + 2.6 * dent.strength)
    plate.height[window] -= depth * (1 - away**2) ** 2


def _scratch(canvas: Canvas, curve: Curve, plate: Surface) -> None:
    """Cut a groove with bright bare metal that fades out at both ends."""
    points = curve_points(curve, _N_SCRATCH_POINTS)
    middle = points[len(points) // 2]
    reach = max(float(np.hypot(u - middle[0], v - middle[1])) for u, v in points)
    window = canvas.around(middle, reach + 3)
    u, v = canvas.places(window)
    depth = np.full_like(u, -SIDE)
    for k, (start, end) in enumerate(pairwise(points)):
        taper = np.sin(np.pi * (k + 0.5) / (len(points) - 1)) ** 0.5
        half = np.float32(curve.width / 2 * (0.25 + 0.75 * taper))
        depth = np.maximum(depth, half - segment(u, v, start, end))
    cover = np.float32(curve.strength) * canvas.cover(-depth)
    plate.height[window] -= 0.5 * cover
    color = plate.color[window]
    color += 0.75 * cover[..., None] * (np.float32(0.85) - color)


def _paint_label(canvas: Canvas, at: Point, turn: float) -> None:
    window = canvas.around(at, 1.1 * float(np.hypot(*LABEL_HALF)))
    u, v = turned_by(*canvas.places(window, at), turn)
    half_width, half_height = LABEL_HALF
    rows = (v + half_height) / np.float32(canvas.step) - 0.5
    columns = (u + half_width) / np.float32(canvas.step) - 0.5
    canvas.lay(
        window,
        canvas.cover(box(u, v, LABEL_HALF, 2.2)),
        height=PLATE_THICKNESS + 0.5,
        color=_looked_up(_label_print(canvas.n), rows, columns),
        gloss=0.05,
    )


def _looked_up(picture: Field, rows: Field, columns: Field) -> Field:
    """Look colors up between the points of a picture, linearly."""
    rows = np.clip(rows, 0, picture.shape[0] - 1.001)
    columns = np.clip(columns, 0, picture.shape[1] - 1.001)
    top, left = rows.astype(np.intp), columns.astype(np.intp)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    upper = picture[top, left] * (1 - right) + picture[top, left + 1] * right
    lower = picture[top + 1, left] * (1 - right) + picture[top + 1, left + 1] * right
    color: Field = (upper * (1 - down) + lower * down).astype(np.float32)
    return color


@cache
def _label_print(n: int) -> Field:
    """Print the label, as fine as a surface of n x n points."""
    width, height = (int(2 * half) for half in LABEL_HALF)
    scale = _PRINT_SCALE
    label = Image.new("RGB", (width * scale, height * scale), _PAPER)
    draw = ImageDraw.Draw(label)

    def fill(left: float, top: float, right: float, bottom: float) -> None:
        box = (left * scale, top * scale, right * scale - 1, bottom * scale - 1)
        draw.rectangle(box, _INK)

    draw.rectangle((0, 0, width * scale, 12 * scale), _BLUE)
    title, text = (ImageFont.load_default(height * scale) for height in (8.5, 6.4))
    draw.text((4 * scale, 6 * scale), "EAD 2401", _PAPER, title, anchor="lm")
    draw.text((4 * scale, 18 * scale), "24 V  0.8 A", _INK, text, anchor="lm")
    lefts = 4 + 1.05 * np.cumsum((0, *_BAR_WIDTHS))
    for left, wide in list(zip(lefts, _BAR_WIDTHS, strict=False))[::2]:
        fill(left, 24, left + wide, 38)
    for row, cells in enumerate(_CODE):
        for column, cell in enumerate(cells):
            if cell == "1":
                x, y = 44 + 2 * column, 24 + 2 * row
                fill(x, y, x + 2, y + 2)
    fine = (round(width * n / SIDE), round(height * n / SIDE))
    printed = np.array(label.resize(fine, Image.Resampling.BOX), np.float32)
    linear: Field = (printed / np.float32(255)) ** np.float32(_GAMMA)
    return linear


def _paint_washer(canvas: Canvas, at: Point) -> None:
    window = canvas.around(at, 1.1 * WASHER_RADIUS)
    radius = disc(*canvas.places(window, at), 0)
    middle, half = (WASHER_RADIUS + WASHER_HOLE) / 2, (WASHER_RADIUS - WASHER_HOLE) / 2
    distance = np.abs(radius - np.float32(middle)) - np.float32(half)
    waves = (np.sin(radius * k, dtype=np.float32) for k in (5.3, 8.9, 13.7))
    turned: Field = np.sum(list(waves), axis=0)
    canvas.lay(
        window,
        canvas.cover(distance),
        height=PLATE_THICKNESS + 0.6 + 2.2 * round_edge(distance, 1.8) + 0.02 * turned,
        color=np.array(_BRASS, np.float32) * (1 + 0.05 * turned)[..., None],
        gloss=0.45,
    )


def _paint_zinc_screw(canvas: Canvas, screw: Screw) -> None:
    """Paint a domed head with a cross recess."""
    window = canvas.around(screw.at, 1.2 * SCREW_RADIUS)
    u, v = canvas.places(window, screw.at)
    away = (u * u + v * v) / np.float32(SCREW_RADIUS**2)
    dome: Field = np.sqrt(np.maximum(1 - away, 0))
    height = PLATE_THICKNESS + 1 + 5 * dome
    head = canvas.cover(disc(u, v, SCREW_RADIUS))
    canvas.lay(window, head, height=height, color=_ZINC, gloss=0.75)
    p, q = turned_by(u, v, screw.turn)
    cross = np.minimum(box(p, q, (6.8, 1.7), 0.6), box(q, p, (6.8, 1.7), 0.6))
    slanted: Field = np.clip(1 + cross / np.float32(1.5), 0, 1)
    canvas.lay(
        window,
        canvas.cover(cross),
        height=height - 4 + 2.5 * slanted,
        color=_RECESS,
        gloss=0.25,
    )


def _paint_black_screw(canvas: Canvas, screw: Screw) -> None:
    """Paint a flat, knurled head with a hexagonal socket."""
    window = canvas.around(screw.at, 1.2 * SCREW_RADIUS)
    p, q = turned_by(*canvas.places(window, screw.at), screw.turn)
    distance = disc(p, q, SCREW_RADIUS - 0.5) + 0.25 * np.cos(36 * np.arctan2(q, p))
    height = PLATE_THICKNESS + 6 - 2.2 * (1 - round_edge(distance, 2.2))
    canvas.lay(window, canvas.cover(distance), height=height, color=_BLACK, gloss=0.4)
    socket = canvas.cover(hexagon(p, q, 5.2))
    canvas.lay(window, socket, height=PLATE_THICKNESS, color=_SOCKET, gloss=0.1)


_PAINT_SCREW: Final = {"zinc": _paint_zinc_screw, "black": _paint_black_screw}


def _paint_stain(canvas: Canvas, stain: Blob) -> None:
    """Let something dirty dry up: thin, and darker at its border. The bench stays."""
    window = canvas.around(stain.at, 3 * stain.radius)
    distance = wavy_disc(*canvas.places(window, stain.at), stain)
    inside = np.clip(-distance / 1.2, 0, 1)
    rim = np.exp(-((distance / np.float32(0.14 * stain.radius)) ** 2))
    height = canvas.surface.height[window]
    inside[height < PLATE_THICKNESS / 2] = 0
    canvas.lay(
        window,
        inside * np.float32(stain.strength) * (0.5 + 0.35 * rim),
        height=height,
        color=_DIRT,
        gloss=0.15 * canvas.surface.gloss[window],
    )
