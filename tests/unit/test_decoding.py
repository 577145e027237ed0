"""Image files of every format, whole and damaged, upright and within their limits."""

import os
import struct
import tracemalloc
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps
from tests.image_files import GRADIENT_16, encoded, n_refused

from efficientad.errors import ImageError
from efficientad.images import decoding
from efficientad.images.decoding import MAX_PIXELS, MIN_SIDE
from efficientad.images.listing import IMAGE_SUFFIXES
from efficientad.images.rgb import as_rgb, decode_image, read_image

ORIENTATION = 0x0112


@pytest.fixture
def picture(rng):
    return Image.fromarray(rng.integers(0, 256, (24, 20, 3), np.uint8))


@pytest.fixture
def pixels(picture):
    return np.array(picture)


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
    with Image.open(path) as opened:
        np.testing.assert_array_equal(image, np.array(opened.convert("RGB")))


def test_a_path_may_be_a_string(tmp_path, picture, pixels):
    picture.save(tmp_path / "part.png")

    np.testing.assert_array_equal(read_image(str(tmp_path / "part.png")), pixels)
    np.testing.assert_array_equal(as_rgb(str(tmp_path / "part.png")), pixels)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_compressed_tiff_is_read(tmp_path, picture, pixels, compression):
    path = tmp_path / "part.tif"
    picture.save(path, compression=compression)

    np.testing.assert_array_equal(read_image(path), pixels)
    np.testing.assert_array_equal(decode_image(path.read_bytes(), "part"), pixels)


def test_the_format_is_known_by_content_not_by_suffix(tmp_path, picture, pixels):
    path = tmp_path / "part.jpg"
    path.write_bytes(encoded(picture, "PNG"))

    np.testing.assert_array_equal(read_image(path), pixels)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png does not exist; check the path"):
        read_image(tmp_path / "gone.png")


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(ImageError, match="is a folder; give a file in it"):
        read_image(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_only_regular_files_are_opened(tmp_path, picture):
    """Opening a pipe would wait for ever."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "part.png")
    picture.save(tmp_path / "part.png")

    for path in (tmp_path / "pipe.png", "/dev/zero"):
        with pytest.raises(ImageError, match="a pipe or device"):
            read_image(path)
    assert read_image(tmp_path / "link.png").shape == (24, 20, 3)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read all")
def test_a_forbidden_file_is_named(tmp_path, picture):
    path = tmp_path / "part.png"
    picture.save(path)
    path.chmod(0)

    with pytest.raises(ImageError, match="Permission denied"):
        read_image(path)


def test_an_unusable_path_is_an_image_error():
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
def test_a_file_that_is_no_image_is_refused(tmp_path, content):
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
    n_bytes = min(len(content), 300)

    assert n_refused(content, rng, n_files=150, n_bytes=n_bytes) > 0


def png_chunks(content):
    """Yield the place of each chunk of a PNG file, its kind, and its length."""
    place = 8
    while place < len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        yield place, content[place + 4 : place + 8], length
        place += 12 + length


@pytest.mark.parametrize("wrong", ["pixels", "checksum"])
def test_a_png_whose_pixels_and_checksum_differ_is_refused(picture, wrong):
    content = bytearray(encoded(picture, "PNG", compress_level=0))
    place, _, length = next(c for c in png_chunks(content) if c[1] == b"IDAT")
    content[place + 8 + (length // 2 if wrong == "pixels" else length)] ^= 1

    with pytest.raises(ImageError, match=r"part cannot be decoded .*checksum in"):
        decode_image(bytes(content), "part")
    with pytest.raises(ImageError, match="the given image cannot be decoded"):
        as_rgb(Image.open(BytesIO(content)))


def test_a_png_in_many_chunks_is_read(picture, pixels):
    content = encoded(picture, "PNG")
    place, _, length = next(c for c in png_chunks(content) if c[1] == b"IDAT")
    data = content[place + 8 : place + 8 + length]
    parts = b""
    for start in range(0, length, 100):
        part = data[start : start + 100]
        checksum = zlib.crc32(b"IDAT" + part)
        parts += struct.pack(">I", len(part)) + b"IDAT" + part
        parts += struct.pack(">I", checksum)

    split = content[:place] + parts + content[place + 12 + length :]

    np.testing.assert_array_equal(decode_image(split, "part"), pixels)
    np.testing.assert_array_equal(as_rgb(Image.open(BytesIO(split))), pixels)


# Frames


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_several_frames_are_refused(picture, file_format):
    others = [ImageOps.invert(picture), ImageOps.mirror(picture)]
    content = encoded(picture, file_format, save_all=True, append_images=others)

    with pytest.raises(ImageError, match="must have one frame, part has several; save"):
        decode_image(content, "part")

    assert decode_image(encoded(picture, file_format), "part").shape == (24, 20, 3)


def test_previews_in_a_phone_image_are_no_frames(picture):
    preview = picture.resize((10, 12))
    content = encoded(picture, "MPO", save_all=True, append_images=[preview])
    opened = Image.open(BytesIO(content))
    expected = np.array(Image.open(BytesIO(content)).convert("RGB"))

    assert getattr(opened, "n_frames", 1) == 2
    np.testing.assert_array_equal(as_rgb(opened), expected)
    np.testing.assert_array_equal(decode_image(content, "part"), expected)


def test_a_copy_of_one_frame_is_an_image(picture, pixels):
    others = [ImageOps.mirror(picture)]
    content = encoded(picture, "TIFF", save_all=True, append_images=others)
    opened = Image.open(BytesIO(content))

    with pytest.raises(ImageError, match="one frame"):
        as_rgb(opened)

    np.testing.assert_array_equal(as_rgb(opened.copy()), pixels)


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


def test_damaged_metadata_is_ignored(picture, pixels):
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
    monkeypatch.setattr(decoding, "_STRIP_PIXELS", 40)

    with pytest.raises(Image.DecompressionBombError):
        Image.open(BytesIO(content))

    np.testing.assert_array_equal(decode_image(content, "part"), pixels)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("strip_pixels", [1, 20, 70, 10**6])
def test_the_size_of_strips_changes_nothing(picture, monkeypatch, strip_pixels):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = encoded(picture, "PNG", exif=exif)
    whole = decode_image(content, "part")
    from_array = as_rgb(GRADIENT_16)
    monkeypatch.setattr(decoding, "_STRIP_PIXELS", strip_pixels)

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
