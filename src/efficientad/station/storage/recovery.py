"""Leftovers of a killed station, found after the next start beside its work."""

from datetime import UTC, datetime

from efficientad.station.storage import queries
from efficientad.station.storage.engine import Database
from efficientad.station.storage.media import MediaStore


def unanswered_and_missing(
    database: Database, media: MediaStore, before: datetime
) -> list[str]:
    """Remove files without row, which were never answered, and find rows without file.

    Args:
        database: Database of the station.
        media: Files of the station.
        before: Start of the station; newer files are left alone.

    Returns:
        Numbers of the inspections whose file is missing.
    """
    missing: list[str] = []
    for minute, paths in media.minutes():
        if datetime.strptime(minute, "%Y-%m-%d/%H/%M").replace(tzinfo=UTC) > before:
            continue
        there = {f"{minute}/{path.name}": path for path in paths}
        with database.connect() as connection:
            known = queries.places_of_minute(connection, minute)
        missing += [
            known[place]
            for place in known.keys() - there.keys()
            if not media.path(place).exists()  # it may have come since the listing
        ]
        for place in there.keys() - known.keys():
            if there[place].stat().st_mtime < before.timestamp():
                there[place].unlink(missing_ok=True)
    return missing
