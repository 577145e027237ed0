"""Everything that reads files from outside, each with sound files to change."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import tifffile
from PIL import Image
from safetensors.numpy import save
from tests.dataset_files import LIST, write_list
from tests.hostile.files import write_shared_files

import efficientad
from efficientad.datasets.annotations import read_saturation_areas
from efficientad.datasets.lists import list_category
from efficientad.errors import EfficientADError
from efficientad.images.rgb import read_image, read_labels, read_mask
from efficientad.inspection.card import card
from efficientad.inspection.rule_files import rule_of
from efficientad.inspection.rule_options import RuleOptions
from efficientad.model_files import container, export_metadata
from efficientad.model_files.teachers import open_teacher, save_teacher
from efficientad.natural_images.pictures import open_images
from efficientad.station.config import read_config
from lab.experiments.fuzzing.mutations import Rng, changed, changed_value

_PICTURE: Final = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
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
_METRICS: Final = {
    "category": "part",
    "n_defect": 3,
    "n_defects_found": 2,
    "n_normal": 3,
    "n_normal_flagged": 0,
    "image_au_roc": 0.9,
}
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


class Reader(NamedTuple):
    """A reader, and the function that makes a damaged file for it."""

    file_name: str
    make: Callable[[Rng], bytes]
    read: Callable[[Path], object]
    """Function that gives something right, or raises an error of ours."""


def readers() -> dict[str, Reader]:
    """Return all readers by name; their sound files are written to this folder."""
    write_shared_files(Path.cwd())
    write_list(Path("list.csv"))
    save_teacher(
        efficientad.load("part.ead", engine="pytorch").detector.teacher,
        {},
        Path("teacher"),
    )
    made = {
        "images": Reader("a.png", _bytes_of(list(pictures())), _read_pixels),
        "TIFF images": Reader("a.tif", _bytes_of(list(tiffs())), _read_pixels),
        "detectors": Reader("a.ead", _bytes_of([_read("part.ead")]), _predict),
        "detectors, hashed": Reader("a.ead", _hashed_detector(), _predict),
        "teachers": Reader("a", _bytes_of([_read("teacher")]), _open_teacher),
        "checkpoints": Reader(
            "a", _bytes_of([_read("run.ead.checkpoint")]), _open_checkpoint
        ),
        "ONNX exports": Reader("a.onnx", _bytes_of([_read("part.onnx")]), _predict),
        "ONNX exports, hashed": Reader("a.onnx", _hashed_export(), _predict),
        "OpenVINO exports": Reader("a.xml", _bytes_of([_read("part.xml")]), _predict),
        "CSV lists": Reader("a.csv", _bytes_of([_read("list.csv")]), _list),
        "JSON lists": Reader("a.json", _json_of(LIST), _list),
        "saturation areas": Reader("a.json", _json_of(_AREAS), read_saturation_areas),
        "polygons": Reader("a.json", _json_of(_POLYGONS), _polygons),
        "metrics": Reader("a.json", _json_of(_METRICS), _card),
        "tars": Reader("a.tar", _bytes_of([_tar()]), _natural_images),
        "station settings": Reader("a.toml", _bytes_of([_STATION]), _station),
    }
    shutil.copy("part.bin", "a.bin")
    return made


def pictures() -> Iterator[bytes]:
    """Yield small pictures in the formats and forms that Pillow writes."""
    rgb = Image.fromarray(_PICTURE)
    deep = Image.fromarray(_PICTURE[..., 0].astype(np.uint16) * 257)
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
    rgb = Image.fromarray(_PICTURE)
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield _encoded(rgb, "TIFF", compression=compression)
    for compression in ("group3", "group4"):
        yield _encoded(rgb.convert("1"), "TIFF", compression=compression)
    types = (np.uint8, np.uint16, np.int16, np.uint32, np.float32, np.float64)
    for dtype, order, tile in product(types, "<>", (None, (16, 16))):
        values = (_PICTURE / 255 if np.dtype(dtype).kind == "f" else _PICTURE) * dtype(
            1
        )
        yield _tiff(values[..., 0].astype(dtype), "minisblack", order, tile=tile)
        planes = np.ascontiguousarray(values.astype(dtype).transpose(2, 0, 1))
        yield _tiff(planes, "rgb", order, tile=tile, planarconfig="separate")
    yield _tiff(_PICTURE[..., 0], "miniswhite", "<", bigtiff=True)


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


def _read(name: str) -> bytes:
    return Path(name).read_bytes()


def _bytes_of(sound: Sequence[bytes]) -> Callable[[Rng], bytes]:
    def make(rng: Rng) -> bytes:
        return changed(sound[rng.integers(len(sound))], sound, rng)

    return make


def _json_of(value: Any) -> Callable[[Rng], bytes]:
    sound = json.dumps(value).encode()

    def make(rng: Rng) -> bytes:
        if rng.random() < 0.5:  # noqa: PLR2004 - a share
            return changed(sound, [sound], rng)
        return json.dumps(changed_value(value, rng)).encode()

    return make


def _hashed_detector() -> Callable[[Rng], bytes]:
    """Return a maker of detectors with wrong content under the right checksum."""
    arrays, content = container.read(Path("part.ead"), "detector")

    def make(rng: Rng) -> bytes:
        metadata = {
            "efficientad": "detector",
            "efficientad_version": "12"[rng.integers(2)],
            "content": json.dumps(changed_value(content, rng)),
        }
        metadata["sha256"] = container._hash(metadata["content"], arrays)  # noqa: SLF001
        return save(dict(arrays), metadata)

    return make


def _hashed_export() -> Callable[[Rng], bytes]:
    """Return a maker of exports with wrong metadata under the right checksum."""
    path = Path("part.onnx")
    text, rest = export_metadata._split(path)  # noqa: SLF001 - as the writer does
    content = json.loads(text or "")
    del content["text_hash"]

    def make(rng: Rng) -> bytes:
        given = changed_value(content, rng)
        if isinstance(given, dict):
            given["text_hash"] = export_metadata._text_hash(given)  # noqa: SLF001
        return export_metadata._joined(path, json.dumps(given), rest)  # noqa: SLF001

    return make


def _read_pixels(path: Path) -> None:
    for read, dtype in ((read_image, "u1"), (read_mask, "?"), (read_labels, "i4")):
        try:
            pixels = read(path)
        except EfficientADError:
            continue
        assert pixels.dtype == np.dtype(dtype), pixels.dtype
        assert pixels.ndim == (3 if read is read_image else 2), pixels.shape


def _predict(path: Path) -> None:
    predictor = efficientad.load(path, device="cpu")
    prediction = predictor.predict(_PICTURE)
    assert np.isfinite(prediction.image_score)
    assert 0 <= prediction.p_value <= 1
    card(path)


def _open_teacher(path: Path) -> None:
    open_teacher("small", path)


def _open_checkpoint(path: Path) -> None:
    container.read(path, "checkpoint")


def _list(path: Path) -> None:
    list_category(path, len)


def _polygons(path: Path) -> None:
    rule_of(RuleOptions(region=path), [_PICTURE.shape[:2]])


def _card(path: Path) -> None:
    card("part.ead", metrics=path)


def _natural_images(path: Path) -> None:
    images = open_images(path)
    images.fingerprint()
    for number in range(len(images)):
        images.read(number)


def _station(path: Path) -> None:
    read_config(path, {}, {})
