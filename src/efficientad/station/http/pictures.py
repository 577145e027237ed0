"""Pictures of inspections, drawn when somebody asks for them."""

from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from efficientad.images.encoding import encoded
from efficientad.images.heatmaps import color_scale, overlay_layer
from efficientad.images.levels import Levels
from efficientad.images.pose import Pose
from efficientad.images.rgb import ColorOrder, read_image
from efficientad.method.maps import combine_maps
from efficientad.station.errors import UnknownError
from efficientad.station.prediction.grids import grids_of, placed

_PREVIEW_SIDE: Final = 1280


def preview(
    path: Path, color: ColorOrder, levels: Levels | None, pose: Pose | None = None
) -> bytes:
    """Return an image as a JPEG, upright, and of 1280 pixels a side at most.

    With a pose, the part lies in it as in the reference.
    """
    image = read_image(path, color, levels)
    picture = Image.fromarray(image if pose is None else pose.aligned(image))
    picture.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE), reducing_gap=2.0)
    return encoded(picture, "JPEG", quality=85)


def heatmap(
    grids: bytes, name: str, row: dict[str, Any], normal_range: tuple[float, float]
) -> bytes:
    """Return a map of an inspection in colors, as a PNG of the preview's size.

    It is transparent where the map is low, and lies over the preview. Its name is
    `combined`, or that of a grid. Colors depend on median and limit of normal scores.
    """
    scale = min(1.0, _PREVIEW_SIDE / max(row["height"], row["width"]))
    height, width = (max(1, round(scale * row[n])) for n in ("height", "width"))
    anomaly_map = placed(grids, _grid(grids, name), height, width)
    low, high = color_scale(normal_range)
    return overlay_layer(anomaly_map, low=low, high=high)


def map_file(grids: bytes, name: str, row: dict[str, Any]) -> bytes:
    """Return a map of an inspection as a float32 TIFF of the image's size."""
    file = BytesIO()
    size = row["height"], row["width"]
    tifffile.imwrite(file, placed(grids, _grid(grids, name), *size))
    return file.getvalue()


def _grid(grids: bytes, name: str) -> NDArray[np.float32]:
    found = grids_of(grids)
    if name == "combined":
        return combine_maps(found)
    if name not in found:
        raise UnknownError(
            f"a map is one of combined, {', '.join(sorted(found))}, got {name}"
        )
    return found[name]
