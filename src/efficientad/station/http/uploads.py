"""Images as they come in: streamed to the disk, hashed and limited on the way."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from efficientad.images.decoding import N_FIRST_BYTES, begins_as_image
from efficientad.station.prediction.pipeline import Station
from efficientad.station.prediction.records import Arrival
from efficientad.station.storage.queries import new_id

_AT_ONCE: Final = 2**20
_MEGABYTE: Final = 10**6


async def receive(
    station: Station,
    chunks: AsyncIterator[bytes],
    length: str | None = None,
    **known: Any,
) -> Arrival:
    """Return an image that has been written completely.

    `length` is the number of bytes that the request says to have, and `known` are
    fields of the arrival, such as the source.

    Raises:
        HTTPException: 408 if it takes too long, 413 if it is too large, 415 if its
            first bytes are those of no image, 422 if it is empty.
        UnavailableError: If the disk refuses.
    """
    max_bytes = station.config.max_upload_mb * _MEGABYTE
    if length is not None and length.isdecimal():
        _require_size(int(length), max_bytes)
    number, received_at = new_id(), datetime.now(UTC)
    part, seconds = station.media.incoming(number), station.config.upload_seconds
    try:
        async with asyncio.timeout(seconds):
            digest, n_bytes, first_bytes = await _written(part, chunks, max_bytes)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, TimeoutError):
            raise HTTPException(
                408, f"an image must arrive within {seconds:g} seconds"
            ) from error
        if isinstance(error, OSError):
            raise station.media.failed(error) from error
        raise
    return Arrival(
        id=number,
        sha256=digest,
        media_bytes=n_bytes,
        first_bytes=first_bytes,
        received_at=received_at,
        **known,
    )


async def _written(
    part: Path, chunks: AsyncIterator[bytes], max_bytes: int
) -> tuple[str, int, bytes]:
    """Write an image, and return its SHA-256, its size and its first bytes.

    The file is opened here: a thread that writes too late finds it closed, and makes no
    new one.
    """
    digest, n_bytes, first_bytes, waiting = hashlib.sha256(), 0, b"", bytearray()
    with part.open("wb") as file:
        async for chunk in chunks:
            digest.update(chunk)
            n_bytes += len(chunk)
            _require_size(n_bytes, max_bytes)
            waiting += chunk
            if not first_bytes and n_bytes >= N_FIRST_BYTES:
                first_bytes = bytes(waiting[:N_FIRST_BYTES])
                _require_image(first_bytes)
            if len(waiting) >= _AT_ONCE:
                await run_in_threadpool(file.write, waiting)
                waiting = bytearray()
        if not n_bytes:
            raise HTTPException(422, "an image was needed, the body is empty")
        first_bytes = first_bytes or bytes(waiting)
        _require_image(first_bytes)
        await run_in_threadpool(file.write, waiting)
    return digest.hexdigest(), n_bytes, first_bytes


def _require_size(n_bytes: int, max_bytes: int) -> None:
    if n_bytes > max_bytes:
        raise HTTPException(
            413, f"an image may have {max_bytes // _MEGABYTE} MB; reduce it"
        )


def _require_image(first_bytes: bytes) -> None:
    if not begins_as_image(first_bytes):
        raise HTTPException(
            415,
            "a PNG, JPEG, BMP, TIFF, WebP or GIF image was needed, the first bytes are "
            "of none",
        )
