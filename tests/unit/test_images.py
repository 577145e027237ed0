"""Any file in, RGB out, or a sentence that says why not."""

import inspect
import os
import struct
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps

from efficientad.errors import ImageError
from efficientad.images import decoding as pictures
from efficientad.images.decoding import MAX_PIXELS, MIN_SIDE
from efficientad.images.listing import IMAGE_SUFFIXES
from efficientad.images.rgb import (
    as_rgb,
    decode_image,
    image_hash,
    read_image,
    read_mask,
    resize_image,
)

ORIENTATION = 0x0112
GRADIENT_16 = np.linspace(0, 65535, 24 * 20).astype(np.uint16).reshape(24, 20)
GRADIENT_8 = (GRADIENT_16 >> 8).astype(np.uint8)


@pytest.fixture
def picture(rng):
    return Image.fromarray(rng.integers(0, 256, (24, 20, 3), np.uint8))


@pytest.fixture
def pixels(picture):
    return np.array(picture)


def encoded(picture, file_format, **options):
    buffer = BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def in_gray(values):
    return np.stack([values] * 3, axis=2)


def png_without_pixels(width, height):
    """A PNG that says its size and ends where its pixels begin: decoding it fails."""
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(content))
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + content
        + checksum
        + b"\0\0\1\0IDAT"
    )


# Reading files


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_listed_suffix_is_read(tmp_path, picture, suffix):
    path = tmp_path / f"part{suffix.upper()}"
    options = {"lossless": True} if suffix == ".webp" else {}
    picture.save(path, **options)

    image = read_image(path)

    assert image.dtype == np.uint8
    assert image.flags.writeable
    np.testing.assert_array_equal(image, np.array(Image.open(path).convert("RGB")))


def test_a_path_may_be_text(tmp_path, picture, pixels):
    picture.save(tmp_path / "part.png")

    np.testing.assert_array_equal(read_image(str(tmp_path / "part.png")), pixels)
    np.testing.assert_array_equal(as_rgb(str(tmp_path / "part.png")), pixels)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_compressed_tiff_is_read(tmp_path, picture, pixels, compression):
    path = tmp_path / "part.tif"
    picture.save(path, compression=compression)

    np.testing.assert_array_equal(read_image(path), pixels)
    np.testing.assert_array_equal(decode_image(path.read_bytes(), "part"), pixels)


def test_content_counts_and_not_the_suffix(tmp_path, picture, pixels):
    path = tmp_path / "part.jpg"
    path.write_bytes(encoded(picture, "PNG"))

    np.testing.assert_array_equal(read_image(path), pixels)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png does not exist; check the path"):
        read_image(tmp_path / "gone.png")


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(ImageError, match="is a folder; give a file in it"):
        read_image(tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read all")
def test_a_forbidden_file_is_named(tmp_path, picture):
    path = tmp_path / "part.png"
    picture.save(path)
    path.chmod(0)

    with pytest.raises(ImageError, match="Permission denied"):
        read_image(path)


def test_an_unusable_path_is_no_other_error():
    with pytest.raises(ImageError, match="cannot be opened"):
        read_image("part\0.png")
    with pytest.raises(ImageError, match="cannot be opened"):
        read_image("x" * 5000)


def test_an_empty_file_is_named(tmp_path):
    path = tmp_path / "part.png"
    path.touch()

    with pytest.raises(ImageError, match=r"part\.png is empty \(0 bytes\)"):
        read_image(path)


@pytest.mark.parametrize("content", [b"x", b"not a picture at all", b"RIFF1234WAVEfmt"])
def test_text_named_as_picture_is_told_so(tmp_path, content):
    path = tmp_path / "part.png"
    path.write_bytes(content)

    with pytest.raises(ImageError, match=r"part\.png is no PNG, JPEG, .* export it"):
        read_image(path)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.8])
def test_a_truncated_file_is_named(tmp_path, picture, file_format, share):
    content = encoded(picture, file_format)
    path = tmp_path / "part.png"
    path.write_bytes(content[: max(13, int(share * len(content)))])

    with pytest.raises(ImageError, match=r"part\.png cannot be decoded"):
        read_image(path)

    path.write_bytes(content)
    assert read_image(path).shape == (24, 20, 3)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF"])
def test_damaged_bytes_give_an_image_or_an_image_error(picture, rng, file_format):
    content = encoded(picture, file_format)
    n_refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(0, min(len(content), 300), 3):
            damaged[place] = rng.integers(256)
        try:
            image = decode_image(bytes(damaged), "part")
        except ImageError:
            n_refused += 1
        else:
            assert image.shape[2] == 3

    assert n_refused > 0


# Frames


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_several_frames_are_refused(picture, file_format):
    others = [ImageOps.invert(picture), ImageOps.mirror(picture)]
    content = encoded(picture, file_format, save_all=True, append_images=others)

    with pytest.raises(ImageError, match="must have one frame, part has 3; save each"):
        decode_image(content, "part")

    assert decode_image(encoded(picture, file_format), "part").shape == (24, 20, 3)


def test_previews_in_a_phone_s_picture_are_no_frames(picture):
    preview = picture.resize((10, 12))
    content = encoded(picture, "MPO", save_all=True, append_images=[preview])
    opened = Image.open(BytesIO(content))
    expected = np.array(Image.open(BytesIO(content)).convert("RGB"))

    assert getattr(opened, "n_frames", 1) == 2
    np.testing.assert_array_equal(as_rgb(opened), expected)
    np.testing.assert_array_equal(decode_image(content, "part"), expected)


def test_one_frame_taken_out_by_the_user_is_an_image(picture, pixels):
    others = [ImageOps.mirror(picture)]
    content = encoded(picture, "TIFF", save_all=True, append_images=others)
    opened = Image.open(BytesIO(content))

    with pytest.raises(ImageError, match="one frame"):
        as_rgb(opened)

    np.testing.assert_array_equal(as_rgb(opened.copy()), pixels)


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
    opened = Image.open(BytesIO(content))

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

    with pytest.raises(ImageError, match=r"part has the mode LAB, .* export it as RGB"):
        decode_image(content, "part")


# Orientation


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied(picture, file_format, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = encoded(picture, file_format, exif=exif)
    opened = Image.open(BytesIO(content))
    expected = np.array(ImageOps.exif_transpose(opened))

    np.testing.assert_array_equal(decode_image(content, "part"), expected)
    np.testing.assert_array_equal(as_rgb(Image.open(BytesIO(content))), expected)
    assert expected.shape[0] == (24 if orientation < 5 else 20)


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_undefined_orientation_changes_nothing(picture, pixels, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = encoded(picture, "PNG", exif=exif)

    np.testing.assert_array_equal(decode_image(content, "part"), pixels)


def test_damaged_metadata_beside_sound_pixels_is_ignored(picture, pixels):
    content = encoded(picture, "PNG", exif=b"Exif\0\0XX\0\0 this is no TIFF header")

    np.testing.assert_array_equal(decode_image(content, "part"), pixels)


# Sizes


def test_the_smallest_image_is_read_and_a_smaller_one_refused():
    smallest = np.zeros((MIN_SIDE, 50), np.uint8)

    assert as_rgb(smallest).shape == (MIN_SIDE, 50, 3)
    with pytest.raises(ImageError, match=r"at least 8 x 8 pixels, .* has 50 x 7"):
        as_rgb(smallest[1:])
    with pytest.raises(ImageError, match="at least 8 x 8 pixels, part has 7 x 50"):
        decode_image(encoded(Image.new("L", (7, 50)), "PNG"), "part")


def test_too_many_pixels_are_refused_before_they_are_decoded():
    with pytest.raises(ImageError, match="200 million pixels, part has 20000 x 10001"):
        decode_image(png_without_pixels(20000, MAX_PIXELS // 20000 + 1), "part")

    # The positive control: at the limit, decoding is tried.
    with pytest.raises(ImageError, match="part cannot be decoded"):
        decode_image(png_without_pixels(20000, 9), "part")


def test_pillow_s_limit_for_the_whole_process_is_neither_used_nor_changed(
    picture, pixels, monkeypatch
):
    content = encoded(picture, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(pictures, "_STRIP_PIXELS", 40)

    with pytest.raises(Image.DecompressionBombError):
        Image.open(BytesIO(content))

    np.testing.assert_array_equal(decode_image(content, "part"), pixels)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("strip_pixels", [1, 20, 70, 10**6])
def test_strips_leave_no_trace(picture, monkeypatch, strip_pixels):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = encoded(picture, "PNG", exif=exif)
    whole = decode_image(content, "part")
    from_array = as_rgb(GRADIENT_16)
    monkeypatch.setattr(pictures, "_STRIP_PIXELS", strip_pixels)

    np.testing.assert_array_equal(decode_image(content, "part"), whole)
    np.testing.assert_array_equal(as_rgb(GRADIENT_16), from_array)


def test_reading_needs_little_memory_besides_the_result():
    content = encoded(Image.new("RGB", (4000, 3000)), "PNG")
    tracemalloc.start()
    try:
        image = decode_image(content, "part")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # Pillow's own copy is not traced: 4 bytes a pixel.
    assert image.nbytes < peak < 1.4 * image.nbytes


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
    with pytest.raises(ImageError, match=rf"has {np.dtype(dtype)}; convert it"):
        as_rgb(pixels.astype(dtype))


@pytest.mark.parametrize(
    "shape", [(), (9,), (3, 24, 20), (24, 20, 2), (24, 20, 0), (1, 24, 20, 3)]
)
def test_an_array_of_another_shape_is_refused(shape):
    with pytest.raises(ImageError, match="put the channels last"):
        as_rgb(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("thing", [None, 3, b"bytes", [[0, 1], [2, 3]]])
def test_anything_else_is_refused_by_its_type(thing):
    as_rgb_in_production = inspect.unwrap(as_rgb)  # types are checked in tests alone

    with pytest.raises(ImageError, match=f"got {type(thing).__name__}; convert"):
        as_rgb_in_production(thing)


def test_messages_call_an_image_as_the_caller_does():
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
def test_a_lossless_file_gives_its_image_back(image):
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


def test_a_mask_that_is_no_image_is_an_image_error(tmp_path):
    (tmp_path / "mask.png").write_text("no mask")

    with pytest.raises(ImageError, match=r"mask\.png is no PNG"):
        read_mask(tmp_path / "mask.png")


# Resizing


def test_resizing_gives_the_size_asked_for(pixels):
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


def test_resizing_to_the_same_size_gives_an_own_copy(pixels):
    same = resize_image(pixels, 24, 20)

    np.testing.assert_array_equal(same, pixels)
    assert not np.shares_memory(same, pixels)
    assert same.flags.writeable


# Hashing pictures


def test_equal_pictures_hash_equally_whatever_the_file(picture, pixels):
    in_files = [encoded(picture, name) for name in ("PNG", "BMP", "TIFF")]
    hashes = {image_hash(decode_image(content, "part")) for content in in_files}

    assert hashes == {image_hash(pixels), image_hash(np.asfortranarray(pixels))}
    assert len(hashes) == 1


def test_another_pixel_or_shape_hashes_otherwise(pixels):
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
