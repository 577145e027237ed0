"""Leases: which replica does what only one may do, such as telling a sink.

A lease lasts a minute after it was taken or renewed. The clock is the database's.
"""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, Select, func, select, type_coerce

from efficientad.station.storage import tables as t
from efficientad.station.storage.queries import put

RENEWAL_SECONDS: Final = 20.0
_DURATION: Final = timedelta(seconds=60)


def holder_of(connection: Connection, name: str) -> str | None:
    """Return the replica that has a lease now, if there is one."""
    lease = t.leases.c
    is_it = (lease.name == name, lease.until > _now(connection))
    found: str | None = connection.execute(select(lease.holder).where(*is_it)).scalar()
    return found


def take(connection: Connection, name: str, replica: str) -> bool:
    """Acquire or renew a lease, and return whether the replica has it."""
    if holder_of(connection, name) not in {None, replica}:
        return False
    until = _now(connection) + _DURATION
    put(connection, t.leases, {"name": name}, {"holder": replica, "until": until}, {})
    return True


def renew(connection: Connection, replica: str) -> None:
    """Renew all leases that a replica has, also late if nobody has taken them."""
    query = t.leases.update().where(t.leases.c.holder == replica)
    connection.execute(query.values(until=_now(connection) + _DURATION))


def release(connection: Connection, /, **equal: str) -> None:
    """End the lease of this name, or all those of this holder."""
    is_it = (t.leases.c[name] == value for name, value in equal.items())
    connection.execute(t.leases.delete().where(*is_it))


def held(connection: Connection) -> Select[tuple[str]]:
    """Return the query of the names of all leases that somebody has now."""
    return select(t.leases.c.name).where(t.leases.c.until > _now(connection))


def _now(connection: Connection) -> datetime:
    now = type_coerce(func.now(), t.UTCDateTime)
    return connection.execute(select(now)).scalar_one()
