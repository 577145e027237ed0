"""The audit log: who did what, when and why, as a chain of hashes.

Each entry holds the hash of the one before, and its own hash covers all its fields. A
change, a removal or an insertion breaks the chain at that place. A cut at the end does
not: it shows where the number and the hash of the last entry were kept elsewhere.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

START: Final = "0" * 64
"""Previous hash of the first entry."""


@dataclass(frozen=True, slots=True)
class Actor:
    """A person, a token or the station itself."""

    name: str
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something that a person or the station did."""

    seq: int
    """Number of the entry, from 1."""
    at: str
    """UTC, ISO 8601 with microseconds."""
    actor: str
    role: str
    action: str
    subject: str
    """Number or name of what is changed."""
    before: Any
    """JSON-like state before, None if there was none."""
    after: Any
    """JSON-like state after, None if there is none."""
    reason: str
    """Words of a person."""
    previous: str
    """Hash of the entry before."""
    hash: str
    """SHA-256 of the canonical JSON of all other fields, 64 hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Head:
    """Number and hash of the last entry."""

    seq: int = 0
    hash: str = START


def canonical_json(value: Any) -> bytes:
    """Return JSON with sorted keys and without spaces, in UTF-8.

    Raises:
        ValueError: If a number is not finite.
    """
    text = json.dumps(
        value,
        ensure_ascii=False,
        allow_nan=False,
        sort_keys=True,
        separators=(",", ":"),
    )
    return text.encode("utf-8", "backslashreplace")


def next_entry(
    head: Head,
    at: datetime,
    by: Actor,
    action: str,
    subject: str,
    *,
    before: Any = None,
    after: Any = None,
    reason: str | None = None,
) -> Entry:
    """Return the entry that follows on the last one; `at` has a time zone."""
    fields = {
        "seq": head.seq + 1,
        "at": at.astimezone(UTC).isoformat(timespec="microseconds"),
        "actor": by.name,
        "role": by.role,
        "action": action,
        "subject": subject,
        "before": before,
        "after": after,
        "reason": reason or "",
        "previous": head.hash,
    }
    return Entry(**fields, hash=_hash(fields))


def first_fault(entries: Iterable[Entry], head: Head) -> str | None:
    """Return what is wrong with a chain at the first wrong place, None if nothing.

    All entries come in order, and the last one that was kept elsewhere is among them.
    """
    last = Head()
    for entry in entries:
        fields = asdict(entry)
        fields.pop("hash")
        if entry.seq != last.seq + 1:
            return f"entry {last.seq + 1} is missing, entry {entry.seq} follows"
        if entry.previous != last.hash:
            return f"entry {entry.seq} does not follow on the one before"
        if entry.hash != _hash(fields):
            return f"entry {entry.seq} was changed"
        last = Head(entry.seq, entry.hash)
        if head.seq == last.seq and head.hash != last.hash:
            return f"entry {entry.seq} is another one than was kept elsewhere"
    if head.seq > last.seq:
        return f"the entries {last.seq + 1} to {head.seq} are missing at the end"
    return None


def _hash(fields: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(fields)).hexdigest()
