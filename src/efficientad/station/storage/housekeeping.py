"""The thread that looks after disk and database while the line runs."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Final

from efficientad.station.config import Retention
from efficientad.station.errors import UnavailableError
from efficientad.station.storage import queries, recovery, retention
from efficientad.station.storage.engine import Database
from efficientad.station.storage.media import MediaStore
from efficientad.station.storage.writer import Writer

_CHECK_SECONDS: Final = 1.0
_ROUND_SECONDS: Final = 60.0


def keep_house(
    database: Database,
    writer: Writer,
    media: MediaStore,
    rules: Retention,
    report: Callable[[str, str], None],
    is_closing: threading.Event,
) -> None:
    """Recover once, then check the disk each second and retention each minute."""
    next_round = 0.0
    with suppress(UnavailableError):
        _recover(database, writer, media, report)
    while not is_closing.wait(_CHECK_SECONDS):
        media.check()
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
