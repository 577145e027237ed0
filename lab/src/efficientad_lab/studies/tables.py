"""The paper's tables with recorded runs beside its own numbers, percent. No torch."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, cast

from efficientad.method.sizes import ModelSize
from efficientad_lab.studies import paper
from efficientad_lab.studies.records import (
    FAILURE,
    Run,
    is_finished,
    mean_and_deviation,
    where_recorded,
)
from efficientad_lab.studies.summary import (
    Group,
    Metric,
    collection_of,
    detection,
    groups,
    latency,
    of_kind,
    overall,
    plain,
    segmentation,
    training_minutes,
    variants,
)
from efficientad_lab.studies.table_files import Table

_ABSENT: Final = "\N{EN DASH}"
_PERCENT: Final = 100.0
_LIMITS: Final = (
    "AU-PRO is up to a false positive rate of 0.3. For MVTec LOCO it is AU-sPRO, up to "
    "the same rate."
)

_SCENARIO_COLUMNS: Final = (
    ("image AU-ROC", detection, _PERCENT),
    ("image AP", plain("image_average_precision"), _PERCENT),
    ("pixel AU-ROC", plain("pixel_au_roc"), _PERCENT),
    ("AU-PRO", segmentation, _PERCENT),
    ("training, min", training_minutes, 1.0),
)
_KIND_NAMES: Final = {
    paper.LOGICAL: "logical",
    paper.STRUCTURAL: "structural",
}


class AblationRow(NamedTuple):
    """A row of one of the paper's ablations."""

    words: str
    variant: str
    paper: float
    """Image AU-ROC in percent, mean of the three collections."""


def reproduction_tables(runs: Sequence[Run]) -> list[Table]:
    """Return all tables of a reproduction."""
    tables = [_overall_table(runs), _collection_table(runs), _scenario_table(runs)]
    return [*tables, *failures_table(runs)]


def ablation_table(
    title: str, note: str, rows: Sequence[AblationRow], runs: Sequence[Run]
) -> Table:
    """Return the table of an ablation with our means beside the paper's."""
    lines = []
    for row in rows:
        chosen = groups(runs, row.variant)
        cells = [_overall(chosen, metric) for metric in (detection, segmentation)]
        n_seeds = str(len(overall(chosen, detection)))
        scenarios = ", ".join(name for group in chosen for name in group.scenarios)
        lines.append((row.words, scenarios, *cells, f"{row.paper:.1f}", n_seeds))
    head = ("", "scenarios", "image AU-ROC", "AU-PRO", "image AU-ROC, paper", "seeds")
    return Table(title, f"{note} {_where(runs)}".strip(), head, tuple(lines), 2)


def failures_table(runs: Iterable[Run]) -> list[Table]:
    """Return one table of the runs that failed, or no table."""
    rows = tuple(
        (run["category"], run["variant"], str(run["seed"]), str(run[FAILURE]))
        for run in runs
        if not is_finished(run)
    )
    head = ("scenario", "variant", "seed", "reason")
    note = (
        "The next call tries them again. Until then their collection has no mean; "
        "remove the file of a run that is no longer wanted."
    )
    return [Table("Runs that failed", note, head, rows, len(head))] if rows else []


def _overall_table(runs: Sequence[Run]) -> Table:
    rows = []
    for variant in variants(runs):
        chosen = groups(runs, variant)
        cells = [_overall(chosen, metric) for metric in (detection, segmentation)]
        milliseconds = _overall(chosen, latency, 1.0)
        rows.append((variant, _coverage(chosen), *cells, milliseconds, _ABSENT))
    rows += [
        (
            f"{name}, paper",
            "all three",
            f"{method.au_roc:.1f}",
            f"{method.au_pro:.1f}",
            f"{method.latency_ms:g}",
            f"{method.images_per_second:g}",
        )
        for name, method in paper.METHODS.items()
    ]
    note = (
        "Mean over the collections' means. The paper's numbers are of its three "
        "collections, its times of an NVIDIA RTX A6000 in half precision. Our times "
        "are of single test images during the evaluation; `efficientad benchmark` "
        f"measures images per second. {_LIMITS} {_where(runs)}"
    )
    head = ("method", "scenarios", "image AU-ROC", "AU-PRO", "ms an image", "images/s")
    return Table("Detection and segmentation", note, head, tuple(rows), 2)


def _collection_table(runs: Sequence[Run]) -> Table:
    rows = []
    for variant in variants(runs):
        for group in groups(runs, variant):
            reported = _reported(group, paper.BY_COLLECTION.get(group.collection))
            name = paper.COLLECTION_NAMES.get(group.collection, "others")
            rows.append(_collection_row(name, group, detection, reported, segmentation))
            for kind, kind_name in _KIND_NAMES.items():
                if group.by_seed(of_kind(kind)):
                    reported = _reported(group, paper.LOCO_BY_KIND[kind])
                    words = f"{name}, {kind_name}"
                    rows.append(_collection_row(words, group, of_kind(kind), reported))
    head = ("collection", "variant", "scenarios", "image AU-ROC")
    return Table(
        "By collection",
        f"In MVTec LOCO logical and structural defects have the same weight. {_LIMITS}",
        (*head, "image AU-ROC, paper", "AU-PRO", "seeds"),
        tuple(rows),
        3,
    )


def _collection_row(
    name: str,
    group: Group,
    metric: Metric,
    reported: str,
    second: Metric | None = None,
) -> tuple[str, ...]:
    values = list(group.by_seed(metric).values())
    others = list(group.by_seed(second).values()) if second is not None else []
    cells = (_cell(values), reported, _cell(others), str(len(values)))
    return (name, group.variant, _coverage([group]), *cells)


def _scenario_table(runs: Sequence[Run]) -> Table:
    keys = dict.fromkeys((collection_of(r), r["category"], r["variant"]) for r in runs)
    rows = []
    for collection, category, variant in sorted(keys):
        members = [
            run
            for run in runs
            if (run["category"], run["variant"]) == (category, variant)
            and is_finished(run)
        ]
        cells = [
            _cell([v for run in members if (v := metric(run)) is not None], factor)
            for _, metric, factor in _SCENARIO_COLUMNS
        ]
        name = paper.COLLECTION_NAMES.get(collection, "others")
        reference = _reference(collection, category, members)
        rows.append((name, category, variant, *cells, reference, str(len(members))))
    names = (name for name, _, _ in _SCENARIO_COLUMNS)
    return Table(
        "By scenario",
        "The reference column has image AU-ROC and AU-PRO of the public "
        f"reimplementation (nelson1425), size small. {_LIMITS}",
        ("collection", "scenario", "variant", *names, "reference", "seeds"),
        tuple(rows),
        3,
    )


def _reference(collection: str, category: str, members: Sequence[Run]) -> str:
    accuracy = paper.REFERENCE_SMALL.get(category)
    if collection != "mvtec_ad" or accuracy is None or _size(members) != "small":
        return _ABSENT
    return f"{accuracy.au_roc:.1f} / {accuracy.au_pro:.1f}"


def _reported(group: Group, by_size: dict[ModelSize, float] | None) -> str:
    size = _size(group.runs)
    if by_size is None or size is None:
        return _ABSENT
    return f"{by_size[size]:.1f}"


def _size(runs: Sequence[Run]) -> ModelSize | None:
    """Return the size of some runs, or None if they differ."""
    sizes = {run.get("settings", {}).get("config", {}).get("size") for run in runs}
    size = sizes.pop() if len(sizes) == 1 else None
    return cast("ModelSize", size) if size in {"small", "medium"} else None


def _coverage(chosen: Iterable[Group]) -> str:
    """Return how many scenarios of each collection there are."""
    parts = []
    for group in chosen:
        n, name = len(group.scenarios), paper.COLLECTION_NAMES.get(group.collection)
        n_all = paper.N_SCENARIOS.get(group.collection)
        parts.append(f"{n} others" if name is None else f"{n} of {n_all} of {name}")
    return ", ".join(parts)


def _overall(chosen: Sequence[Group], metric: Metric, factor: float = _PERCENT) -> str:
    return _cell(overall(chosen, metric), factor)


def _cell(values: Sequence[float], factor: float = _PERCENT) -> str:
    if not values:
        return _ABSENT
    return mean_and_deviation([factor * value for value in values], 1)


def _where(runs: Sequence[Run]) -> str:
    return where_recorded(runs) if runs else "No run is recorded yet."
