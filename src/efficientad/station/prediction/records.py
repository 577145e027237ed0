"""An image that has come, and the row that it becomes."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from efficientad.images.rgb import ColorOrder
from efficientad.station.config import StationConfig
from efficientad.station.prediction.inspector import Found, Undecided
from efficientad.station.prediction.rules import Rule
from efficientad.station.reviewing.queue import queue_reason
from efficientad.station.storage.queries import Row
from efficientad.station.storage.reviews import QUEUED


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """An image that has come, by columns of its inspection, and its first bytes."""

    id: str
    source: str
    sha256: str
    media_bytes: int
    first_bytes: bytes
    received_at: datetime
    source_key: str | None = None
    """Name that the source gave to this image; the same one gives the same answer."""
    captured_at: datetime | None = None
    part: str | None = None
    expected: str | None = None
    color: ColorOrder = "rgb"
    """Order in which the file has red, green and blue."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A stored inspection."""

    inspection: Row
    is_replay: bool = False
    """Whether it was stored for an earlier request with the same key."""


def record_of(
    arrival: Arrival, outcome: Found | Undecided, rule: Rule, config: StationConfig
) -> tuple[Row, tuple[Row, ...], dict[str, Any]]:
    """Return the columns of an inspection, of its regions, and its artifacts."""
    row: Row = asdict(arrival) | {
        "model": rule.model,
        "rule": rule.id,
        "media_state": "stored",
        "replica": config.replica_name,
    }
    del row["first_bytes"]
    artifacts: dict[str, Any] = {}
    regions: tuple[Row, ...] = ()
    if isinstance(outcome, Found):
        values = asdict(outcome)
        regions = values.pop("regions")
        artifacts = {name: values.pop(name) for name in ("grids", "thumbnail")}
        row |= values
    else:
        row |= {"decision": "undecided", "error": outcome.reason}
    reason = queue_reason(
        row["id"],
        row["decision"],
        row.get("masked_score"),
        rule.threshold,
        config.review_share,
    )
    row["review_state"] = None if reason is None else QUEUED
    return row, regions, artifacts
