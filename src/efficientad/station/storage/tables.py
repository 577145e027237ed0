"""The tables of a station, as the design names them. Times are UTC."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UTCDateTime(TypeDecorator[datetime]):
    """A time with its zone: SQLite keeps none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Return the time in UTC; one without a zone is refused."""
        del dialect
        if value is None:
            return None
        assert value.tzinfo is not None
        return value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """Return the time in UTC; SQLite gives it without the zone."""
        del dialect
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def _id() -> Column[str]:
    return Column("id", String(36), primary_key=True)


def _time(name: str, *, nullable: bool = True) -> Column[datetime]:
    return Column(name, UTCDateTime, nullable=nullable)


def _inspection(**options: Any) -> Column[str]:
    key = ForeignKey("inspections.id", ondelete="CASCADE")
    return Column("inspection", String(36), key, **options)


models = Table(
    "models",
    METADATA,
    Column("sha256", String(64), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("suffix", String(8), nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("provenance", JSON, nullable=False),
    Column("calibration", JSON, nullable=False),
    _time("added_at", nullable=False),
    Column("added_by", String(200), nullable=False),
)

rules = Table(
    "rules",
    METADATA,
    _id(),
    Column("model", String(64), ForeignKey("models.sha256"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("threshold", Float, nullable=False),
    Column("budget", Float, nullable=False),
    Column("min_area", Integer, nullable=False),
    Column("regions", JSON, nullable=False),
    _time("at", nullable=False),
    Column("by", String(200), nullable=False),
    Column("reason", Text),
    UniqueConstraint("model", "version"),
)

activations = Table(
    "activations",
    METADATA,
    _id(),
    Column("source", String(100), nullable=False),
    Column("model", String(64), ForeignKey("models.sha256"), nullable=False),
    Column("rule", String(36), ForeignKey("rules.id"), nullable=False),
    Column("golden_run", String(36)),
    Column("active", Boolean, nullable=False),
    _time("at", nullable=False),
    Column("by", String(200), nullable=False),
    Column("reason", Text),
)
Index(
    "uq_activations_one_active",
    activations.c.source,
    unique=True,
    sqlite_where=text("active"),
    postgresql_where=text("active"),
)

sources = Table(
    "sources",
    METADATA,
    Column("name", String(100), primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("settings", JSON, nullable=False),
    Column("state", String(20), nullable=False),
)

inspections = Table(
    "inspections",
    METADATA,
    _id(),
    Column("source", String(100), nullable=False),
    Column("source_key", String(255)),
    _time("received_at", nullable=False),
    _time("captured_at"),
    Column("part", String(200), index=True),
    Column("sha256", String(64), nullable=False),
    Column("color", String(3), nullable=False),
    Column("model", String(64), ForeignKey("models.sha256"), nullable=False),
    Column("rule", String(36), ForeignKey("rules.id"), nullable=False),
    *(Column(name, Float) for name in ("image_score", "masked_score", "p_value")),
    Column("decision", String(10), nullable=False, index=True),
    Column("expected", String(10)),
    *(Column(name, Integer) for name in ("height", "width")),
    *(Column(name, Float) for name in ("brightness", "contrast", "sharpness")),
    *(Column(f"{stage}_ms", Float) for stage in ("wait", "decode", "predict", "store")),
    Column("media_state", String(10), nullable=False),
    Column("media_path", String(200)),
    Column("media_bytes", Integer, nullable=False),
    Column("review_state", String(10)),
    Column("replica", String(100), nullable=False),
    Column("error", Text),
    UniqueConstraint("source", "source_key"),
    Index("ix_inspections_source_id", "source", "id"),
    Index("ix_inspections_review", "review_state", "id"),
)

regions = Table(
    "regions",
    METADATA,
    _inspection(primary_key=True),
    Column("n", Integer, primary_key=True),
    *(Column(name, Integer, nullable=False) for name in ("x", "y", "width", "height")),
    Column("area", Integer, nullable=False),
    Column("peak", Float, nullable=False),
    Column("name", String(100)),
)

artifacts = Table(
    "artifacts",
    METADATA,
    _inspection(primary_key=True),
    Column("grids", LargeBinary),
    Column("thumbnail", LargeBinary),
)

reviews = Table(
    "reviews",
    METADATA,
    _id(),
    _inspection(nullable=False, index=True),
    Column("verdict", String(10), nullable=False),
    Column("defect_type", String(100)),
    Column("note", Text),
    Column("by", String(200), nullable=False),
    _time("at", nullable=False),
)

golden = Table(
    "golden",
    METADATA,
    _inspection(primary_key=True),
    Column("verdict", String(10), nullable=False),
    Column("active", Boolean, nullable=False),
    Column("by", String(200), nullable=False),
    Column("note", Text),
)

golden_runs = Table(
    "golden_runs",
    METADATA,
    _id(),
    Column("model", String(64), ForeignKey("models.sha256"), nullable=False),
    Column("rule", String(36), ForeignKey("rules.id"), nullable=False),
    _time("at", nullable=False),
)

golden_results = Table(
    "golden_results",
    METADATA,
    Column("run", String(36), ForeignKey("golden_runs.id"), primary_key=True),
    _inspection(primary_key=True),
    Column("score", Float),
    Column("decision", String(10), nullable=False),
    Column("agrees", Boolean, nullable=False),
)

drift_states = Table(
    "drift_states",
    METADATA,
    Column("source", String(100), primary_key=True),
    Column("model", String(64), primary_key=True),
    Column("statistic", String(20), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("state", JSON, nullable=False),
)

alarms = Table(
    "alarms",
    METADATA,
    _id(),
    Column("kind", String(40), nullable=False),
    Column("source", String(100), nullable=False),
    _time("since"),
    _time("raised_at", nullable=False),
    Column("value", Float),
    Column("acknowledged_by", String(200)),
    Column("note", Text),
)

incidents = Table(
    "incidents",
    METADATA,
    _id(),
    _time("at", nullable=False),
    Column("kind", String(40), nullable=False),
    Column("count", Integer, nullable=False),
    Column("detail", Text),
)

outbox = Table(
    "outbox",
    METADATA,
    _id(),
    _inspection(nullable=False),
    Column("sink", String(100), nullable=False),
    Column("payload", JSON, nullable=False),
    Column("attempts", Integer, nullable=False),
    _time("next_at", nullable=False),
    _time("delivered_at"),
    Column("error", Text),
    Index("ix_outbox_due", "sink", "delivered_at", "next_at"),
)

audit = Table(
    "audit",
    METADATA,
    Column("seq", Integer, primary_key=True),
    _time("at", nullable=False),
    Column("actor", String(200), nullable=False),
    Column("role", String(20), nullable=False),
    Column("action", String(60), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("before", JSON),
    Column("after", JSON),
    Column("reason", Text),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
)


jobs = Table(
    "jobs",
    METADATA,
    _id(),
    Column("kind", String(10), nullable=False),
    Column("subject", String(64), nullable=False),
    Column("by", String(200), nullable=False),
    _time("at", nullable=False),
    Column("state", String(10), nullable=False),
    Column("detail", Text),
    Column("result", JSON),
    Index("ix_jobs_subject", "kind", "subject"),
)

leases = Table(
    "leases",
    METADATA,
    Column("name", String(150), primary_key=True),
    Column("holder", String(100), nullable=False),
    _time("until", nullable=False),
)

tokens = Table(
    "tokens",
    METADATA,
    _id(),
    Column("name", String(200), nullable=False),
    Column("role", String(20), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    _time("revoked_at"),
)

sessions = Table(
    "sessions",
    METADATA,
    Column("hash", String(64), primary_key=True),
    Column("token", String(36), ForeignKey("tokens.id"), nullable=False),
    _time("expires_at", nullable=False),
)
