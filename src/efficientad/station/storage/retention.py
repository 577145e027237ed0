"""Removal of old images and rows. Queued, reviewed and golden ones stay, always."""

from datetime import datetime, timedelta
from functools import partial
from typing import Final

from efficientad.station.config import Retention
from efficientad.station.storage import outbox, queries
from efficientad.station.storage.engine import Database
from efficientad.station.storage.media import MediaStore
from efficientad.station.storage.writer import Writer

_AT_ONCE: Final = 200
_GIGABYTE: Final = 1e9
_OUTBOX_DAYS: Final = 7


def remove_old(
    database: Database,
    writer: Writer,
    media: MediaStore,
    retention: Retention,
    now: datetime,
) -> int:
    """Remove what retention names, and return the number of images."""
    n_images = 0
    for is_normal, days, gigabytes in (
        (True, retention.normal_days, retention.normal_gb),
        (False, retention.anomalous_days, retention.anomalous_gb),
    ):
        old = now - timedelta(days=days)
        n_images += _remove(database, writer, media, is_normal, old, None)
        with database.connect() as connection:
            stored = queries.stored_bytes(connection, is_normal=is_normal)
        if (excess := stored - gigabytes * _GIGABYTE) > 0:
            n_images += _remove(database, writer, media, is_normal, None, excess)
    old = now - timedelta(days=retention.row_days)
    while writer.run(lambda c: queries.remove_rows(c, old, _AT_ONCE)) == _AT_ONCE:
        pass
    writer.run(partial(outbox.forget, before=now - timedelta(days=_OUTBOX_DAYS)))
    return n_images


def _remove(
    database: Database,
    writer: Writer,
    media: MediaStore,
    is_normal: bool,  # noqa: FBT001
    before: datetime | None,
    n_bytes: float | None,
) -> int:
    """Remove images before a time, or the oldest ones up to a number of bytes.

    The row says so first: a row without file would be an incident.
    """
    n_images = 0
    while n_bytes is None or n_bytes > 0:
        with database.connect() as connection:
            found = queries.removable(
                connection, is_normal=is_normal, before=before, limit=_AT_ONCE
            )
        if n_bytes is not None:
            found = found[: _needed([row["media_bytes"] for row in found], n_bytes)]
            n_bytes -= sum(row["media_bytes"] for row in found)
        if not found:
            break
        writer.run(partial(queries.mark_removed, numbers=[row["id"] for row in found]))
        for row in found:
            media.remove(row["media_path"])
        n_images += len(found)
    return n_images


def _needed(sizes: list[int], n_bytes: float) -> int:
    """Return how many files, from the first, have at least so many bytes."""
    for number, size in enumerate(sizes, 1):
        n_bytes -= size
        if n_bytes <= 0:
            return number
    return len(sizes)
