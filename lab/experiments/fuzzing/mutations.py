"""Random changes of files: of their bytes, and of the values of a JSON text."""

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

_NUMBERS: Final = (0, 1, 7, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**32 - 1)
_TOKENS: Final = (
    *(b'"', b",", b";", b"\t", b"\n", b"\r", b"\0", b"[", b"]", b"{", b"}", b"\\"),
    *(b"null", b"true", b"-1", b"1e999", b"NaN", b"9" * 400, b"\xff\xfe", b"\xef\xbb"),
    *(b"../", b"/dev/zero", b"~", b"good", b"train", b"test", b"\\ud800", b"[" * 2000),
)
_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, 1e-320),
    *(float("nan"), float("inf"), "", "good", "\0", "\ud800", "a" * 10_000, "../x"),
    *([], {}, [[]], [0], [None] * 1000, {"": ""}),
)
_MOST_CHANGES: Final = 6
_PNG_START: Final = b"\x89PNG\r\n\x1a\n"

Rng = np.random.Generator


def changed(content: bytes, others: Sequence[bytes], rng: Rng) -> bytes:
    """Return a file with one to six changes, more of them near its beginning.

    Args:
        content: The sound file.
        others: Files that parts are taken from.
        rng: Source of all draws.
    """
    data = bytearray(content)
    for _ in range(rng.integers(1, _MOST_CHANGES + 1)):
        change = _CHANGES[rng.integers(len(_CHANGES))]
        change(data, _place(len(data), rng), rng)
    if rng.random() < 0.1:  # noqa: PLR2004 - a share
        other = others[int(rng.integers(len(others)))]
        data[_place(len(data), rng) :] = other[_place(len(other), rng) :]
    if data.startswith(_PNG_START) and rng.random() < 0.8:  # noqa: PLR2004 - a share
        return with_checksums(bytes(data))
    return bytes(data)


def changed_value(value: Any, rng: Rng) -> Any:
    """Return a JSON value with another value in one place, or without it."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:  # noqa: PLR2004 - a share
        return _VALUES[rng.integers(len(_VALUES))]
    copy: Any = value.copy()
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = keys[rng.integers(len(keys))]
    if rng.random() < 0.1:  # noqa: PLR2004 - a share
        del copy[key]
    else:
        copy[key] = changed_value(value[key], rng)
    return copy


def with_checksums(png: bytes) -> bytes:
    """Return a PNG whose chunks have the right checksums, so that they are decoded."""
    parts, position = [_PNG_START], len(_PNG_START)
    while position + 12 <= len(png):
        length = int.from_bytes(png[position : position + 4])
        body = png[position + 4 : position + 8 + length]
        end = position + 8 + length
        if end + 4 > len(png):
            break
        parts += [png[position : position + 4], body, zlib.crc32(body).to_bytes(4)]
        position = end + 4
    return b"".join(parts) + png[position:]


def _place(length: int, rng: Rng) -> int:
    """Return a place in a file: in one half of the cases near its beginning."""
    if rng.random() < 0.5:  # noqa: PLR2004 - a share
        return int(length ** rng.random()) - 1 if length else 0
    return int(rng.integers(length + 1))


def _flip(data: bytearray, place: int, rng: Rng) -> None:
    if place < len(data):
        data[place] ^= 1 << int(rng.integers(8))


def _number(data: bytearray, place: int, rng: Rng) -> None:
    value = _NUMBERS[rng.integers(len(_NUMBERS))]
    size = (1, 2, 4)[rng.integers(3)]
    order = ("<", ">")[rng.integers(2)]
    packed = struct.pack(f"{order}I", value)
    data[place : place + size] = packed[:size] if order == "<" else packed[-size:]


def _remove(data: bytearray, place: int, rng: Rng) -> None:
    del data[place : place + _length(rng)]


def _repeat(data: bytearray, place: int, rng: Rng) -> None:
    data[place:place] = data[place : place + _length(rng)]


def _insert(data: bytearray, place: int, rng: Rng) -> None:
    data[place:place] = rng.bytes(_length(rng))


def _clear(data: bytearray, place: int, rng: Rng) -> None:
    end = min(len(data), place + _length(rng))
    data[place:end] = bytes(max(0, end - place))


def _cut(data: bytearray, place: int, _rng: Rng) -> None:
    del data[max(13, place) :]


def _token(data: bytearray, place: int, rng: Rng) -> None:
    data[place:place] = _TOKENS[rng.integers(len(_TOKENS))]


def _length(rng: Rng) -> int:
    return int(2 ** rng.uniform(0, 10))


_CHANGES: Final[tuple[Callable[[bytearray, int, Rng], None], ...]] = (
    *(_flip, _flip, _number, _number, _remove, _repeat, _insert, _clear, _cut),
    _token,
)
