"""The threads that look after disk and database while the line runs."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Final

from efficientad.station.audit_chain import Head
from efficientad.station.config import Retention
from efficientad.station.errors import UnavailableError
from efficientad.station.logs import logger
from efficientad.station.storage import audit, jobs, leases, retention
from efficientad.station.storage.queries import Row
from efficientad.station.storage.store import Store

_CHECK_SECONDS: Final = 1.0
_ROUND_SECONDS: Final = 60.0


def keep_house(
    store: Store,
    rules: Retention,
    tell: Callable[[str, Row], None],
    is_closing: threading.Event,
) -> None:
    """Check the disk each second, and retention each minute.

    The end of the audit log is told whenever it has moved: a chain alone does not show
    that its end was cut off.
    """
    next_round = next_renewal = 0.0
    told = Head()
    while not is_closing.wait(_CHECK_SECONDS):
        store.media.check()
        with suppress(UnavailableError):
            last = store.database.read(audit.head)
            if last != told:
                told = last
                logger().info("audit", seq=last.seq, hash=last.hash)
                tell("audit", asdict(last))
        if not store.writer.is_up:
            continue
        with suppress(UnavailableError, OSError):
            if time.monotonic() >= next_renewal:
                next_renewal = time.monotonic() + leases.RENEWAL_SECONDS
                store.writer.run(leases.renew, store.replica)
            if time.monotonic() >= next_round and store.holds("retention"):
                next_round = time.monotonic() + _ROUND_SECONDS
                store.writer.run(jobs.end_interrupted)
                retention.remove_old(store, rules, datetime.now(UTC))


def recover(
    store: Store, report: Callable[[str, str], None], is_closing: threading.Event
) -> None:
    """Remove files without row, which were never answered, and report rows without.

    A killed station leaves them. Files since the start of this one are left alone.
    """
    media, missing = store.media, list[str]()
    with suppress(UnavailableError, OSError):
        for minute, places in media.earlier_minutes():
            if is_closing.is_set():
                return
            known = store.database.read(retention.places_of_minute, minute)
            missing += [
                known[place]
                for place in known.keys() - set(places)
                if media.is_lost(place)  # it may have come since the listing
            ]
            for place in set(places) - known.keys():
                if media.is_left_over(place):
                    media.remove(place)
        if missing:
            named = json.dumps(missing[:20])
            report("images_missing", f"{len(missing)} images are missing: {named}")
            store.writer.run(retention.mark_removed, missing)
