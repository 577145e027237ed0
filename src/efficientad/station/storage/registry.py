"""Models, rules, activations, tokens and sessions.

Each change by somebody is written with its entry in the audit log.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Select, and_, or_, select

from efficientad.station.audit_chain import Actor
from efficientad.station.errors import ConflictError, UnknownError
from efficientad.station.storage import audit
from efficientad.station.storage import tables as t
from efficientad.station.storage.queries import Row, first, new_id, one, put, rows

ALL_SOURCES: Final = "*"
"""Every source that has no activation of its own."""

_RULE: Final = ("version", "threshold", "budget", "min_area", "regions")


def add_model(connection: Connection, model: Row, rule: Row, by: Actor) -> None:
    """Write a model and its first rule, unless they are known."""
    sha256 = model["sha256"]
    if is_known(connection, sha256):
        return
    row = {**model, "added_at": datetime.now(UTC), "added_by": by.name}
    connection.execute(t.models.insert().values(**row))
    after = audit.state(model, "name", "bytes")
    audit.append(connection, by, "add model", sha256, after=after)
    add_rule(connection, sha256, rule, by, "of the model file")


def is_known(connection: Connection, sha256: str) -> bool:
    """Return whether there is a model of a hash."""
    query = select(t.models.c.sha256).where(t.models.c.sha256 == sha256)
    return first(connection, query) is not None


def model_of(connection: Connection, sha256: str) -> Row:
    """Return a model by its hash, or raise `UnknownError`."""
    query = select(t.models).where(t.models.c.sha256 == sha256)
    return one(connection, query, "model of this hash")


def list_models(connection: Connection) -> list[Row]:
    """Return all models, newest first."""
    return rows(connection, select(t.models).order_by(t.models.c.added_at.desc()))


def add_rule(
    connection: Connection, model: str, rule: Row, by: Actor, reason: str | None
) -> Row:
    """Write a rule of a model, and return it with its number.

    Raises:
        ConflictError: If its version does not follow the newest one.
        UnknownError: If there is no model of this hash.
    """
    model_of(connection, model)
    newest = first(connection, _rules_of(model))
    version = 0 if newest is None else newest["version"]
    if rule["version"] <= version:
        raise ConflictError(
            f"a new rule follows the newest one, version {version}, got version "
            f"{rule['version']}; read the rules again"
        )
    row: Row = {"id": new_id(), **rule, "model": model, "by": by.name}
    row |= {"reason": reason, "at": datetime.now(UTC)}
    connection.execute(t.rules.insert().values(**row))
    before, after = newest and audit.state(newest, *_RULE), audit.state(row, *_RULE)
    audit.append(
        connection, by, "add rule", row["id"], before=before, after=after, reason=reason
    )
    return row


def rule_of(connection: Connection, model: str, number: str | None) -> Row:
    """Return a rule of a model by number, or the newest, or raise `UnknownError`."""
    query, name = _rules_of(model), "rule"
    if number is not None:
        query, name = query.where(t.rules.c.id == number), f"rule {number}"
    return one(connection, query, f"{name} of a model {model}")


def _rules_of(model: str) -> Select[Any]:
    query = select(t.rules).where(t.rules.c.model == model)
    return query.order_by(t.rules.c.version.desc())


def active_ones(connection: Connection) -> list[Row]:
    """Return the active activation of each source."""
    query = select(t.activations).where(t.activations.c.active)
    return rows(connection, query.order_by(t.activations.c.source))


def newest_model_by(connection: Connection, source: str, by: Actor) -> str | None:
    """Return the model that somebody activated last for a source, if there is one."""
    a = t.activations.c
    query = select(a.model).where(a.source == source, a.by == by.name)
    found: str | None = connection.execute(query.order_by(a.at.desc())).scalar()
    return found


def activate(
    connection: Connection, activation: Row, by: Actor, reason: str | None
) -> Row:
    """Write an activation in place of the source's active one, and return it."""
    table, source = t.activations, activation["source"]
    is_active = and_(table.c.source == source, table.c.active)
    before = first(connection, select(table).where(is_active))
    connection.execute(table.update().where(is_active).values(active=False))
    row: Row = {"id": new_id(), "active": True, **activation, "by": by.name}
    row |= {"reason": reason, "at": datetime.now(UTC)}
    connection.execute(table.insert().values(**row))
    earlier = before and audit.state(before, "model", "rule")
    after = audit.state(row, "model", "rule")
    audit.append(
        connection, by, "activate", source, before=earlier, after=after, reason=reason
    )
    return row


def golden_samples(connection: Connection) -> list[Row]:
    """Return the active golden samples whose image is still there."""
    i = t.inspections.c
    query = (
        select(t.golden.c.inspection, t.golden.c.verdict, i.media_path, i.color)
        .join(t.inspections, t.inspections.c.id == t.golden.c.inspection)
        .where(t.golden.c.active, t.inspections.c.media_path.is_not(None))
    )
    return rows(connection, query)


def add_golden_run(
    connection: Connection, model: str, rule: str, results: Sequence[Row]
) -> str:
    """Write a replay of the golden samples, and return its number."""
    number = new_id()
    run = {"id": number, "model": model, "rule": rule, "at": datetime.now(UTC)}
    connection.execute(t.golden_runs.insert().values(**run))
    entries = [{"run": number, **each} for each in results]
    connection.execute(t.golden_results.insert(), entries)
    return number


def set_sources(connection: Connection, sources: Sequence[Row]) -> None:
    """Write the sources of the settings; one that was paused stays so."""
    for source in sources:
        key = {"name": source["name"]}
        put(connection, t.sources, key, source, {"state": "running"})


def set_source_state(
    connection: Connection, name: str, state: str, by: Actor
) -> list[Row]:
    """Write whether a source is running or paused, and return all sources.

    Raises:
        UnknownError: If there is none of this name.
    """
    query = t.sources.update().where(t.sources.c.name == name).values(state=state)
    if not connection.execute(query).rowcount:
        raise UnknownError("there is no source of this name")
    audit.append(connection, by, state, name, after=state)
    return list_sources(connection)


def is_running(connection: Connection, name: str) -> bool:
    """Return whether a source is running, not paused."""
    query = select(t.sources.c.state).where(t.sources.c.name == name)
    return connection.execute(query).scalar() == "running"


def list_sources(connection: Connection) -> list[Row]:
    """Return all sources by name."""
    return rows(connection, select(t.sources).order_by(t.sources.c.name))


def set_tokens(connection: Connection, tokens: Sequence[Row]) -> None:
    """Write the tokens of the settings; all others are revoked."""
    table = t.tokens
    hashes = [token["hash"] for token in tokens]
    gone = and_(table.c.hash.not_in(hashes), table.c.revoked_at.is_(None))
    revoked = table.update().where(gone).values(revoked_at=datetime.now(UTC))
    connection.execute(revoked)
    for token in tokens:
        key = {"hash": token["hash"]}
        put(connection, table, key, {**token, "revoked_at": None}, {"id": new_id()})


def token_of(connection: Connection, digest: str) -> Row | None:
    """Return the valid token of a hash, or of a session's hash."""
    table = t.tokens
    is_valid = table.c.revoked_at.is_(None)
    found = first(connection, select(table).where(table.c.hash == digest, is_valid))
    if found is not None:
        return found
    session = t.sessions
    query = select(table).join(session, session.c.token == table.c.id)
    now = datetime.now(UTC)
    is_session = and_(session.c.hash == digest, session.c.expires_at > now)
    return first(connection, query.where(is_session, is_valid))


def add_session(
    connection: Connection, digest: str, token: str, expires_at: datetime
) -> None:
    """Write a session of a token."""
    values = {"hash": digest, "token": token, "expires_at": expires_at}
    connection.execute(t.sessions.insert().values(**values))


def remove_session(connection: Connection, digest: str) -> None:
    """Remove a session, and those that have expired."""
    table = t.sessions
    is_over = or_(table.c.hash == digest, table.c.expires_at < datetime.now(UTC))
    connection.execute(table.delete().where(is_over))
