"""TIFF files of every form: the pixels that tifffile reads, or a sentence."""

import itertools
import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from tests.image_files import GRADIENT_16, n_refused

from efficientad.errors import ImageError
from efficientad.images.rgb import as_rgb, decode_image, read_labels, read_mask

HEIGHT, WIDTH, STRIP, TILE = 40, 37, 11, 16
COLORS = {
    "minisblack": 1,
    "miniswhite": 1,
    "palette": 1,
    "rgb": 3,
    "ycbcr": 3,
    "separated": 4,
}
PACKED = [("u", 1), ("u", 2), ("u", 4), ("u", 10), ("u", 12), ("u", 14)]
WHOLE = [(k, 8 * n) for n in (1, 2, 4) for k in "ui"]
FLOAT = [("f", 16), ("f", 32), ("f", 64)]
EXTRAS = [(), ("unassalpha",), ("assocalpha",), ("unspecified",), ("unspecified",) * 2]


def packed(values, bits):
    """Return rows of values of some bits each, every row filled up to whole bytes."""
    in_bits = np.unpackbits(values.astype(">u2")[..., None].view(np.uint8), axis=-1)
    rows = in_bits[..., 16 - bits :].reshape(len(values), -1)
    return np.packbits(rows, axis=1).tobytes()


def lzw(content):
    """Return bytes in LZW that never compresses: its codes stay at 9 bits."""
    parts = [content[i : i + 250] for i in range(0, len(content), 250)]
    codes = [code for part in parts for code in (256, *part)] + [257]
    bits = np.unpackbits(np.array(codes, ">u2")[:, None].view(np.uint8), axis=1)
    return np.packbits(bits[:, 7:]).tobytes()


def as_lzw(content, order):
    """Return a TIFF file of deflated segments with the same segments in LZW."""
    tag = struct.pack(f"{order}HHI", 259, 3, 1)
    deflate, as_code = (tag + struct.pack(f"{order}H", n) for n in (8, 5))
    assert content.count(deflate) == 1
    return content.replace(deflate, as_code)


def samples_of(kind, bits, shape, rng):
    """Return random values: of full range if unsigned with 16 bits or less."""
    if kind == "f":
        return (rng.integers(0, 256, shape) / 255).astype(f"f{bits // 8}")
    n_bits = min(bits, 16) - (kind == "i" and bits <= 16)
    dtype = f"{kind}{1 << max(0, (bits - 1).bit_length() - 3)}"
    return rng.integers(0, 1 << n_bits, shape).astype(dtype)


def written(values, bits, photometric, extra, colormap, *, layout, order, coding):
    """Return a TIFF file with the values, (height, width, samples), or None.

    None is a form that tifffile does not write.
    """
    planar, has_tiles = layout
    compression, has_predictor = coding
    planes = np.moveaxis(values, 2, 0) if planar == "separate" else [values]
    data = np.array(planes) if planar == "separate" else values
    data = data[..., 0] if values.shape[2] == 1 else data
    options: dict[str, Any] = {"colormap": colormap} if photometric == "palette" else {}
    if values.shape[2] > 1:
        options |= {"planarconfig": planar, "extrasamples": extra}
    if has_tiles:
        options["tile"] = (TILE, TILE)
    options |= {"predictor": True} if has_predictor else {}
    options["compression"] = {"lzw": "zlib"}.get(compression, compression)
    if bits == 1:
        if values.shape[2] > 1 or compression == "lzw":
            return None
        data = data.astype(np.bool_)
    elif bits % 8 or compression == "lzw":
        if has_tiles or has_predictor:
            return None
        options |= {"shape": data.shape, "dtype": data.dtype.newbyteorder(order)}
        options |= {"bitspersample": bits} if bits % 8 else {}
        rows = [p[i : i + STRIP] for p in planes for i in range(0, HEIGHT, STRIP)]
        ordered = values.dtype.newbyteorder(order)
        coded = [
            packed(r, bits) if bits % 8 else r.astype(ordered).tobytes() for r in rows
        ]
        data = iter([lzw(part) for part in coded] if compression == "lzw" else coded)
    file = BytesIO()
    try:
        tifffile.imwrite(
            file,
            data,
            photometric=photometric,
            byteorder=order,
            rowsperstrip=None if has_tiles else STRIP,
            metadata=None,
            maxworkers=1,
            **options,
        )
    except (ValueError, NotImplementedError, KeyError):
        return None
    content = file.getvalue()
    if compression == "lzw":
        return as_lzw(content, order)
    if bits % 8 == 0 or bits == 1:  # tifffile unpacks the others with another package
        read = tifffile.imread(BytesIO(content), maxworkers=1)
        read = np.moveaxis(read, 0, -1) if planar == "separate" else read
        np.testing.assert_array_equal(read.reshape(values.shape), values)
    return content


def expected_rgb(values, bits, photometric, colormap):
    """Return the pixels that the values mean: the rules of `images.rgb`."""
    colors = values[..., : COLORS[photometric]]
    if photometric == "palette" and colors.dtype.kind == "u":
        return (colormap[:, colors[..., 0]] >> 8).transpose(1, 2, 0)
    if colors.dtype.kind == "f":
        colors = np.rint(colors.astype(np.float64) * 255)
        return np.broadcast_to(colors[..., :3], (*colors.shape[:2], 3))
    largest = 2**bits - 1 if bits <= 16 else 65535
    colors = colors.astype(np.int64)
    colors = largest - colors if photometric == "miniswhite" else colors
    colors = colors * 255 // largest if bits < 8 else colors >> (min(bits, 16) - 8)
    if photometric == "separated":
        return np.array(Image.fromarray(colors.astype(np.uint8), "CMYK").convert("RGB"))
    return np.broadcast_to(colors, (*colors.shape[:2], 3))


def forms(n_samples):
    """Yield planes and tiles, byte order, compression and predictor."""
    planars = ["contig"] if n_samples == 1 else ["contig", "separate"]
    codings = [(None, False), ("zlib", False), ("zlib", True), ("lzw", False)]
    yield from itertools.product(
        itertools.product(planars, (False, True)), ("<", ">"), codings
    )


def must_be_read(kind, bits, photometric, extra, layout, coding):
    """Return whether a form may not be refused."""
    is_compressed = coding[0] is not None
    is_plain = layout[0] == "contig" and not extra
    if len(extra) > 1 or "assocalpha" in extra:
        return False
    if photometric in {"minisblack", "rgb"} and bits % 8 == 0:
        is_usual = kind == "u" and (bits == 8 or (bits == 16 and is_plain))
        return is_usual or not is_compressed
    if photometric == "miniswhite":
        is_usual = kind == "u" and bits in {8, 16}
        return is_usual and not is_compressed
    return kind == "u" and bits == 8 and is_plain and photometric != "ycbcr"


@pytest.mark.parametrize("extra", EXTRAS, ids=lambda names: "+".join(names) or "none")
@pytest.mark.parametrize("photometric", COLORS)
@pytest.mark.parametrize(("kind", "bits"), PACKED + WHOLE + FLOAT, ids=str)
def test_every_form_gives_the_pixels_of_tifffile_or_is_refused(
    kind, bits, photometric, extra, rng
):
    n_samples = COLORS[photometric] + len(extra)
    values = samples_of(kind, bits, (HEIGHT, WIDTH, n_samples), rng)
    colormap = rng.integers(0, 65536, (3, 1 << min(bits, 16))).astype(np.uint16)
    expected = expected_rgb(values, bits, photometric, colormap)
    for layout, order, coding in forms(n_samples):
        content = written(
            values,
            bits,
            photometric,
            extra,
            colormap,
            layout=layout,
            order=order,
            coding=coding,
        )
        if content is None:
            continue
        try:
            image = decode_image(content, "part")
        except ImageError as error:
            refusal = str(error)
            assert not must_be_read(kind, bits, photometric, extra, layout, coding)
        else:
            np.testing.assert_array_equal(image, expected, str((layout, order, coding)))
            continue
        assert refusal.startswith(
            "an image must have a form that is read exactly, part is a TIFF with "
            f"{bits} bits, {photometric}, "
        )


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_tiff_in_jpeg_has_the_colors_of_its_picture(mode):
    ramp = np.arange(64, dtype=np.uint8)
    colors = np.stack(np.broadcast_arrays(2 * ramp[:, None], 3 * ramp, 90), axis=2)
    picture = Image.fromarray(colors.astype(np.uint8)).convert(mode)
    file = BytesIO()
    picture.save(file, "TIFF", compression="jpeg", quality=95)

    image = decode_image(file.getvalue(), "part")

    difference = image.astype(int) - np.array(picture.convert("RGB"))
    assert np.abs(difference).max() < 12


def test_a_palette_with_colors_of_8_bits_is_refused():
    """Some programs write them where 16 bits belong, and all would be black."""
    colormap = np.tile(np.arange(256, dtype=np.uint16), (3, 1))
    indices = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for scale in (1, 257):
        file = BytesIO()
        tifffile.imwrite(
            file, indices, photometric="palette", colormap=colormap * scale
        )
        if scale == 1:
            with pytest.raises(ImageError, match="8 bits, palette, compression none"):
                decode_image(file.getvalue(), "part")
        else:
            image = decode_image(file.getvalue(), "part")
            np.testing.assert_array_equal(image[..., 1], indices)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite", "rgb"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "f4", "f8"])
def test_a_mask_counts_every_value_above_zero_of_the_stored_ones(
    tmp_path, photometric, dtype, rng
):
    n_samples = COLORS[photometric]
    values = rng.integers(0, 2, (HEIGHT, WIDTH, n_samples)).astype(dtype)
    planes = np.moveaxis(values, 2, 0) if n_samples > 1 else values[..., 0]
    options: dict[str, Any] = {"planarconfig": "separate"} if n_samples > 1 else {}
    path = tmp_path / "mask.tif"
    tifffile.imwrite(path, planes, photometric=photometric, **options)
    if photometric == "miniswhite" and dtype not in {"u1", "u2"}:
        with pytest.raises(ImageError, match="miniswhite"):
            read_mask(path)
        return

    mask = read_mask(path)

    if photometric == "miniswhite":
        assert mask.all()  # only the largest value is black
    else:
        np.testing.assert_array_equal(mask, values.any(axis=2))


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "f2", "f4", "f8"])
def test_a_mask_with_values_below_zero_or_not_a_number_is_refused(tmp_path, dtype):
    values = np.zeros((HEIGHT, WIDTH), dtype)
    path = tmp_path / "mask.tif"
    for wrong in [-1] if dtype[0] == "i" else [-1, np.nan]:
        values[3, 3] = wrong
        tifffile.imwrite(path, values)

        with pytest.raises(ImageError, match=r"0 or more, .*mask\.tif has others"):
            read_mask(path)


def test_labels_are_read_at_every_depth_and_refused_beyond_31_bits(tmp_path):
    path = tmp_path / "labels.tif"
    values = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 7
    for dtype in (">u2", ">i4", "<u4", "<u8"):
        tifffile.imwrite(path, values.astype(dtype))
        np.testing.assert_array_equal(read_labels(path), values)

    values[2, 2] = 2**31
    tifffile.imwrite(path, values.astype(np.uint32))
    with pytest.raises(ImageError, match=r"0 to 2147483647, .* to 2.14748e\+09"):
        read_labels(path)


def test_numbers_beyond_16_bits_are_named_as_they_are():
    values = np.full((HEIGHT, WIDTH), 2**32 - 1, np.uint32)
    file = BytesIO()
    tifffile.imwrite(file, values)

    with pytest.raises(ImageError, match=r"0 to 65535, part has .* to 4.29497e\+09"):
        decode_image(file.getvalue(), "part")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_deep_files_is_applied(orientation, rng):
    values = rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint16) << 8
    planes = np.moveaxis(values, 2, 0)
    file, plain = BytesIO(), BytesIO()
    tag = (274, 3, 1, orientation, True)
    options: dict[str, Any] = {
        "photometric": "rgb",
        "extratags": [tag],
        "metadata": None,
    }
    tifffile.imwrite(file, planes, planarconfig="separate", **options)
    tifffile.imwrite(plain, (values >> 8).astype(np.uint8), **options)

    image = decode_image(file.getvalue(), "part")

    np.testing.assert_array_equal(image, decode_image(plain.getvalue(), "part"))
    assert image.shape[0] == (HEIGHT if orientation < 5 else WIDTH)


@pytest.mark.parametrize("dtype", [np.uint16, np.float64])
def test_a_second_page_of_a_deep_file_is_refused(dtype):
    file = BytesIO()
    pages = np.zeros((2, 3, HEIGHT, WIDTH), dtype)
    tifffile.imwrite(file, pages, photometric="rgb", planarconfig="separate")

    with pytest.raises(ImageError, match="must have one frame, part has several"):
        decode_image(file.getvalue(), "part")


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_100_000_pages_are_noticed_at_the_second(dtype, monkeypatch):
    file = BytesIO()
    tifffile.imwrite(file, np.zeros((16, 16), dtype), metadata=None)
    content = bytearray(file.getvalue())
    start = int.from_bytes(content[4:8], "little")
    page = content[
        start : start + 2 + 12 * int.from_bytes(content[start:][:2], "little")
    ]
    places = len(content) + (len(page) + 4) * np.arange(1, 100_001)
    following = b"".join(page + int(n).to_bytes(4, "little") for n in places)
    content[4:8] = len(content).to_bytes(4, "little")
    n_read = 0

    class Counting(BytesIO):
        def seek(self, *arguments):
            nonlocal n_read
            n_read += 1
            return super().seek(*arguments)

    monkeypatch.setattr("efficientad.images.rgb.BytesIO", Counting)
    with pytest.raises(ImageError, match="must have one frame"):
        decode_image(bytes(content) + following, "part")

    assert n_read < 1000


@pytest.mark.parametrize("tile", [None, (TILE, TILE)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_deep_file_is_named(tile, share):
    file = BytesIO()
    values = np.full((3, HEIGHT, WIDTH), 1000, np.uint16)
    tifffile.imwrite(
        file, values, photometric="rgb", planarconfig="separate", tile=tile
    )
    content = file.getvalue()

    with pytest.raises(ImageError, match="part cannot be decoded"):
        decode_image(content[: int(share * len(content))], "part")

    assert decode_image(content, "part").max() == 3


def test_damaged_deep_files_give_an_image_or_an_image_error(rng):
    file = BytesIO()
    values = rng.integers(0, 2**16, (3, HEIGHT, WIDTH)).astype(np.uint16)
    tifffile.imwrite(
        file, values, photometric="rgb", planarconfig="separate", rowsperstrip=STRIP
    )

    assert 0 < n_refused(file.getvalue(), rng, n_files=300, n_bytes=400) < 300


def test_a_pillow_image_that_pillow_misreads_is_refused(tmp_path):
    path = tmp_path / "part.tif"
    tifffile.imwrite(path, GRADIENT_16, photometric="miniswhite")

    with Image.open(path) as opened, pytest.raises(ImageError, match="give its path"):
        as_rgb(opened)

    np.testing.assert_array_equal(as_rgb(path)[..., 0], (65535 - GRADIENT_16) >> 8)
