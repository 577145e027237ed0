"""Normal images as the networks see them."""

import numpy as np
import pytest
from PIL import Image

from efficientad.calibration.normal_images import (
    read_normal_images,
    training_and_validation,
)
from efficientad.errors import DatasetError, ImageError
from efficientad.images.rgb import image_hash, resize_image


def test_files_and_arrays_are_read_and_resized(tmp_path, rng):
    originals = rng.integers(0, 256, (2, 20, 30, 3), np.uint8)
    path = tmp_path / "0.png"
    Image.fromarray(originals[0]).save(path)

    found = read_normal_images([path, originals[1]])

    expected = [resize_image(one, 256, 256) for one in originals]
    np.testing.assert_array_equal(found.pixels, expected)
    assert found.pixels.dtype == np.uint8
    assert found.names == (str(path), "image 1")
    assert found.hashes == tuple(image_hash(one) for one in originals)


def test_what_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"no picture")

    with pytest.raises(ImageError, match=r"broken\.png"):
        read_normal_images([path])


@pytest.mark.parametrize("n_of_one_color", [0, 2, 12])
def test_images_of_one_color_are_named_and_refused_if_all_are(
    rng, caplog, n_of_one_color
):
    shown = list(rng.integers(0, 256, (12 - n_of_one_color, 20, 30, 3), np.uint8))
    images = [np.full((20, 30, 3), value, np.uint8) for value in range(n_of_one_color)]
    images += shown

    def read():
        return training_and_validation(
            images, validation=None, validation_share=0.1, seed=0
        )

    if not shown:
        with pytest.raises(DatasetError, match=r"12 of one color each \(image 0, "):
            read()
        return
    read()

    expected = [
        "2 normal images have one color each and show no part (image 0, image 1"
    ]
    named = [r.getMessage() for r in caplog.records if "one color" in r.getMessage()]
    assert [text.partition(")")[0] for text in named] == expected[:n_of_one_color]
