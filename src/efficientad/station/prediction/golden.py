"""Golden samples: parts that people have decided, inspected again before a change."""

from datetime import UTC, datetime
from functools import partial

from efficientad.station.errors import ConflictError
from efficientad.station.prediction.inspector import Found, Job, Outcome
from efficientad.station.prediction.rules import Rule
from efficientad.station.prediction.supervisor import Inspector
from efficientad.station.storage import registry
from efficientad.station.storage.engine import Database
from efficientad.station.storage.media import MediaStore
from efficientad.station.storage.queries import Row
from efficientad.station.storage.writer import Writer


def replay(
    inspector: Inspector,
    rule: Rule,
    *,
    database: Database,
    writer: Writer,
    media: MediaStore,
    max_pixels: int,
) -> str | None:
    """Inspect the golden samples again, and return the number of the replay.

    Raises:
        ConflictError: If some have another decision than people gave them.
    """
    with database.connect() as connection:
        samples = registry.golden_samples(connection)
    if not samples:
        return None
    paths = [media.path(sample["media_path"]) for sample in samples]
    jobs = [
        Job(sample["inspection"], (path,), rule, max_pixels, sample["color"])
        for sample, path in zip(samples, paths, strict=True)
    ]
    futures = [inspector.submit(job, "background") for job in jobs]
    results = [
        _agreement(sample, future.result())
        for sample, future in zip(samples, futures, strict=True)
    ]
    others = [each["inspection"] for each in results if not each["agrees"]]
    if others:
        raise ConflictError(
            f"golden samples must be decided as people did, {len(others)} of "
            f"{len(results)} are not: {', '.join(others[:5])}; change the rule, or "
            "take them off the list"
        )
    run: Row = {"model": rule.model, "rule": rule.id, "at": datetime.now(UTC)}
    return writer.run(partial(registry.add_golden_run, run=run, results=results))


def _agreement(sample: Row, outcome: Outcome) -> Row:
    decision = outcome.decision if isinstance(outcome, Found) else "undecided"
    expected = "normal" if sample["verdict"] == "normal" else "anomalous"
    return {
        "inspection": sample["inspection"],
        "score": outcome.masked_score if isinstance(outcome, Found) else None,
        "decision": decision,
        "agrees": decision == expected,
    }
