"""Images as they come in: streamed to the disk, hashed and limited on the way."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from efficientad.images.decoding import N_FIRST_BYTES, begins_as_image
from efficientad.station.http.problems import ProblemError
from efficientad.station.prediction.pipeline import Station
from efficientad.station.prediction.records import Arrival
from efficientad.station.storage.queries import new_id

_AT_ONCE: Final = 2**20
_MEGABYTE: Final = 10**6


class Uploads:
    """Writes the bodies of requests to the folder of incoming images."""

    def __init__(self, station: Station) -> None:
        self._station = station
        self._limit = station.config.max_upload_mb * _MEGABYTE
        self._seconds = station.config.upload_seconds
        self._pool = ThreadPoolExecutor(2, "store")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    async def receive(
        self, chunks: AsyncIterator[bytes], *, source: str, **known: Any
    ) -> Arrival:
        """Return an image that has been written completely.

        Args:
            chunks: Body of a request.
            source: Source of the image.
            known: Other fields of the arrival.

        Raises:
            ProblemError: 408 if it takes too long, 413 if it is too large, 415 if its
                first bytes are those of no image, 422 if it is empty.
            UnavailableError: If the disk refuses.
        """
        number, received_at = new_id(), datetime.now(UTC)
        part = self._station.media.incoming(number)
        try:
            async with asyncio.timeout(self._seconds):
                digest, n_bytes, first = await self._write(part, chunks)
        except BaseException as error:
            part.unlink(missing_ok=True)
            if isinstance(error, TimeoutError):
                raise ProblemError(
                    408, f"an image must arrive within {self._seconds:g} seconds"
                ) from error
            if isinstance(error, OSError):
                raise self._station.media.failed(error) from error
            raise
        return Arrival(
            number=number,
            source=source,
            sha256=digest,
            n_bytes=n_bytes,
            first_bytes=first,
            received_at=received_at,
            **known,
        )

    def require_length(self, length: str | None) -> None:
        """Raise `ProblemError` 413 for a body that says that it is too large."""
        if length is not None and length.isdecimal() and int(length) > self._limit:
            raise self._too_large()

    def _too_large(self) -> ProblemError:
        return ProblemError(
            413, f"an image may have {self._limit // _MEGABYTE} MB; reduce it"
        )

    async def _write(
        self, part: Path, chunks: AsyncIterator[bytes]
    ) -> tuple[str, int, bytes]:
        loop = asyncio.get_running_loop()
        digest, n_bytes, first, waiting = hashlib.sha256(), 0, b"", bytearray()
        file: BinaryIO | None = None
        try:
            async for chunk in chunks:
                digest.update(chunk)
                n_bytes += len(chunk)
                if n_bytes > self._limit:
                    raise self._too_large()
                waiting += chunk
                if len(first) < N_FIRST_BYTES:
                    first = bytes(waiting[:N_FIRST_BYTES])
                    if len(first) == N_FIRST_BYTES:
                        _require_image(first)
                if len(waiting) >= _AT_ONCE:
                    data, waiting = waiting, bytearray()
                    file = await loop.run_in_executor(
                        self._pool, _append, part, file, data
                    )
            if not n_bytes:
                raise ProblemError(422, "an image was needed, the body is empty")
            _require_image(first)
            file = await loop.run_in_executor(self._pool, _append, part, file, waiting)
        finally:
            if file is not None:
                file.close()
        return digest.hexdigest(), n_bytes, first


def _append(part: Path, file: BinaryIO | None, data: bytearray) -> BinaryIO:
    opened = part.open("wb", buffering=0) if file is None else file
    view = memoryview(data)
    while view:
        view = view[opened.write(view) :]
    return opened


def _require_image(first_bytes: bytes) -> None:
    if not begins_as_image(first_bytes):
        raise ProblemError(
            415,
            "a PNG, JPEG, BMP, TIFF, WebP or GIF image was needed, the first bytes are "
            "of none",
        )
