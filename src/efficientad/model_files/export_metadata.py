"""Metadata of an exported graph, which can change without a new export.

Threshold, held-out normal scores (the table of p-values), false-alarm budget, version
and precision are one JSON text: in ONNX an entry of `metadata_props`, in OpenVINO's
`.xml` the entry `efficientad` of `rt_info`. Both are read and written here as bytes, so
that no engine and no ONNX package is needed.

The text also holds the SHA-256 of all the rest of the file, for OpenVINO with its
`.bin`, and that of its own other entries: a damaged file is refused, not run.
"""

import hashlib
import html
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from efficientad import __version__
from efficientad.decisions.decision import Calibration
from efficientad.engines.engine import Precision
from efficientad.errors import ConfigError, ModelFileError
from efficientad.images.preparation import AS_IT_IS, Preparation
from efficientad.images.rgb import INPUT_SIZE
from efficientad.method.sizes import ModelSize
from efficientad.model_files.calibration_entry import (
    calibration_entry,
    has_later_entries,
    preparation_entries,
    read_calibration,
    read_preparation,
)
from efficientad.model_files.json_text import from_json, read_provenance, to_json
from efficientad.names import as_text
from efficientad.storage import (
    files_together,
    open_regular,
    storage_errors,
    write_atomically,
)

ONNX_SUFFIX: Final = ".onnx"
OPENVINO_SUFFIX: Final = ".xml"
NATIVE_SUFFIX: Final = ".native"
"""Ending of files for the C interface, which Python does not read."""
FORMAT_VERSION: Final = 3
LATER_FORMAT: Final = 4
"""Format of files whose decision or image needs more than graph and threshold: a region
of interest, a least area, an unsure band, tiles, alignment or levels."""
KEY: Final = "efficientad"
_TEXT_HASH: Final = "text_hash"

# As Protocol Buffers number the fields of an ONNX model and of an entry of metadata.
_METADATA_PROPS, _ENTRY_KEY, _ENTRY_VALUE = 14, 1, 2
_VARINT, _WITH_LENGTH = 0, 2
_N_BYTES: Final = {1: 8, 5: 4}
"""Lengths of the other kinds of fields."""
_MORE, _SEVEN_BITS = 0x80, 0x7F
_VARINT_BITS: Final = 70
"""Ten bytes of seven bits: no number is longer."""

_OPEN, _CLOSE, _RT_INFO_END = f'<{KEY} value="'.encode(), b'" />', b"</rt_info>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """Description of an exported file."""

    size: ModelSize
    """Size of the networks: small or medium."""
    precision: Precision
    calibration: Calibration
    """Scales of the raw maps, which the graph also holds, scores and threshold."""
    provenance: dict[str, Any]
    """How the detector came to be."""
    preparation: Preparation = AS_IT_IS
    """How images are read, aligned and resized; tiles of them go to the graph."""


def read(path: Path) -> Metadata:
    """Return the metadata of an exported file after checking that it is whole.

    Raises:
        ModelFileError: If the file is missing, damaged, foreign or of another version.
    """
    text, rest = _split(path)
    try:
        content = from_json(text or "")
        version = content["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path} is not an export of this package, or a damaged one ({error}); "
            "make one with `efficientad export`"
        ) from error
    if version not in (FORMAT_VERSION, LATER_FORMAT):
        raise ModelFileError(
            f"{path} has export format {version}, this version reads "
            f"{LATER_FORMAT}; export it again"
        )
    # The first files of this format have no hash of the text.
    text_hash = content.pop(_TEXT_HASH, None)
    is_text_whole = text_hash is None or text_hash == _text_hash(content)
    if not is_text_whole or content.get("hash") != _hash(path, rest):
        raise ModelFileError(
            f"{path} or the file of its weights is damaged (its hash is not the "
            "recorded one); copy or export it again"
        )
    try:
        for name, choices in (("size", ModelSize), ("precision", Precision)):
            if content[name] not in get_args(choices):
                raise ConfigError(f"{name} {content[name]!r}")
        return Metadata(
            size=content["size"],
            precision=content["precision"],
            calibration=read_calibration(content["calibration"]),
            provenance=read_provenance(content["provenance"]),
            preparation=read_preparation(content),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path} does not hold a complete calibration (bad entry: {error}); "
            "export it again"
        ) from error


def write(path: Path, metadata: Metadata, *, output: Path | None = None) -> None:
    """Write an exported file with other metadata; the graph stays to the byte.

    The output is the file itself, or another; OpenVINO's `.bin` is then copied as well.

    Raises:
        ModelFileError: If the file is damaged or foreign.
        ConfigError: If the provenance holds something that JSON cannot.
        StorageError: If it cannot be written; the previous file stays.
    """
    output = output or path
    _, rest = _split(path)
    later = preparation_entries(metadata.preparation)
    is_later = later or has_later_entries(metadata.calibration)
    given = {
        # Other programs, which take graph and threshold, would decide otherwise.
        "format": LATER_FORMAT if is_later else FORMAT_VERSION,
        "version": __version__,
        "size": metadata.size,
        "precision": metadata.precision,
        "input_size": INPUT_SIZE,
        "threshold": metadata.calibration.threshold,
        "calibration": calibration_entry(metadata.calibration),
        "provenance": dict(metadata.provenance),
        "hash": _hash(path, rest),
        **later,
    }
    content = as_text(from_json(to_json(given)))
    content[_TEXT_HASH] = _text_hash(content)
    written = _joined(path, to_json(content), rest)
    if os.path.realpath(output) == os.path.realpath(path):
        write_atomically(output, written)
        return
    with files_together(files_of(output)) as folder, storage_errors(output):
        (folder / output.name).write_bytes(written)
        if path.suffix == OPENVINO_SUFFIX:
            weights = _read(_weights_of(path))
            (folder / _weights_of(output).name).write_bytes(weights)


def files_of(path: Path) -> tuple[Path, ...]:
    """Return all files of an exported model, the one that is opened last."""
    return (_weights_of(path), path) if path.suffix == OPENVINO_SUFFIX else (path,)


def _weights_of(path: Path) -> Path:
    return path.with_suffix(".bin")


def _read(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        remedy = "check path and permissions"
        if path.suffix == ".bin":
            remedy = (
                "an OpenVINO export is two files, .xml and .bin, that stay together"
            )
        raise ModelFileError(
            f"cannot read {path} ({error.strerror}); {remedy}"
        ) from error


def _text_hash(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _hash(path: Path, rest: bytes) -> str:
    digest = hashlib.sha256(rest)
    if path.suffix == OPENVINO_SUFFIX:
        digest.update(_read(_weights_of(path)))
    return digest.hexdigest()


def _split(path: Path) -> tuple[str | None, bytes]:
    """Return our text, or None, and the rest of a file."""
    content = _read(path)
    if path.suffix == OPENVINO_SUFFIX:
        before, opened, behind = content.partition(_OPEN)
        text, closed, behind = behind.partition(_CLOSE)
        if not opened or not closed or _RT_INFO_END not in behind:
            return None, content
        return html.unescape(text.decode(errors="replace")), before + behind
    found, rest = None, []
    try:
        for number, whole, value in _fields(memoryview(content)):
            if number != _METADATA_PROPS:
                rest.append(whole)
                continue
            entry = {n: str(v, "utf-8") for n, _, v in _fields(value)}
            if entry.get(_ENTRY_KEY) == KEY:
                found = entry.get(_ENTRY_VALUE)
    except (IndexError, ValueError) as error:
        raise ModelFileError(
            f"{path} is not an ONNX file that can be read; export it again"
        ) from error
    return found, b"".join(rest)


def _joined(path: Path, text: str, rest: bytes) -> bytes:
    if path.suffix == OPENVINO_SUFFIX:
        before, end, behind = rest.rpartition(_RT_INFO_END)
        if not end:
            raise ModelFileError(
                f"{path} is not a model of OpenVINO's; make one with "
                "`efficientad export`"
            )
        ours = _OPEN + html.escape(text).encode() + _CLOSE
        return before + ours + end + behind
    key, value = _field(_ENTRY_KEY, KEY.encode()), _field(_ENTRY_VALUE, text.encode())
    return rest + _field(_METADATA_PROPS, key + value)


def _fields(content: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Yield number, all bytes and value of each field of a Protocol Buffers message."""
    position = 0
    while position < len(content):
        start = position
        tag, value_start = _varint(content, position)
        kind = tag & 7
        if kind == _VARINT:
            _, position = _varint(content, value_start)
        elif kind == _WITH_LENGTH:
            length, value_start = _varint(content, value_start)
            position = value_start + length
        elif kind in _N_BYTES:
            position = value_start + _N_BYTES[kind]
        else:
            raise ValueError(f"field of kind {kind}")
        if position > len(content):
            raise ValueError("truncated field")
        yield tag >> 3, content[start:position], content[value_start:position]


def _varint(content: bytes | memoryview, position: int) -> tuple[int, int]:
    """Return a number and the position behind it."""
    value = 0
    for shift in range(0, _VARINT_BITS, 7):
        byte = content[position]
        position += 1
        value |= (byte & _SEVEN_BITS) << shift
        if not byte & _MORE:
            return value, position
    raise ValueError(f"a number of more than {_VARINT_BITS} bits")


def _field(number: int, value: bytes) -> bytes:
    head, length = bytearray([number << 3 | _WITH_LENGTH]), len(value)
    while length > _SEVEN_BITS:
        head.append(length & _SEVEN_BITS | _MORE)
        length >>= 7
    return bytes([*head, length]) + value
