"""Alembic runs this in the transaction of the caller."""

from typing import Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext

from efficientad.station.storage.tables import METADATA
from efficientad.station.storage.times import UTCDateTime


def _rendered(
    _kind: str, value: object, _context: AutogenContext
) -> str | Literal[False]:
    """Return the plain type of a time: a migration does not change with our code."""
    is_time = isinstance(value, UTCDateTime)
    return "sa.DateTime(timezone=True)" if is_time else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_item=_rendered,
    render_as_batch=True,
)
context.run_migrations()
