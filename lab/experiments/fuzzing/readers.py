"""Readers of pictures, lists and settings, each with sound files to change."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import tifffile
from PIL import Image
from tests.dataset_files import LIST, write_list

from efficientad.calibration.rule_files import rule_of
from efficientad.calibration.rule_options import RuleOptions
from efficientad.datasets.annotations import read_saturation_areas
from efficientad.datasets.lists import list_category
from efficientad.errors import EfficientADError
from efficientad.images.rgb import read_image, read_labels, read_mask
from efficientad.natural_images.pictures import open_images
from efficientad.station.config import read_config
from lab.experiments.fuzzing.mutations import Rng, changed, changed_value

PICTURE: Final = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
_POLYGONS: Final = {"unit": "pixels", "polygons": [[[1, 1], [9, 1], [9, 9], [1, 8]]]}
_AREAS: Final = [
    {
        "defect_name": "missing",
        "pixel_value": 255,
        "saturation_threshold": 40,
        "relative_saturation": False,
    },
    {
        "defect_name": "scratch",
        "pixel_value": 254,
        "saturation_threshold": 1.0,
        "relative_saturation": True,
    },
]
_STATION: Final = b"""model = "part.ead"
name = "line 1"
port = 8420
max_megapixels = 64
allowed_hosts = ["a.example"]
[retention]
normal_days = 30.0
[[folders]]
name = "shots"
path = "shots"
[[webhooks]]
name = "plant"
url = "https://plant.example/hook"
"""

Make = Callable[[Rng], bytes]


class Reader(NamedTuple):
    """A reader, and the function that makes a damaged file for it."""

    file_name: str
    make: Make
    read: Callable[[Path], object]
    """Function that gives something right, or raises an error of ours."""


def readers() -> dict[str, Reader]:
    """Return the readers of pictures, lists and settings by name."""
    write_list(Path("list.csv"))
    lists = [Path("list.csv").read_bytes()]
    return {
        "images": Reader("a.png", bytes_of(list(pictures())), _read_pixels),
        "TIFF images": Reader("a.tif", bytes_of(list(tiffs())), _read_pixels),
        "CSV lists": Reader("a.csv", bytes_of(lists), _list),
        "JSON lists": Reader("a.json", json_of(LIST), _list),
        "saturation areas": Reader("a.json", json_of(_AREAS), read_saturation_areas),
        "polygons": Reader("a.json", json_of(_POLYGONS), _polygons),
        "tars": Reader("a.tar", bytes_of([_tar()]), _natural_images),
        "station settings": Reader("a.toml", bytes_of([_STATION]), _station),
    }


def pictures() -> Iterator[bytes]:
    """Yield small pictures in the formats and forms that Pillow writes."""
    rgb = Image.fromarray(PICTURE)
    deep = Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 257)
    for image in (rgb, rgb.convert("L"), rgb.convert("P"), rgb.convert("1"), deep):
        yield _encoded(image, "PNG")
    for image in (rgb, rgb.convert("L"), rgb.convert("CMYK")):
        yield _encoded(image, "JPEG", quality=90)
    yield _encoded(rgb, "JPEG", progressive=True)
    for image in (rgb, rgb.convert("L"), rgb.convert("P"), rgb.convert("1")):
        yield _encoded(image, "BMP")
    for image in (rgb.convert("P"), rgb.convert("L")):
        yield _encoded(image, "GIF")
    yield _encoded(rgb, "WEBP")
    yield _encoded(rgb.convert("RGBA"), "WEBP", lossless=True)


def tiffs() -> Iterator[bytes]:
    """Yield small TIFF files: planes, tiles, depths, byte orders, compressions."""
    rgb = Image.fromarray(PICTURE)
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield _encoded(rgb, "TIFF", compression=compression)
    for compression in ("group3", "group4"):
        yield _encoded(rgb.convert("1"), "TIFF", compression=compression)
    types = (np.uint8, np.uint16, np.int16, np.uint32, np.float32, np.float64)
    for dtype, order, tile in product(types, "<>", (None, (16, 16))):
        is_share = np.dtype(dtype).kind == "f"
        values = PICTURE / 255 if is_share else PICTURE
        yield _tiff(values[..., 0].astype(dtype), "minisblack", order, tile=tile)
        planes = np.ascontiguousarray(values.astype(dtype).transpose(2, 0, 1))
        yield _tiff(planes, "rgb", order, tile=tile, planarconfig="separate")
    yield _tiff(PICTURE[..., 0], "miniswhite", "<", bigtiff=True)


def _tiff(values: Any, photometric: str, order: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, values, photometric=photometric, byteorder=order, **options
    )
    return buffer.getvalue()


def _encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, content in enumerate(list(pictures())[:3]):
            entry = tarfile.TarInfo(f"photos/{number}.png")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def bytes_of(sound: Sequence[bytes]) -> Make:
    """Return a maker of files with changed bytes."""

    def make(rng: Rng) -> bytes:
        return changed(sound[int(rng.integers(len(sound)))], sound, rng)

    return make


def json_of(value: Any) -> Make:
    """Return a maker of JSON files with changed bytes or values."""
    sound = json.dumps(value).encode()

    def make(rng: Rng) -> bytes:
        if rng.random() < 0.5:  # noqa: PLR2004 - a share
            return changed(sound, [sound], rng)
        return json.dumps(changed_value(value, rng)).encode()

    return make


def _read_pixels(path: Path) -> None:
    refusals = []
    for read, dtype in ((read_image, "u1"), (read_mask, "?"), (read_labels, "i4")):
        try:
            pixels = read(path)
        except EfficientADError as error:
            refusals.append(error)
            continue
        assert pixels.dtype == np.dtype(dtype), pixels.dtype
        assert pixels.ndim == (3 if read is read_image else 2), pixels.shape
    if len(refusals) == 3:  # noqa: PLR2004 - none reads it
        raise refusals[0]


def _list(path: Path) -> None:
    list_category(path, lambda _problem: None)


def _polygons(path: Path) -> None:
    rule_of(RuleOptions(region=path), [PICTURE.shape[:2]])


def _natural_images(path: Path) -> None:
    images = open_images(path)
    images.fingerprint()
    for number in range(len(images)):
        images.read(number)


def _station(path: Path) -> None:
    read_config(path, {}, {})
