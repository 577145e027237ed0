"""Any image in, RGB or a mask out, or a sentence that says why not."""

import inspect
import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from tests.image_files import GRADIENT_8, GRADIENT_16, encoded

from efficientad.errors import ImageError
from efficientad.images import rgb
from efficientad.images.rgb import (
    as_rgb,
    decode_image,
    image_hash,
    read_image,
    read_labels,
    read_mask,
    resize_image,
)


@pytest.fixture
def picture(rng):
    return Image.fromarray(rng.integers(0, 256, (24, 20, 3), np.uint8))


@pytest.fixture
def pixels(picture):
    return np.array(picture)


def in_gray(values):
    return np.stack([values] * 3, axis=2)


# Colors and depths


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_color_modes_become_rgb(picture, mode):
    converted = picture.convert(mode)

    image = as_rgb(converted)

    np.testing.assert_array_equal(image, np.array(converted.convert("RGB")))


def test_gray_is_the_same_in_all_channels(tmp_path):
    Image.fromarray(GRADIENT_8).save(tmp_path / "gray.png")

    np.testing.assert_array_equal(
        read_image(tmp_path / "gray.png"), in_gray(GRADIENT_8)
    )


def test_one_bit_is_black_and_white():
    bits = GRADIENT_8 > 127
    content = encoded(Image.fromarray(bits), "PNG")

    np.testing.assert_array_equal(decode_image(content, "part"), in_gray(255 * bits))


@pytest.mark.parametrize(("mode", "alpha"), [("RGBA", 0), ("RGBA", 77), ("RGBA", 255)])
def test_alpha_is_dropped_and_changes_no_color(picture, pixels, mode, alpha):
    picture.putalpha(alpha)
    assert picture.mode == mode

    np.testing.assert_array_equal(as_rgb(picture), pixels)
    np.testing.assert_array_equal(decode_image(encoded(picture, "PNG"), "p"), pixels)


def test_alpha_of_gray_is_dropped():
    gray = Image.fromarray(GRADIENT_8)
    gray.putalpha(9)
    assert gray.mode == "LA"

    np.testing.assert_array_equal(
        decode_image(encoded(gray, "PNG"), "part"), in_gray(GRADIENT_8)
    )


@pytest.mark.parametrize("transparency", [3, bytes(range(256))])
def test_a_transparent_palette_keeps_its_colors(picture, transparency):
    paletted = picture.quantize(64)
    expected = np.array(paletted.convert("RGB"))
    content = encoded(paletted, "PNG", transparency=transparency)
    opened = Image.open(io.BytesIO(content))

    np.testing.assert_array_equal(decode_image(content, "part"), expected)
    np.testing.assert_array_equal(as_rgb(opened), expected)
    assert "transparency" in opened.info


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_gray_keeps_its_upper_8_bits(file_format):
    content = encoded(Image.fromarray(GRADIENT_16), file_format)

    np.testing.assert_array_equal(decode_image(content, "part"), in_gray(GRADIENT_8))


def test_16_bit_gray_is_scaled_by_its_range_and_not_by_its_content():
    dark = GRADIENT_16 // 16

    assert decode_image(encoded(Image.fromarray(dark), "PNG"), "part").max() == 15
    assert as_rgb(dark).max() == 15


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_16_bit_arrays_are_read_in_either_byte_order(dtype):
    np.testing.assert_array_equal(
        as_rgb(GRADIENT_16.astype(dtype)), in_gray(GRADIENT_8)
    )


@pytest.mark.parametrize(
    ("mode", "dtype"), [("I;16", "<u2"), ("I;16B", ">u2"), ("I", "i4")]
)
def test_pillow_s_16_bit_modes_are_scaled(mode, dtype):
    raw = GRADIENT_16.astype(dtype).tobytes()
    deep = Image.frombytes(mode, (20, 24), raw)

    np.testing.assert_array_equal(as_rgb(deep), in_gray(GRADIENT_8))


@pytest.mark.parametrize("value", [-1, 65536])
def test_32_bit_gray_beyond_16_bits_is_refused(value):
    values = GRADIENT_16.astype(np.int32)
    values[3, 3] = value
    content = encoded(Image.fromarray(values), "TIFF")

    with pytest.raises(ImageError, match=rf"from 0 to 65535, part has .*{value}"):
        decode_image(content, "part")


def test_floating_point_pixels_are_scaled_from_0_to_1(tmp_path):
    values = (GRADIENT_8 / 255).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "part.tif")

    np.testing.assert_array_equal(
        read_image(tmp_path / "part.tif"), in_gray(GRADIENT_8)
    )


@pytest.mark.parametrize("value", [-0.01, 1.01, 255, np.nan, np.inf, -np.inf])
def test_floating_point_pixels_beyond_0_to_1_are_refused(tmp_path, value):
    values = (GRADIENT_8 / 255).astype(np.float32)
    values[5, 5] = value
    Image.fromarray(values).save(tmp_path / "part.tif")

    with pytest.raises(ImageError, match=r"from 0 to 1, the given image has values"):
        as_rgb(values)
    with pytest.raises(ImageError, match=r"from 0 to 1, .*part\.tif has values from"):
        read_image(tmp_path / "part.tif")


def test_a_mode_without_a_way_to_rgb_is_refused():
    content = encoded(Image.new("LAB", (20, 24)), "TIFF")

    with pytest.raises(
        ImageError, match=r"part is a TIFF with 8 bits, cielab, .*; export"
    ):
        decode_image(content, "part")


# Arrays


@pytest.mark.parametrize("shape", [(24, 20), (24, 20, 1), (24, 20, 3), (24, 20, 4)])
def test_arrays_of_all_documented_shapes_become_rgb(rng, shape):
    array = rng.integers(0, 256, shape, np.uint8)
    expected = in_gray(array[..., 0]) if shape[2:] == (1,) else array[..., :3]

    image = as_rgb(array)

    np.testing.assert_array_equal(
        image, in_gray(array) if array.ndim == 2 else expected
    )
    assert not np.shares_memory(image, array)
    assert image.flags.c_contiguous


def test_read_only_and_reversed_arrays_become_writable_ones(pixels):
    pixels.flags.writeable = False

    image = as_rgb(pixels[..., ::-1])

    assert image.flags.writeable
    np.testing.assert_array_equal(image, pixels[..., ::-1])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_point_arrays_round_to_the_nearest_value(dtype):
    values = np.full((8, 8, 3), 0.5, dtype)

    np.testing.assert_array_equal(as_rgb(values), 128)


def test_arrays_of_truth_values_are_black_and_white():
    bits = GRADIENT_8 > 127

    np.testing.assert_array_equal(as_rgb(bits), in_gray(255 * bits))


@pytest.mark.parametrize(
    "dtype", [np.int32, np.int64, np.int8, np.uint32, np.complex64]
)
def test_an_array_of_another_type_is_refused(pixels, dtype):
    with pytest.raises(ImageError, match=rf"has {np.dtype(dtype)}; divide it by"):
        as_rgb(pixels.astype(dtype))


def test_the_advice_for_signed_arrays_keeps_12_bit_values():
    values = (GRADIENT_16 >> 4).astype(np.int16)

    with pytest.raises(ImageError, match="such as 4095 for 12 bits"):
        as_rgb(values)

    np.testing.assert_array_equal(
        as_rgb(values / 4095), in_gray(np.rint(values / 4095 * 255))
    )


@pytest.mark.parametrize(
    "shape", [(), (9,), (3, 24, 20), (24, 20, 2), (24, 20, 0), (1, 24, 20, 3)]
)
def test_an_array_of_another_shape_is_refused(shape):
    with pytest.raises(ImageError, match="put the channels last"):
        as_rgb(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("thing", [None, 3, io.StringIO("text"), [[0, 1], [2, 3]]])
def test_anything_else_is_refused_by_its_type(thing):
    as_rgb_in_production = inspect.unwrap(as_rgb)  # types are checked in tests alone

    with pytest.raises(ImageError, match=f"got {type(thing).__name__}; convert"):
        as_rgb_in_production(thing)


def test_bytes_and_open_files_are_read_as_the_file_is(tmp_path, picture):
    picture.save(tmp_path / "part.png")
    content = (tmp_path / "part.png").read_bytes()
    expected = as_rgb(tmp_path / "part.png")

    with (tmp_path / "part.png").open("rb") as file:
        for image in (content, io.BytesIO(content), file):
            np.testing.assert_array_equal(as_rgb(image), expected)
    with pytest.raises(ImageError, match="the given image is no PNG"):
        as_rgb(b"not an image")
    (tmp_path / "text.png").write_text("no image either")
    no_png = pytest.raises(ImageError, match=r"text\.png is no PNG")
    with (tmp_path / "text.png").open("rb") as file, no_png:
        as_rgb(file)


@pytest.mark.parametrize("n_channels", [3, 4])
def test_bgr_arrays_become_rgb(rng, n_channels):
    array = rng.integers(0, 256, (24, 20, n_channels), np.uint8)

    np.testing.assert_array_equal(as_rgb(array, color="bgr"), array[..., 2::-1])


def test_gray_arrays_have_no_order_of_channels(rng):
    gray = rng.integers(0, 256, (24, 20), np.uint8)

    np.testing.assert_array_equal(as_rgb(gray, color="bgr"), as_rgb(gray))
    np.testing.assert_array_equal(as_rgb(gray[None], layout="chw"), as_rgb(gray))


def test_tensors_with_channels_first_become_rgb(pixels):
    tensor = torch.tensor(pixels).permute(2, 0, 1)

    np.testing.assert_array_equal(as_rgb(tensor, layout="chw"), pixels)
    with_gradient = (tensor / 255).requires_grad_()
    np.testing.assert_array_equal(as_rgb(with_gradient, layout="chw"), pixels)
    exchanged = as_rgb(tensor, layout="chw", color="bgr")
    np.testing.assert_array_equal(exchanged, pixels[..., ::-1])


def test_a_tensor_of_values_that_numpy_lacks_is_refused():
    with pytest.raises(ImageError, match="convert it to uint8 or float32"):
        as_rgb(torch.zeros(24, 20, dtype=torch.bfloat16))


def test_what_has_colors_of_its_own_takes_no_order(picture):
    for image in (picture, b"bytes", "part.png"):
        with pytest.raises(ImageError, match="has its own colors; leave them out"):
            as_rgb(image, color="bgr")


def test_messages_use_the_given_name():
    with pytest.raises(ImageError, match=r"image 7 has \(9,\)"):
        as_rgb(np.zeros(9), "image 7")
    with pytest.raises(ImageError, match="image 7 has 4 x 4"):
        as_rgb(Image.new("L", (4, 4)), "image 7")


def test_a_picture_closed_by_the_user_is_an_image_error(tmp_path, picture):
    picture.save(tmp_path / "part.png")
    with Image.open(tmp_path / "part.png") as opened:
        pass

    with pytest.raises(ImageError, match=r"part\.png cannot be decoded"):
        as_rgb(opened)


@given(
    arrays(
        np.uint8,
        st.tuples(st.integers(8, 30), st.integers(8, 30), st.just(3)),
        fill=st.integers(0, 255),
    )
)
def test_a_lossless_file_returns_the_same_image(image):
    content = encoded(Image.fromarray(image), "PNG")

    np.testing.assert_array_equal(decode_image(content, "part"), image)
    np.testing.assert_array_equal(as_rgb(image), image)


# Masks


@pytest.mark.parametrize(
    "dtype", [np.bool_, np.uint8, np.uint16, np.int32, np.float32], ids=str
)
def test_a_mask_counts_every_label_above_zero(tmp_path, dtype):
    labels = np.zeros((24, 20), dtype)
    labels[3:9, 4:8] = 0.5 if dtype == np.float32 else 1
    path = tmp_path / "mask.tif"
    Image.fromarray(labels).save(path)

    mask = read_mask(path)

    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, labels > 0)


def test_a_mask_in_color_counts_every_color_but_black(tmp_path):
    labels = np.zeros((24, 20, 4), np.uint8)
    labels[..., 3] = 255
    labels[2, :, 0] = labels[4, :, 1] = labels[6, :, 2] = 1
    path = tmp_path / "mask.png"
    Image.fromarray(labels).save(path)

    assert np.flatnonzero(read_mask(path).all(axis=1)).tolist() == [2, 4, 6]


def test_a_mask_with_a_palette_counts_by_color_and_not_by_index(tmp_path):
    """Some editors number white before black."""
    labels = np.ones((24, 20), np.uint8)
    labels[5:9] = 0
    picture = Image.fromarray(labels).convert("P")
    picture.putpalette([255, 255, 255, 0, 0, 0])
    picture.save(tmp_path / "mask.png")

    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), labels == 0)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_mask_with_16_bits_in_color_is_refused(tmp_path, channels):
    """Pillow drops the lower 8 bits: a label of 1 would be no defect."""
    path = tmp_path / "mask.tif"
    labels = np.ones((24, 20, channels), np.uint16)
    tifffile.imwrite(path, labels, photometric="rgb")

    with pytest.raises(ImageError, match=r"must have 8 bits, .*mask\.tif has 16"):
        read_mask(path)

    tifffile.imwrite(path, labels.astype(np.uint8), photometric="rgb")
    assert read_mask(path).all()


def test_a_mask_that_is_no_image_is_an_image_error(tmp_path):
    (tmp_path / "mask.png").write_text("no mask")

    with pytest.raises(ImageError, match=r"mask\.png is no PNG"):
        read_mask(tmp_path / "mask.png")


def test_labels_are_the_stored_values_of_a_gray_file(tmp_path):
    labels = (GRADIENT_16 // 200).astype(np.uint16)
    Image.fromarray(labels).save(tmp_path / "labels.png")

    np.testing.assert_array_equal(read_labels(tmp_path / "labels.png"), labels)


@pytest.mark.parametrize(("mode", "suffix"), [("RGB", "png"), ("F", "tif")])
def test_labels_in_color_or_floating_point_are_refused(tmp_path, mode, suffix):
    path = tmp_path / f"labels.{suffix}"
    Image.new(mode, (20, 24)).save(path)

    with pytest.raises(ImageError, match=rf"labels\.{suffix} has the mode {mode}; exp"):
        read_labels(path)


# Resizing


def test_resizing_returns_the_requested_size(pixels):
    assert resize_image(pixels, 30, 50).shape == (30, 50, 3)


def test_resizing_averages_when_it_shrinks():
    """Without antialiasing, a checkerboard would stay black and white."""
    board = in_gray(255 * (np.indices((64, 64)).sum(axis=0) % 2)).astype(np.uint8)

    small = resize_image(board, 8, 8)

    assert small.std() < 5
    assert abs(small.mean() - 127.5) < 2
    assert board[::8, ::8].std() == 0  # what picking every eighth pixel gives


def test_resizing_is_pillow_s_bilinear(picture, pixels):
    expected = picture.resize((11, 13), Image.Resampling.BILINEAR)

    np.testing.assert_array_equal(resize_image(pixels, 13, 11), np.array(expected))


@pytest.mark.parametrize("shape", [(8, 3000, 3), (3000, 8, 3)])
def test_resizing_makes_no_image_larger_than_an_image_may_be(rng, monkeypatch, shape):
    image = rng.integers(0, 256, shape, np.uint8)
    whole = resize_image(image, 16, 16)
    monkeypatch.setattr(rgb, "MAX_PIXELS", 30_000)
    sizes = []
    resize = Image.Image.resize

    def noted(picture, size, *arguments, **options):
        sizes.append(size)
        return resize(picture, size, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", noted)
    small = resize_image(image, 16, 16)

    assert max(width * height for width, height in sizes) <= 30_000
    assert np.abs(small.astype(int) - whole).max() <= 1  # each pass rounds


def test_resizing_to_the_same_size_returns_a_copy(pixels):
    same = resize_image(pixels, 24, 20)

    np.testing.assert_array_equal(same, pixels)
    assert not np.shares_memory(same, pixels)
    assert same.flags.writeable


# Hashing pictures


def test_equal_pictures_have_one_hash_in_every_format(picture, pixels):
    in_files = [encoded(picture, name) for name in ("PNG", "BMP", "TIFF")]
    hashes = {image_hash(decode_image(content, "part")) for content in in_files}

    assert hashes == {image_hash(pixels), image_hash(np.asfortranarray(pixels))}
    assert len(hashes) == 1


def test_another_pixel_or_shape_changes_the_hash(pixels):
    changed = pixels.copy()
    changed[7, 7, 1] ^= 1

    assert image_hash(changed) != image_hash(pixels)
    assert image_hash(pixels.reshape(20, 24, 3)) != image_hash(pixels)


# Real images


@pytest.mark.parametrize(
    ("path", "is_gray"),
    [
        ("mvtec_ad/bottle/train/good/000.jpg", False),
        ("mvtec_ad/screw/train/good/000.jpg", True),
        ("magnetic_tile/train/good/000.jpg", True),
    ],
)
def test_real_images_are_read(shared_data, path, is_gray):
    image = read_image(shared_data / Path(path))

    assert image.shape[2] == 3
    assert image.std() > 1
    assert np.array_equal(image[..., 0], image[..., 2]) == is_gray
