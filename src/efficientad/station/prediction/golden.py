"""Golden samples: parts that people have decided, inspected again before a change."""

from contextlib import ExitStack

from efficientad.station.errors import ConflictError
from efficientad.station.prediction.inspector import Found, Job, Outcome
from efficientad.station.prediction.rules import Rule
from efficientad.station.prediction.supervisor import Inspector
from efficientad.station.storage import registry
from efficientad.station.storage.queries import Row
from efficientad.station.storage.store import Store


def replay(
    inspector: Inspector, rule: Rule, store: Store, max_pixels: int
) -> str | None:
    """Inspect the golden samples again, and return the number of the replay.

    Raises:
        ConflictError: If some have another decision than people gave them.
    """
    samples = store.database.read(registry.golden_samples)
    if not samples:
        return None
    futures = []
    with ExitStack() as files:
        for sample in samples:
            paths = (files.enter_context(store.media.file(sample["media_path"])),)
            job = Job(sample["inspection"], paths, rule, max_pixels, sample["color"])
            futures.append(inspector.submit(job, "background"))
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
    return store.writer.run(registry.add_golden_run, rule.model, rule.id, results)


def _agreement(sample: Row, outcome: Outcome) -> Row:
    decision = outcome.decision if isinstance(outcome, Found) else "undecided"
    expected = "normal" if sample["verdict"] == "normal" else "anomalous"
    return {
        "inspection": sample["inspection"],
        "score": outcome.masked_score if isinstance(outcome, Found) else None,
        "decision": decision,
        "agrees": decision == expected,
    }
