"""The thread that looks after disk and database while the line runs."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Final

from sqlalchemy.exc import DBAPIError

from efficientad.station.config import Retention
from efficientad.station.errors import UnavailableError
from efficientad.station.logs import logger
from efficientad.station.storage import audit, queries, recovery, retention
from efficientad.station.storage.audit_chain import Head
from efficientad.station.storage.engine import Database
from efficientad.station.storage.media import MediaStore
from efficientad.station.storage.queries import Row
from efficientad.station.storage.writer import Writer

_CHECK_SECONDS: Final = 1.0
_ROUND_SECONDS: Final = 60.0


def keep_house(
    database: Database,
    writer: Writer,
    media: MediaStore,
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
        _recover(database, writer, media, report)
    while not is_closing.wait(_CHECK_SECONDS):
        media.check()
        with suppress(DBAPIError), database.connect() as connection:
            last = audit.head(connection)
            if last != told:
                told = last
                logger().info("audit", seq=last.seq, hash=last.hash)
                tell("audit", asdict(last))
        if time.monotonic() >= next_round and writer.is_up:
            next_round = time.monotonic() + _ROUND_SECONDS
            with suppress(UnavailableError):
                now = datetime.now(UTC)
                retention.remove_old(database, writer, media, rules, now)


def _recover(
    database: Database,
    writer: Writer,
    media: MediaStore,
    report: Callable[[str, str], None],
) -> None:
    missing = recovery.unanswered_and_missing(database, media, media.opened_at)
    if missing:
        named = json.dumps(missing[:20])
        report("images_missing", f"{len(missing)} images are missing: {named}")
        writer.run(partial(queries.mark_removed, numbers=missing))
