"""The thread that looks after disk and database while the line runs."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Final

from sqlalchemy.exc import DBAPIError

from efficientad.station.config import Retention
from efficientad.station.errors import UnavailableError
from efficientad.station.logs import logger
from efficientad.station.storage import audit, queries, retention
from efficientad.station.storage.audit_chain import Head
from efficientad.station.storage.queries import Row
from efficientad.station.storage.store import Store

_CHECK_SECONDS: Final = 1.0
_ROUND_SECONDS: Final = 60.0


def keep_house(
    store: Store,
    rules: Retention,
    report: Callable[[str, str], None],
    tell: Callable[[str, Row], None],
    is_closing: threading.Event,
) -> None:
    """Recover once, then check the disk each second and retention each minute.

    The end of the audit log is told whenever it has moved: a chain alone does not show
    that its end was cut off.
    """
    next_round = 0.0
    told = Head()
    with suppress(UnavailableError):
        _recover(store, report)
    while not is_closing.wait(_CHECK_SECONDS):
        store.media.check()
        with suppress(DBAPIError):
            last = store.database.read(audit.head)
            if last != told:
                told = last
                logger().info("audit", seq=last.seq, hash=last.hash)
                tell("audit", asdict(last))
        if time.monotonic() >= next_round and store.writer.is_up:
            next_round = time.monotonic() + _ROUND_SECONDS
            with suppress(UnavailableError):
                retention.remove_old(store, rules, datetime.now(UTC))


def _recover(store: Store, report: Callable[[str, str], None]) -> None:
    """Remove files without row, which were never answered, and report rows without.

    A killed station leaves them. Files since the start of this one are left alone.
    """
    media, missing = store.media, list[str]()
    for minute, paths in media.minutes():
        begun = datetime.strptime(minute, "%Y-%m-%d/%H/%M").replace(tzinfo=UTC)
        if begun > media.opened_at:
            continue
        there = {f"{minute}/{path.name}": path for path in paths}
        known = store.database.read(queries.places_of_minute, minute)
        missing += [
            known[place]
            for place in known.keys() - there.keys()
            if not media.path(place).exists()  # it may have come since the listing
        ]
        for place in there.keys() - known.keys():
            if there[place].stat().st_mtime < media.opened_at.timestamp():
                there[place].unlink(missing_ok=True)
    if missing:
        named = json.dumps(missing[:20])
        report("images_missing", f"{len(missing)} images are missing: {named}")
        store.writer.run(queries.mark_removed, missing)
