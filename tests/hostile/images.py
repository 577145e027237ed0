"""Hostile pictures: each is read exactly, or is an error in its own row."""

import csv
import io
import math
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageOps
from tests.hostile.case import (
    IN,
    LISTS,
    OK,
    OUT,
    PREDICT,
    REFUSED,
    SOME_FAILED,
    SPECIAL,
    Case,
    special_file,
    write,
)
from tests.hostile.files import gradient, picture

from efficientad.images.rgb import read_image

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
ORIENTATION = 0x0112


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def rows() -> dict[str, dict[str, str]]:
    """Return the rows of the list by the names of the images."""
    with (OUT / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return {Path(row["path"]).name: row for row in csv.DictReader(file)}


def at_fault(name: str, make: Callable[[], Any], words: str, **more: Any) -> Case:
    """Return a case of a picture at fault, `in/bad.png`, beside a good one."""

    def prepare() -> None:
        make()
        write(IN / "good.png", Path("good.png").read_bytes())

    def check() -> None:
        found = rows()
        assert words in found["bad.png"]["error"], found["bad.png"]
        assert not found["bad.png"]["image_score"]
        assert float(found["good.png"]["image_score"]) >= 0
        assert not found["good.png"]["error"]

    command = ("predict", "part.ead", "in", "in/bad.png", *PREDICT[3:])
    return Case(
        area="images",
        name=name,
        prepare=prepare,
        command=command,
        codes=(SOME_FAILED,),
        makes=LISTS,
        check=check,
        **more,
    )


def bad_file(name: str, content: Callable[[], bytes], words: str, **more: Any) -> Case:
    """Return a case of a picture at fault by its content."""
    return at_fault(name, lambda: write(IN / "bad.png", content()), words, **more)


def read_as(
    name: str,
    content: Callable[[], bytes],
    expected: Callable[[], np.ndarray] | None,
    *,
    may_refuse: bool = False,
) -> Case:
    """Return a case of a picture that gives these pixels, or may be refused."""

    def call() -> None:
        pixels = read_image(IN / "picture")
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        if expected is not None:
            np.testing.assert_array_equal(pixels, expected())

    return Case(
        area="images",
        name=name,
        prepare=lambda: write(IN / "picture", content()),
        call=call,
        codes=(OK, REFUSED) if may_refuse else (OK,),
        mebibytes=100,
        seconds=5,
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def png(width: int, height: int, bits: int, data: bytes, *others: bytes) -> bytes:
    """Return a gray PNG file of compressed rows, with other chunks before them."""
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    chunks = (chunk(b"IHDR", head), *others, chunk(b"IDAT", data), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def zeros(n_bytes: int) -> bytes:
    """Return compressed zeros."""
    packer = zlib.compressobj(9)
    block = bytes(2**20)
    parts = [packer.compress(block) for _ in range(n_bytes // len(block))]
    parts += [packer.compress(bytes(n_bytes % len(block))), packer.flush()]
    return b"".join(parts)


def black(width: int, height: int) -> bytes:
    """Return a small file of a large black picture."""
    return png(width, height, 1, zeros(height * (1 + math.ceil(width / 8))))


def truncated(file_format: str, share: float) -> bytes:
    """Return the beginning of a file."""
    content = encoded(picture(), file_format)
    return content[: max(13, int(share * len(content)))]


def frames(file_format: str) -> bytes:
    """Return a file of three frames or pages."""
    others = [picture(8), picture(9)]
    return encoded(picture(), file_format, save_all=True, append_images=others)


def damaged(file_format: str, seed: int) -> bytes:
    """Return a file with three random bytes near its beginning."""
    rng = np.random.default_rng(seed)
    content = bytearray(encoded(picture(), file_format))
    for place in rng.integers(0, min(len(content), 400), 3):
        content[place] = rng.integers(256)
    return bytes(content)


def flipped_png(place: float) -> bytes:
    """Return a PNG with one flipped bit among its compressed pixels."""
    content = bytearray(encoded(picture(), "PNG", compress_level=0))
    first, last = content.index(b"IDAT") + 4, content.index(b"IEND") - 8
    content[first + int(place * (last - first))] ^= 4
    return bytes(content)


def tiff(array: np.ndarray, **options: Any) -> bytes:
    """Return a TIFF file of an array."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def tiff_of(kind: str, planes: str, order: Any, **options: Any) -> bytes:
    """Return a TIFF of the gradient in one of its forms."""
    values = gradient() if kind == "uint16" else (gradient() >> 8).astype(np.uint8)
    if planes == "gray":
        chosen, photometric = values[..., 0], "minisblack"
    else:
        chosen, photometric = values, "rgb"
        options["planarconfig"] = planes
        if planes == "separate":
            chosen = np.ascontiguousarray(values.transpose(2, 0, 1))
    return tiff(chosen, photometric=photometric, byteorder=order, **options)


def eight_bits(planes: str) -> np.ndarray:
    """Return the pixels of all these forms."""
    pixels = (gradient() >> 8).astype(np.uint8)
    return np.dstack([pixels[..., 0]] * 3) if planes == "gray" else pixels


def many_pages(n: int) -> bytes:
    """Return a TIFF of so many pages, all with the same pixels."""
    page = tiff(np.zeros((8, 8), np.uint8), metadata=None, byteorder="<")
    start = struct.unpack("<I", page[4:8])[0]
    n_tags = struct.unpack("<H", page[start : start + 2])[0]
    size = 2 + 12 * n_tags
    entry, end = page[start : start + size], len(page)
    pages = [entry + struct.pack("<I", end + i * (size + 4)) for i in range(1, n)]
    body = page[: start + size] + struct.pack("<I", end + size + 4)
    body += page[start + size + 4 :]
    return body + entry + struct.pack("<I", end) + b"".join(pages)


def turned(file_format: str, orientation: int) -> bytes:
    """Return a file whose EXIF orientation turns it."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(picture(), file_format, exif=exif)


def upright(file_format: str, orientation: int) -> np.ndarray:
    """Return what Pillow makes of it."""
    content = io.BytesIO(turned(file_format, orientation))
    return np.array(ImageOps.exif_transpose(Image.open(content)).convert("RGB"))


def with_text(kind: bytes) -> bytes:
    """Return a PNG with a chunk of text that unpacks to 64 MiB."""
    text = chunk(kind, b"a\0\0" + zeros(2**26))
    data = zlib.compress(b"".join(b"\0" + bytes(20) for _ in range(24)))
    return png(20, 24, 8, data, text)


def write_picture(content: Callable[[], bytes]) -> None:
    """Write a picture by the function that makes it."""
    write(IN / "picture", content())


def socket_file() -> None:
    """Bind a socket to the picture's path."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("in/bad.png")


def cases() -> Iterator[Case]:
    """Yield all cases of pictures."""
    yield bad_file("text", lambda: b"no image", "is no PNG, JPEG")
    for kind in SPECIAL:
        if kind == "folder":
            continue  # a folder of that name is searched
        words = {
            "pipe": "a pipe or device",
            "device": "a pipe or device",
            "broken link": "there is none",
            "link to itself": "cannot be reached",
            "empty file": "is empty (0 bytes)",
        }.get(kind, "is no PNG, JPEG")
        make = partial(special_file, kind, IN / "bad.png")
        yield at_fault(f"a {kind} for a file", make, words)
    yield at_fault("a socket", socket_file, "a pipe or device")
    for file_format, share in product(FORMATS, (0.03, 0.3, 0.6, 0.8)):
        content = partial(truncated, file_format, share)
        yield bad_file(f"{file_format} cut to {share}", content, "cannot be decoded")
    for file_format in ("PNG", "TIFF", "WEBP", "GIF"):
        content = partial(frames, file_format)
        yield bad_file(f"{file_format} of three frames", content, "must have one frame")
    for width, height in ((1, 1), (7, 8), (8, 7), (1, 10**6)):
        content = partial(black, width, height)
        yield bad_file(f"{width} x {height}", content, "at least 8 x 8 pixels")
    for width, height in ((20_000, 20_000), (2**31 - 1, 8), (8, 25_000_001)):
        content = partial(png, width, height, 1, zlib.compress(b""))
        words = "200 million pixels"
        yield bad_file(f"{width} x {height}", content, words, mebibytes=300)
    for place in (0.01, 0.2, 0.5, 0.8, 0.99):
        content = partial(flipped_png, place)
        yield bad_file(f"PNG with a flipped bit at {place}", content, "decoded")
    for name, n in (("a hundred", 100), ("a hundred thousand", 100_000)):
        content = partial(many_pages, n)
        yield bad_file(f"TIFF of {name} pages", content, "one frame", seconds=8)
    yield from read_cases()


def read_cases() -> Iterator[Case]:
    """Yield pictures that are read exactly, or may be refused."""
    forms = product(
        ("uint8", "uint16"),
        ("gray", "contig", "separate"),
        ("<", ">"),
        (None, "zlib"),
        (None, (16, 16)),
    )
    for kind, planes, order, compression, tile in forms:
        yield read_as(
            f"TIFF of {kind}, {planes}, {order}, {compression}, tile {tile}",
            partial(tiff_of, kind, planes, order, compression=compression, tile=tile),
            partial(eight_bits, planes),
            may_refuse=True,
        )
    for file_format, orientation in product(("PNG", "JPEG", "TIFF"), range(1, 9)):
        yield read_as(
            f"{file_format} with orientation {orientation}",
            partial(turned, file_format, orientation),
            partial(upright, file_format, orientation),
        )
    for file_format, seed in product(FORMATS, range(8)):
        name = f"{file_format} with random bytes {seed}"
        yield read_as(name, partial(damaged, file_format, seed), None, may_refuse=True)
    for text in (b"zTXt", b"iTXt", b"iCCP"):
        name = f"PNG with 64 MiB in {text.decode()}"
        yield read_as(name, partial(with_text, text), None, may_refuse=True)
    for file_format in ("PNG", "JPEG", "WEBP"):
        content = partial(encoded, picture(), file_format, exif=b"Exif\0\0XX no TIFF")
        yield read_as(
            f"{file_format} with damaged EXIF",
            content,
            partial(upright, file_format, 1),
        )
    for value in (math.nan, math.inf, -1e30):
        content = partial(tiff, np.full((24, 20), value, np.float32))
        yield Case(
            area="images",
            name=f"TIFF of {value}",
            prepare=partial(write_picture, content),
            call=lambda: read_image(IN / "picture"),
        )
    volume = np.zeros((3, 24, 20), np.uint8)
    content = partial(tiff, volume, photometric="minisblack", volumetric=True)
    yield Case(
        area="images",
        name="TIFF of a volume",
        prepare=partial(write_picture, content),
        call=lambda: read_image(IN / "picture"),
        words="3 layers of a volume",
    )
    yield Case(
        area="images",
        name="8 x 24 million in 46 kB",
        prepare=lambda: write(IN / "a.png", black(8, 24_000_000)),
        command=PREDICT,
        codes=(OK,),
        makes=LISTS,
        seconds=60,
        mebibytes=3000,
    )


CASES = tuple(cases())
