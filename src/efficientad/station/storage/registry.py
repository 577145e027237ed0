"""Models, rules, activations, tokens and sessions."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, and_, or_, select

from efficientad.station.storage import tables as t
from efficientad.station.storage.queries import Row, first, new_id, rows

ALL_SOURCES: Final = "*"
"""Name in activations for every source that has none of its own."""


def add_model(connection: Connection, model: Mapping[str, Any]) -> None:
    """Write a model, unless it is known."""
    query = select(t.models.c.sha256).where(t.models.c.sha256 == model["sha256"])
    if first(connection, query) is None:
        connection.execute(t.models.insert().values(**model))


def model_of(connection: Connection, sha256: str) -> Row | None:
    """Return a model, if it is known."""
    return first(connection, select(t.models).where(t.models.c.sha256 == sha256))


def list_models(connection: Connection) -> list[Row]:
    """Return all models, newest first."""
    return rows(connection, select(t.models).order_by(t.models.c.added_at.desc()))


def add_rule(connection: Connection, rule: Mapping[str, Any]) -> Row:
    """Write a rule, and return it with its number.

    Raises:
        IntegrityError: If the model has a rule of this version already.
    """
    row = {"id": new_id(), **rule}
    connection.execute(t.rules.insert().values(**row))
    return row


def newest_rule(connection: Connection, model: str) -> Row | None:
    """Return the rule of a model with the highest version."""
    query = select(t.rules).where(t.rules.c.model == model)
    return first(connection, query.order_by(t.rules.c.version.desc()))


def rule_of(connection: Connection, number: str) -> Row | None:
    """Return a rule, if there is one of this number."""
    return first(connection, select(t.rules).where(t.rules.c.id == number))


def list_rules(connection: Connection, model: str | None) -> list[Row]:
    """Return the rules of a model, or all, newest first."""
    query = select(t.rules).order_by(t.rules.c.id.desc())
    return rows(
        connection, query if model is None else query.where(t.rules.c.model == model)
    )


def active_ones(connection: Connection) -> list[Row]:
    """Return the active activation of each source."""
    query = select(t.activations).where(t.activations.c.active)
    return rows(connection, query.order_by(t.activations.c.source))


def list_activations(connection: Connection, limit: int) -> list[Row]:
    """Return the newest activations."""
    query = select(t.activations).order_by(t.activations.c.id.desc()).limit(limit)
    return rows(connection, query)


def activate(connection: Connection, activation: Mapping[str, Any]) -> Row:
    """Write an activation in place of the source's active one, and return it."""
    table = t.activations
    is_before = and_(table.c.source == activation["source"], table.c.active)
    connection.execute(table.update().where(is_before).values(active=False))
    row = {"id": new_id(), "active": True, **activation}
    connection.execute(table.insert().values(**row))
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
    connection: Connection, run: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> str:
    """Write a replay of the golden samples, and return its number."""
    number = new_id()
    connection.execute(t.golden_runs.insert().values(id=number, **run))
    if results:
        entries = [{"run": number, **each} for each in results]
        connection.execute(t.golden_results.insert(), entries)
    return number


def set_sources(connection: Connection, sources: Sequence[Mapping[str, Any]]) -> None:
    """Write the sources of the settings; one that was paused stays so."""
    known = {row["name"]: row for row in rows(connection, select(t.sources))}
    for source in sources:
        name = source["name"]
        if name in known:
            query = t.sources.update().where(t.sources.c.name == name)
            values = {k: v for k, v in source.items() if k != "state"}
            connection.execute(query.values(**values))
        else:
            connection.execute(t.sources.insert().values(**source))


def set_source_state(connection: Connection, name: str, state: str) -> bool:
    """Write whether a source runs, and return whether there is one of this name."""
    query = t.sources.update().where(t.sources.c.name == name).values(state=state)
    return connection.execute(query).rowcount > 0


def source_state(connection: Connection, name: str) -> str | None:
    """Return the state of a source: `running` or `paused`."""
    query = select(t.sources.c.state).where(t.sources.c.name == name)
    found: str | None = connection.execute(query).scalar()
    return found


def list_sources(connection: Connection) -> list[Row]:
    """Return all sources by name."""
    return rows(connection, select(t.sources).order_by(t.sources.c.name))


def set_tokens(
    connection: Connection, tokens: Sequence[Mapping[str, Any]], now: datetime
) -> None:
    """Write the tokens of the settings; all others are revoked."""
    table = t.tokens
    hashes = [token["hash"] for token in tokens]
    gone = and_(table.c.hash.not_in(hashes), table.c.revoked_at.is_(None))
    connection.execute(table.update().where(gone).values(revoked_at=now))
    known = set(connection.execute(select(table.c.hash)).scalars())
    for token in tokens:
        if token["hash"] in known:
            query = table.update().where(table.c.hash == token["hash"])
            connection.execute(query.values(**token, revoked_at=None))
        else:
            connection.execute(table.insert().values(id=new_id(), **token))


def token_of(connection: Connection, digest: str, now: datetime) -> Row | None:
    """Return the valid token of a hash, or of a session's hash."""
    table = t.tokens
    is_valid = and_(
        table.c.revoked_at.is_(None),
        or_(table.c.expires_at.is_(None), table.c.expires_at > now),
    )
    found = first(connection, select(table).where(table.c.hash == digest, is_valid))
    if found is not None:
        return found
    session = t.sessions
    query = select(table).join(session, session.c.token == table.c.id)
    is_session = and_(session.c.hash == digest, session.c.expires_at > now)
    return first(connection, query.where(is_session, is_valid))


def add_session(
    connection: Connection, digest: str, token: str, expires_at: datetime
) -> None:
    """Write a session of a token."""
    values = {"hash": digest, "token": token, "expires_at": expires_at}
    connection.execute(t.sessions.insert().values(**values))


def remove_session(connection: Connection, digest: str, now: datetime) -> None:
    """Remove a session, and those that have expired."""
    table = t.sessions
    is_over = or_(table.c.hash == digest, table.c.expires_at < now)
    connection.execute(table.delete().where(is_over))
