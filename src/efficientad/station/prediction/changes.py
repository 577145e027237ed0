"""Changes of models, rules and activations, each written with its entry in the log."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from efficientad.station.errors import ConflictError
from efficientad.station.prediction.rules import Rule
from efficientad.station.storage import audit, registry
from efficientad.station.storage.audit_chain import Action
from efficientad.station.storage.engine import Database
from efficientad.station.storage.queries import Row
from efficientad.station.storage.writer import Writer

_RULE: Final = ("version", "threshold", "budget", "min_area", "regions")


@dataclass(frozen=True, slots=True)
class By:
    """Who changes something."""

    name: str = "settings"
    role: str = "station"
    reason: str | None = None

    def action(self, name: str, subject: str, before: Any, after: Any) -> Action:
        """Return the entry of a change in the audit log."""
        return Action(
            actor=self.name,
            role=self.role,
            action=name,
            subject=subject,
            before=before,
            after=after,
            reason=self.reason or "",
        )


def write_model(writer: Writer, model: Row, by: By) -> None:
    """Write a model, unless it is known."""
    after = audit.state(model, "name", "bytes")
    action = by.action("add model", model["sha256"], None, after)
    write = partial(registry.add_model, model={**model, "added_by": by.name})
    writer.run(audit.recorded(write, lambda _: action))


def write_rule(
    database: Database, writer: Writer, model: str, values: Mapping[str, Any], by: By
) -> Row:
    """Write a rule of a model, and return it.

    Raises:
        ConflictError: If its version does not follow the newest one.
    """
    row = {**values, "model": model, "by": by.name, "reason": by.reason}
    row["at"] = datetime.now(UTC)
    with database.connect() as connection:
        newest = registry.newest_rule(connection, model)
    version = 0 if newest is None else newest["version"]
    if row["version"] <= version:
        raise ConflictError(
            f"a new rule follows the newest one, version {version}, got version "
            f"{row['version']}; read the rules again"
        )
    before = newest and audit.state(newest, *_RULE)

    def action(new: Row) -> Action:
        return by.action("add rule", new["id"], before, audit.state(new, *_RULE))

    write = partial(registry.add_rule, rule=row)
    return writer.run(audit.recorded(write, action))


def write_activation(
    writer: Writer, activation: Row, before: Rule | None, by: By
) -> Row:
    """Write an activation in place of the active one, and return it."""
    row = {**activation, "by": by.name, "reason": by.reason, "at": datetime.now(UTC)}
    earlier = before and {"model": before.model, "rule": before.id}

    def action(new: Row) -> Action:
        after = audit.state(new, "model", "rule")
        return by.action("activate", new["source"], earlier, after)

    write = partial(registry.activate, activation=row)
    return writer.run(audit.recorded(write, action))
