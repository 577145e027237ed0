"""Maps of inspections: they come back in the frame of the image."""

import numpy as np

from efficientad.images.pose import Pose
from efficientad.inspection.prediction import Prediction
from efficientad.station.prediction.grids import grids_of, packed, placed


def test_the_maps_of_an_aligned_image_lie_in_its_own_frame(rng):
    grids = {name: rng.random((56, 56)).astype(np.float32) for name in ("local", "b")}
    pose = Pose(40.0, 0.05, -0.02)
    prediction = Prediction(1.0, 0.1, 0.5, 300, 400, grids, pose=pose)

    content = packed(prediction)

    assert sorted(grids_of(content)) == ["b", "local"]
    found = placed(content, grids_of(content)["local"], 300, 400)
    np.testing.assert_allclose(found, prediction.map("local"), atol=1e-5)


def test_other_images_have_no_pose(rng):
    grids = {"local": rng.random((56, 56)).astype(np.float32)}
    prediction = Prediction(1.0, 0.1, 0.5, 300, 400, grids)

    found = placed(packed(prediction), grids["local"], 300, 400)

    np.testing.assert_array_equal(found, prediction.map("local"))
