"""Names of the inputs and outputs of exported graphs.

The calibration in Python scales the raw grids; the others are for callers of the graph
in other languages.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from efficientad.errors import ModelFileError

INPUT: Final = "images"
MAX_SIDE: Final = 40_000
"""Largest height or width of an image, in pixels, that the graph resizes."""
SCORE_OUTPUT: Final = "image_score"
RAW_OUTPUTS: Final[Mapping[str, str]] = {
    "local": "local_raw_grid",
    "global": "global_raw_grid",
}
"""(batch, 56, 56), before map normalization, by the name of the map."""
GRID_OUTPUTS: Final[Mapping[str, str]] = {
    "local": "local_grid",
    "global": "global_grid",
}
"""(batch, 56, 56), normalized, by the name of the map."""
MAP_OUTPUTS: Final = ("combined_map", "local_map", "global_map")
"""(batch, height, width), at the images' own size. For callers of the graph in other
languages; this package draws maps from the grids when they are needed."""
COMPOSITION_OUTPUT: Final = "composition"
"""(batch, 1), in graphs of detectors that have this image-level term."""
WHOLE: Final = (
    SCORE_OUTPUT,
    *RAW_OUTPUTS.values(),
    *GRID_OUTPUTS.values(),
    *MAP_OUTPUTS,
)
"""All outputs of a graph without image-level terms."""


def require_utf8(path: Path) -> None:
    """Raise `ModelFileError` if a name is no UTF-8: no engine could open the file."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ModelFileError(
            f"{path} has a name that is no UTF-8, which engines cannot open; rename or "
            "move it"
        ) from error
