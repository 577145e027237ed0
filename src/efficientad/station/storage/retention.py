"""Removal of old images and rows. Queued, reviewed and golden ones stay, always."""

from datetime import datetime, timedelta
from itertools import accumulate
from typing import Final

from efficientad.station.config import Retention
from efficientad.station.storage import outbox, queries
from efficientad.station.storage.store import Store

_AT_ONCE: Final = 200
_GIGABYTE: Final = 1e9
_OUTBOX_DAYS: Final = 7


def remove_old(store: Store, retention: Retention, now: datetime) -> None:
    """Remove what retention names."""
    for is_normal, days, gigabytes in (
        (True, retention.normal_days, retention.normal_gb),
        (False, retention.anomalous_days, retention.anomalous_gb),
    ):
        _remove(store, now - timedelta(days=days), is_normal=is_normal)
        stored = store.database.read(queries.stored_bytes, is_normal=is_normal)
        excess = stored - gigabytes * _GIGABYTE
        _remove(store, None, is_normal=is_normal, n_bytes=excess)
    run, old = store.writer.run, now - timedelta(days=retention.row_days)
    while run(queries.remove_rows, old, _AT_ONCE) == _AT_ONCE:
        pass
    run(outbox.forget, now - timedelta(days=_OUTBOX_DAYS))


def _remove(
    store: Store,
    before: datetime | None,
    *,
    is_normal: bool,
    n_bytes: float = float("inf"),
) -> None:
    """Remove images before a time, oldest first, until so many bytes are free.

    The row says so first: a row without file would be an incident.
    """
    while n_bytes > 0:
        found = store.database.read(
            queries.removable, is_normal=is_normal, before=before, limit=_AT_ONCE
        )
        freed = accumulate((row["media_bytes"] for row in found), initial=0)
        found = [row for row, n in zip(found, freed, strict=False) if n < n_bytes]
        if not found:
            break
        store.writer.run(queries.mark_removed, [row["id"] for row in found])
        for row in found:
            store.media.remove(row["media_path"])
            n_bytes -= row["media_bytes"]
