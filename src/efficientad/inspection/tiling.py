"""Local maps at a higher resolution: an image in tiles, without seams.

The networks see 256 x 256 pixels. An image of a larger input size is cut into tiles of
that size, 224 pixels apart, whose descriptors lie side by side: 56 cells of 4 pixels.
Each descriptor sees 33 x 33 pixels, which lie in its tile, so the local map is that of
the whole image. Arrangements are seen on the whole image at 256 x 256 pixels, as ever.

Memory does not depend on the number of tiles, but for the map itself.
"""

import logging
import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from efficientad.decisions.rule import Rule, is_same_aspect
from efficientad.engines.engine import Engine, EngineOutput, local_grids
from efficientad.engines.names import TileChoice
from efficientad.errors import ConfigError, ImageError
from efficientad.images.rgb import INPUT_SIZE, Mask, resize_image
from efficientad.method.placement import MAX_SIDE
from efficientad.method.sizes import GRID_SIZE, PATCH_STRIDE

Size = tuple[int, int]
"""Height and width in pixels."""
Images = NDArray[np.uint8]
"""(n, height, width, 3), RGB, at the input size of a detector."""

WHOLE: Final[Size] = (INPUT_SIZE, INPUT_SIZE)
"""Input size without tiles."""
MAX_SCALE: Final = 8.0
_NARROW_SCALE: Final = 2.0
_SQUARE: Final = 1.5
_NARROW: Final = 2.1, 32.0
"""Longer side divided by the shorter one, of images that are not squeezed unasked."""
_SIMILAR: Final = math.log(1.25)
"""Squeezing an image to a quarter less changes its texture little."""
_LARGE: Final = 512
_BATCH: Final = 4

logger = logging.getLogger(__name__)


class AspectError(ImageError):
    """An image has another aspect than tiles were made for."""


def run(engine: Engine, images: Images, rule: Rule) -> EngineOutput:
    """Return the output of an engine for images at the input size of a detector.

    At 256 x 256 pixels they are not cut into tiles. Tiles outside of the rule's region
    of interest are not computed; the local map is 0 there.
    """
    if images.shape[1:3] == WHOLE:
        return engine.run(images)
    found = engine.run(whole_views(images))
    local = [_local_map(engine, image, rule) for image in images]
    return EngineOutput({**found.grids, "local": np.stack(local)}, found.values)


def whole_views(images: Images) -> Images:
    """Return images at 256 x 256 pixels."""
    if images.shape[1:3] == WHOLE:
        return images
    return np.stack([resize_image(image, *WHOLE) for image in images])


def network_views(images: Images) -> Images:
    """Return what the networks see of images: each one whole, and a tile of each."""
    if images.shape[1:3] == WHOLE:
        return images
    places = list(_places(grid_shape(images.shape[1:3]), None))
    share = len(places) / len(images)
    tiles = [_tile(one, *places[int(n * share)]) for n, one in enumerate(images)]
    return np.concatenate([whole_views(images), np.stack(tiles)])


def grid_shape(size: Size) -> tuple[int, int]:
    """Return the rows and columns of the local map of an input size."""
    rows, columns = (GRID_SIZE + (n - INPUT_SIZE) // PATCH_STRIDE for n in size)
    return rows, columns


def input_size_for(size: Size, tile: TileChoice, scale: float | None) -> Size:
    """Return the input size of a detector for images of a size.

    Args:
        size: Height and width of the images.
        tile: Side of the tiles. None: tiles for narrow images, more than 2.1 times as
            long as high or the other way round. `auto`: tiles for images that are large
            or far from square. The log says which and why.
        scale: Factor by which the shorter side is larger than 256 pixels. None: the
            size of the images, but at most 8; without a `tile` at most 2.

    Raises:
        ConfigError: If there is a scale without tiles, or the images are too long.
    """
    # Deviation: the paper squeezes every image to a square.
    height, width = size
    shorter, longer = min(size), max(size)
    if tile == "auto":
        reasons = []
        if longer > _SQUARE * shorter:
            reasons.append("far from square")
        if shorter > _LARGE:
            reasons.append("large")
        if not reasons:
            logger.info("no tiles: images of %d x %d pixels are small", width, height)
            return WHOLE
        reason = " and ".join(reasons)
        logger.info("tiles: images of %d x %d pixels are %s", width, height, reason)
    elif tile != INPUT_SIZE:
        if scale is not None:
            raise ConfigError("--scale needs tiles; give --tile 256 as well")
        is_narrow = _NARROW[0] < longer / shorter < _NARROW[1]
        if tile == "never" or not is_narrow:
            return WHOLE
        logger.info(
            "tiles: images of %d x %d pixels are narrow; --tile never squeezes them to "
            "a square",
            width,
            height,
        )
        scale = min(_NARROW_SCALE, max(1.0, shorter / INPUT_SIZE))
    scale = scale or min(MAX_SCALE, max(1.0, shorter / INPUT_SIZE))
    factor = scale * INPUT_SIZE / shorter
    rows, columns = (PATCH_STRIDE * round(n * factor / PATCH_STRIDE) for n in size)
    if max(rows, columns) > MAX_SIDE:
        raise ConfigError(
            f"images of {width} x {height} pixels have {columns} x {rows} at scale "
            f"{scale:.3g}, more than {MAX_SIDE}; give a smaller --scale"
        )
    return max(rows, INPUT_SIZE), max(columns, INPUT_SIZE)


def require_similar_aspect(size: Size, input_size: Size) -> None:
    """Raise `AspectError` if tiles were made for images of quite another aspect."""
    if input_size != WHOLE and not is_same_aspect(size, input_size, _SIMILAR):
        height, width = input_size
        raise AspectError(
            f"tiles need images of {width / height:.3g} times their height, got one of "
            f"{size[1]} x {size[0]} pixels; train another detector for it"
        )


def _local_map(engine: Engine, image: Images, rule: Rule) -> NDArray[np.float32]:
    shape = grid_shape((image.shape[0], image.shape[1]))
    needed = rule.cells(*shape)
    grid = np.zeros(shape, np.float32)
    places = list(_places(shape, None if needed is None else _grown(needed)))
    for start in range(0, len(places), _BATCH):
        batch = places[start : start + _BATCH]
        tiles = np.stack([_tile(image, row, column) for row, column in batch])
        maps = local_grids(engine, tiles)
        for (row, column), found in zip(batch, maps, strict=True):
            grid[row : row + GRID_SIZE, column : column + GRID_SIZE] = found
    return grid


def _places(shape: tuple[int, int], needed: Mask | None) -> Iterator[tuple[int, int]]:
    """Yield the first row and column of cells of each tile that is needed."""
    rows, columns = (_starts(n) for n in shape)
    for row in rows:
        for column in columns:
            cells = np.s_[row : row + GRID_SIZE, column : column + GRID_SIZE]
            if needed is None or needed[cells].any():
                yield row, column


def _starts(n_cells: int) -> list[int]:
    n_tiles = math.ceil(n_cells / GRID_SIZE)
    return [min(GRID_SIZE * i, n_cells - GRID_SIZE) for i in range(n_tiles)]


def _tile(image: Images, row: int, column: int) -> Images:
    top, left = PATCH_STRIDE * row, PATCH_STRIDE * column
    return image[top : top + INPUT_SIZE, left : left + INPUT_SIZE]


def _grown(cells: Mask) -> Mask:
    """Return cells and their neighbors, between which a map is interpolated."""
    padded = np.pad(cells, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
