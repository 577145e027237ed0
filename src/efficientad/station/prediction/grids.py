"""The maps of an inspection as bytes: small grids, and the pose of an aligned image."""

from dataclasses import astuple
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from efficientad.images.pose import Pose
from efficientad.inspection.prediction import Prediction
from efficientad.method.placement import place_map

_POSE: Final = "pose"

Grids = dict[str, NDArray[np.float32]]


def packed(prediction: Prediction) -> bytes:
    """Return the grids and the pose of a prediction."""
    arrays = {name: np.ascontiguousarray(g) for name, g in prediction.grids.items()}
    if prediction.pose is not None:
        arrays[_POSE] = np.array(astuple(prediction.pose), np.float32)
    return save(arrays)


def grids_of(content: bytes) -> Grids:
    """Return the grids by their names."""
    found: Grids = load(content)
    found.pop(_POSE, None)
    return found


def pose_of(content: bytes) -> Pose | None:
    """Return how the part lies in its image; None: it was not aligned."""
    pose = load(content).get(_POSE)
    return None if pose is None else Pose(*pose.tolist())


def placed(
    content: bytes, grid: NDArray[np.float32], height: int, width: int
) -> NDArray[np.float32]:
    """Return a grid of `packed` ones as a map in the image's frame, (height, width)."""
    values = place_map(grid, height, width)
    pose = pose_of(content)
    return values if pose is None else pose.in_own_frame(values)
