"""Normal images as the networks see them."""

import numpy as np
import pytest
from PIL import Image

from efficientad.errors import ImageError
from efficientad.images.rgb import image_hash, resize_image
from efficientad.training.normal_images import read_normal_images


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
