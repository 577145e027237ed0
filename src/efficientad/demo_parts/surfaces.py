"""A part on its bench as a surface: height, color and gloss of each point, no light.

The difference between the surfaces of a part with and without a defect shows where the
defect is, without light, shadow and noise.
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
    points_of_pixels,
    round_edge,
    segment,
    smooth_noise,
    turned_by,
    wavy_disc,
)
from efficientad.demo_parts.parts import (
    HOLE_RADIUS,
    HOLES,
    LABEL_HALF,
    PLATE_CORNER,
    PLATE_HALF,
    PLATE_THICKNESS,
    SCREW_RADIUS,
    WASHER_HOLE,
    WASHER_RADIUS,
    Blob,
    Curve,
    Part,
    Point,
    Screw,
    curve_points,
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

# Pixels of the printed label in a unit of length.
_PRINT_SCALE: Final = 8
_PAPER, _BLUE, _INK = (236, 234, 226), (24, 62, 128), (26, 28, 36)
_BAR_WIDTHS: Final = (2, 1, 1, 3, 1, 2, 1, 1, 2, 3, 1, 1, 2, 1, 3, 1, 2, 1, 1)
_CODE: Final = (0x77, 0x49, 0x5D, 0x32, 0x67, 0x54, 0x6B)  # a bit a cell

_N_SCRATCH_POINTS: Final = 25

# The smallest visible differences of colors and of heights.
_VISIBLE_COLOR: Final = 0.02
_VISIBLE_HEIGHT: Final = 0.12


def brushed_grain(pose: Pose, size: int, rng: np.random.Generator) -> Field:
    """Return the grain of a plate that was brushed along its longer side."""
    n = OVERSAMPLING * size
    long, short = smooth_noise(rng, n, 7, n), smooth_noise(rng, n, 48, n)
    cloudy = smooth_noise(rng, 6, 4, n)
    grain = 0.55 * long + 0.45 * short + 0.25 * cloudy
    return Canvas(_bench(n), pose).turned(grain)


def paint(part: Part, pose: Pose, size: int, grain: Field) -> Surface:
    """Return the surface of a part on the bench, `size` pixels wide and high."""
    canvas = Canvas(_bench(OVERSAMPLING * size), pose)
    _paint_plate(canvas, part, grain)
    if part.label is not None:
        _paint_label(canvas, part.label, part.label_turn)
    if part.washer is not None:
        _paint_washer(canvas, part.washer)
    for screw in part.screws:
        _PAINT_SCREW[screw.kind](canvas, screw)
    if part.stain is not None:
        _paint_stain(canvas, part.stain)
    return canvas.surface


def difference(one: Surface, other: Surface) -> Mask:
    """Return the pixels in which two surfaces differ visibly at any point."""
    differs = np.abs(one.height - other.height) > _VISIBLE_HEIGHT
    apart = np.abs(one.color - other.color) > _VISIBLE_COLOR
    mask: Mask = np.any(points_of_pixels(differs | apart.any(axis=2)), axis=0)
    return mask


@cache
def _bench(n: int) -> Surface:
    """Return the bench, always the same one: oak with a grain from left to right."""
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
    window, u, v = canvas.near((0, 0), SIDE)
    outside = box(u, v, PLATE_HALF, PLATE_CORNER)
    holes = np.full_like(outside, -SIDE)
    for at, half in HOLES:
        around, u, v = canvas.near(at, 1.5 * float(np.hypot(*half)))
        hole = -box(u, v, half, HOLE_RADIUS)
        holes[around] = np.maximum(holes[around], hole)
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
    cover = canvas.cover(distance)
    canvas.lay(window, cover, plate.height, plate.color, plate.gloss)


def _chip(canvas: Canvas, chip: Blob, plate: Surface, distance: Field) -> None:
    """Break a piece off the plate; its slanted fracture is bright and rough."""
    window, u, v = canvas.near(chip.at, 3 * chip.radius)
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
    """Press the plate in; only its slopes show it."""
    window, u, v = canvas.near(dent.at, 3 * dent.radius)
    away = np.clip(1 + wavy_disc(u, v, dent) / np.float32(dent.radius), 0, 1)
    depth = np.float32(1.2 + 2.6 * dent.strength)
    plate.height[window] -= depth * (1 - away**2) ** 2


def _scratch(canvas: Canvas, curve: Curve, plate: Surface) -> None:
    """Cut a groove with bright bare metal that fades out at both ends."""
    points = curve_points(curve, _N_SCRATCH_POINTS)
    middle = points[len(points) // 2]
    reach = max(float(np.hypot(u - middle[0], v - middle[1])) for u, v in points)
    window, u, v = canvas.near(middle, reach + 3)
    depth = np.full_like(u, -SIDE)
    from_middle = [(p - middle[0], q - middle[1]) for p, q in points]
    for k, (start, end) in enumerate(pairwise(from_middle)):
        taper = np.sin(np.pi * (k + 0.5) / (len(points) - 1)) ** 0.5
        half = np.float32(curve.width / 2 * (0.25 + 0.75 * taper))
        depth = np.maximum(depth, half - segment(u, v, start, end))
    cover = np.float32(curve.strength) * canvas.cover(-depth)
    plate.height[window] -= 0.5 * cover
    color = plate.color[window]
    color += 0.75 * cover[..., None] * (np.float32(0.85) - color)


def _paint_label(canvas: Canvas, at: Point, turn: float) -> None:
    window, u, v = canvas.near(at, 1.1 * float(np.hypot(*LABEL_HALF)))
    u, v = turned_by(u, v, turn)
    half_width, half_height = LABEL_HALF
    rows = (v + half_height) / np.float32(canvas.step) - 0.5
    columns = (u + half_width) / np.float32(canvas.step) - 0.5
    color = _interpolated(_label_print(canvas.n), rows, columns)
    cover = canvas.cover(box(u, v, LABEL_HALF, 2.2))
    canvas.lay(window, cover, PLATE_THICKNESS + 0.5, color, 0.05)


def _interpolated(picture: Field, rows: Field, columns: Field) -> Field:
    """Return colors between the points of a picture, interpolated linearly."""
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
    """Return the print of the label, as fine as a surface of n x n points."""
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
    for row, column in np.ndindex(7, 7):
        if _CODE[row] >> (6 - column) & 1:
            x, y = 44 + 2 * column, 24 + 2 * row
            fill(x, y, x + 2, y + 2)
    fine = (round(width * n / SIDE), round(height * n / SIDE))
    printed = np.array(label.resize(fine, Image.Resampling.BOX), np.float32)
    linear: Field = (printed / np.float32(255)) ** np.float32(_GAMMA)
    return linear


def _paint_washer(canvas: Canvas, at: Point) -> None:
    window, u, v = canvas.near(at, 1.1 * WASHER_RADIUS)
    radius = disc(u, v, 0)
    middle, half = (WASHER_RADIUS + WASHER_HOLE) / 2, (WASHER_RADIUS - WASHER_HOLE) / 2
    distance = np.abs(radius - np.float32(middle)) - np.float32(half)
    waves = (np.sin(radius * k, dtype=np.float32) for k in (5.3, 8.9, 13.7))
    turned: Field = np.sum(list(waves), axis=0)
    height = PLATE_THICKNESS + 0.6 + 2.2 * round_edge(distance, 1.8) + 0.02 * turned
    color = np.array(_BRASS, np.float32) * (1 + 0.05 * turned)[..., None]
    canvas.lay(window, canvas.cover(distance), height, color, 0.45)


def _paint_zinc_screw(canvas: Canvas, screw: Screw) -> None:
    """Paint a domed head with a cross recess."""
    window, u, v = canvas.near(screw.at, 1.2 * SCREW_RADIUS)
    away = (u * u + v * v) / np.float32(SCREW_RADIUS**2)
    dome: Field = np.sqrt(np.maximum(1 - away, 0))
    height = PLATE_THICKNESS + 1 + 5 * dome
    canvas.lay(window, canvas.cover(disc(u, v, SCREW_RADIUS)), height, _ZINC, 0.75)
    p, q = turned_by(u, v, screw.turn)
    cross = np.minimum(box(p, q, (6.8, 1.7), 0.6), box(q, p, (6.8, 1.7), 0.6))
    slanted: Field = np.clip(1 + cross / np.float32(1.5), 0, 1)
    depth = height - 4 + 2.5 * slanted
    canvas.lay(window, canvas.cover(cross), depth, _RECESS, 0.25)


def _paint_black_screw(canvas: Canvas, screw: Screw) -> None:
    """Paint a flat, knurled head with a hexagonal socket."""
    window, u, v = canvas.near(screw.at, 1.2 * SCREW_RADIUS)
    p, q = turned_by(u, v, screw.turn)
    distance = disc(p, q, SCREW_RADIUS - 0.5) + 0.25 * np.cos(36 * np.arctan2(q, p))
    height = PLATE_THICKNESS + 6 - 2.2 * (1 - round_edge(distance, 2.2))
    canvas.lay(window, canvas.cover(distance), height, _BLACK, 0.4)
    socket = canvas.cover(hexagon(p, q, 5.2))
    canvas.lay(window, socket, PLATE_THICKNESS, _SOCKET, 0.1)


_PAINT_SCREW: Final = {"zinc": _paint_zinc_screw, "black": _paint_black_screw}


def _paint_stain(canvas: Canvas, stain: Blob) -> None:
    """Paint dried dirt: thin, darker at its border, and not on the bench."""
    window, u, v = canvas.near(stain.at, 3 * stain.radius)
    distance = wavy_disc(u, v, stain)
    inside = np.clip(-distance / 1.2, 0, 1)
    rim = np.exp(-((distance / np.float32(0.14 * stain.radius)) ** 2))
    height = canvas.surface.height[window]
    inside[height < PLATE_THICKNESS / 2] = 0
    cover = inside * np.float32(stain.strength) * (0.5 + 0.35 * rim)
    canvas.lay(window, cover, height, _DIRT, 0.15 * canvas.surface.gloss[window])
