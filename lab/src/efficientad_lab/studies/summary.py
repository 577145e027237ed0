"""Means of recorded runs: by scenario, by collection, over all.

A mean is taken for each seed and then over the seeds, so that its deviation is that of
the whole number. A seed counts only if every scenario of a collection has finished. In
MVTec LOCO logical and structural defects have the same weight. No torch here.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from efficientad_lab.studies.paper import LOGICAL, STRUCTURAL
from efficientad_lab.studies.records import Run, is_finished

Metric = Callable[[Run], float | None]

_SPRO = "au_spro_0.3"


@dataclass(frozen=True, slots=True)
class Group:
    """The runs of one variant in one collection."""

    collection: str
    variant: str
    runs: tuple[Run, ...]

    @property
    def scenarios(self) -> list[str]:
        """Names of the scenarios, including failed ones."""
        return sorted({run["category"] for run in self.runs})

    def by_seed(self, metric: Metric) -> dict[int, float]:
        """Return the mean over the scenarios for each seed that has all of them."""
        means: dict[int, float] = {}
        for seed in sorted({run["seed"] for run in self.runs}):
            runs = [r for r in self.runs if r["seed"] == seed and is_finished(r)]
            values = [value for run in runs if (value := metric(run)) is not None]
            if len(values) == len(self.scenarios):
                means[seed] = statistics.fmean(values)
        return means


def variants(runs: Iterable[Run]) -> list[str]:
    """Return the variants in the order of the runs."""
    return list(dict.fromkeys(run["variant"] for run in runs))


def groups(runs: Iterable[Run], variant: str) -> list[Group]:
    """Return the runs of a variant by collection, sorted by its name."""
    chosen = [run for run in runs if run["variant"] == variant]
    names = sorted({collection_of(run) for run in chosen})
    return [
        Group(name, variant, tuple(run for run in chosen if collection_of(run) == name))
        for name in names
    ]


def collection_of(run: Run) -> str:
    """Return the collection of a run, `plain` if the run names none."""
    return str(run.get("collection", "plain"))


def overall(chosen: Sequence[Group], metric: Metric) -> list[float]:
    """Return the mean over collections for each seed that all of them have."""
    by_seed = [group.by_seed(metric) for group in chosen]
    seeds = set.intersection(*map(set, by_seed)) if by_seed else set()
    return [
        statistics.fmean(means[seed] for means in by_seed) for seed in sorted(seeds)
    ]


def detection(run: Run) -> float | None:
    """Return the image AU-ROC; in LOCO the mean of both kinds of defects."""
    return _balanced(run, "image_au_roc")


def segmentation(run: Run) -> float | None:
    """Return AU-sPRO where saturation areas are known, else AU-PRO; limit 0.3."""
    spro = _balanced(run, _SPRO)
    return _balanced(run, "au_pro") if spro is None else spro


def of_kind(kind: str) -> Metric:
    """Return the metric image AU-ROC of one defect type."""
    return partial(_of_kind, kind=kind, name="image_au_roc")


def latency(run: Run) -> float | None:
    """Return milliseconds an image, predicted one by one during the evaluation."""
    value = run.get("latency_ms")
    return None if value is None else float(value)


def plain(name: str) -> Metric:
    """Return the metric of that name over all test images of a scenario."""
    return partial(_plain, name=name)


def training_minutes(run: Run) -> float | None:
    """Return the minutes of the training's steps."""
    seconds = run.get("seconds", {}).get("train")
    return None if seconds is None else seconds / 60


def _plain(run: Run, name: str) -> float | None:
    value = run["metrics"].get(name)
    return None if value is None else float(value)


def _of_kind(run: Run, kind: str, name: str) -> float | None:
    value = run["metrics"].get("defect_types", {}).get(kind, {}).get(name)
    return None if value is None else float(value)


def _balanced(run: Run, name: str) -> float | None:
    kinds = [_of_kind(run, kind, name) for kind in (LOGICAL, STRUCTURAL)]
    known = [value for value in kinds if value is not None]
    return statistics.fmean(known) if len(known) == len(kinds) else _plain(run, name)
