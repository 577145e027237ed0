"""All that a station keeps: its database and its files."""

from typing import NamedTuple

from efficientad.station.storage.engine import Database
from efficientad.station.storage.media import MediaStore
from efficientad.station.storage.writer import Writer


class Store(NamedTuple):
    """Database and files of a station."""

    database: Database
    writer: Writer
    media: MediaStore
