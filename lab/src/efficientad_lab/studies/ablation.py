"""Ablations of the method: the paper's Tables 3, 4 and 5.

A deviation changes one part of the method or several. Deviations with the same training
share it: the normalization is fitted on held-out normal images afterwards.

"Without hard feature loss" and p_hard = 0 mean the mean of all squared distances, as in
the paper. Preset `quick` adds that mean to the hard feature loss, and then counts it
once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from efficientad.datasets import Category
from efficientad.engines.pytorch import choose_device
from efficientad.executors.config import ExecutorConfig
from efficientad.method.maps import HIGH_QUANTILE, LOW_QUANTILE
from efficientad.method.sizes import ModelSize
from efficientad.training.config import Recipe, TrainConfig
from efficientad.training.quick import QuickRecipe
from efficientad.training.run import recipe_of
from efficientad_lab.studies.config import PaperTable, StudyConfig
from efficientad_lab.studies.jobs import (
    MEAN_AND_DEVIATION,
    QUANTILES,
    Job,
    Normalization,
    PlannedEvaluation,
)
from efficientad_lab.studies.records import Run
from efficientad_lab.studies.scenarios import find_scenarios
from efficientad_lab.studies.study import OnDone, Study, usable_sizes, variant_of
from efficientad_lab.studies.table_files import Table
from efficientad_lab.studies.tables import AblationRow, ablation_table, failures_table

EXPERIMENT: Final = "ablation"


@dataclass(frozen=True, kw_only=True, slots=True)
class Deviation:
    """Changes of the method."""

    has_pretraining_penalty: bool = True
    p_hard: float | None = None
    """Quantile of the hard feature loss, in [0, 1); 0 is without that loss. None: the
    preset's."""
    normalization: Normalization = QUANTILES

    def recipe(self, full: Recipe) -> Recipe:
        """Return the recipe of the training, given the method's."""
        if self.p_hard is None:
            return full
        if isinstance(full, QuickRecipe) and self.p_hard == 0:
            full = replace(full, mean_share=0.0)
        return replace(full, p_hard=self.p_hard)

    def canonical(self, full: Recipe) -> "Deviation":
        """Return the deviation without values that equal the method's."""
        is_same = self.p_hard is not None and self.recipe(full) == full
        return replace(self, p_hard=None) if is_same else self

    def training_words(self) -> list[str]:
        """Return the names of the changes of the training."""
        words = []
        if self.p_hard == 0:
            words.append("without hard loss")
        elif self.p_hard is not None:
            words.append(f"p_hard {self.p_hard:g}")
        if not self.has_pretraining_penalty:
            words.append("without penalty")
        return words

    def words(self) -> list[str]:
        """Return the names of all changes."""
        words = self.training_words()
        low, high = self.normalization.low, self.normalization.high
        if low is None or high is None:
            words.append("mean and deviation")
        else:
            words += [f"a {low:g}"] if low != LOW_QUANTILE else []
            words += [f"b {high:g}"] if high != HIGH_QUANTILE else []
        return words


FULL: Final = Deviation()

_WITHOUT_LOSSES: Final = Deviation(has_pretraining_penalty=False, p_hard=0.0)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of one of the paper's tables."""

    words: str
    deviation: Deviation
    paper: float
    """The paper's image AU-ROC in percent, mean of the three collections."""


def _swept_low(low: float, paper: float) -> Entry:
    normalization = Normalization(low=low, high=HIGH_QUANTILE)
    return Entry(f"a = {low:g}", Deviation(normalization=normalization), paper)


def _swept_high(high: float, paper: float) -> Entry:
    normalization = Normalization(low=LOW_QUANTILE, high=high)
    return Entry(f"b = {high:g}", Deviation(normalization=normalization), paper)


def _swept_hard(p_hard: float, paper: float) -> Entry:
    return Entry(f"p_hard = {p_hard:g}", Deviation(p_hard=p_hard), paper)


PAPER_TABLES: Final[dict[PaperTable, tuple[Entry, ...]]] = {
    3: (
        *map(
            _swept_low,
            (0.5, 0.8, 0.9, 0.95, 0.98, 0.99),
            (95.9, 95.9, 96.0, 95.9, 95.9, 95.8),
        ),
        *map(
            _swept_high,
            (0.95, 0.98, 0.99, 0.995, 0.998, 0.999),
            (95.8, 95.9, 96.0, 96.0, 95.9, 95.9),
        ),
        *map(
            _swept_hard,
            (0.0, 0.9, 0.99, 0.999, 0.9999, 0.99999),
            (94.9, 94.9, 95.7, 96.0, 95.8, 95.7),
        ),
    ),
    4: (
        Entry(
            "networks alone, maps by mean and deviation",
            replace(_WITHOUT_LOSSES, normalization=MEAN_AND_DEVIATION),
            93.2,
        ),
        Entry("+ map normalization by quantiles", _WITHOUT_LOSSES, 94.0),
        Entry("+ hard feature loss", Deviation(has_pretraining_penalty=False), 95.0),
        Entry("+ pretraining penalty", FULL, 95.4),
    ),
    5: (
        Entry("the method", FULL, 95.4),
        Entry(
            "without normalization by quantiles",
            Deviation(normalization=MEAN_AND_DEVIATION),
            94.7,
        ),
        Entry("without hard feature loss", Deviation(p_hard=0.0), 94.7),
        Entry(
            "without pretraining penalty",
            Deviation(has_pretraining_penalty=False),
            95.0,
        ),
    ),
}
"""Numbers of the WACV print: Table 3 is of size medium, Tables 4 and 5 of small."""

_SIZE_OF_TABLE: Final[dict[PaperTable, ModelSize]] = {
    3: "medium",
    4: "small",
    5: "small",
}


def ablate(
    roots: Sequence[Path],
    results: Path,
    config: StudyConfig | None = None,
    *,
    tables: Sequence[PaperTable] = (3, 4, 5),
    on_done: OnDone = lambda _job, _error: None,
    executor: ExecutorConfig | None = None,
) -> list[Exception]:
    """Train and evaluate all deviations of some of the paper's tables, and write these.

    Arguments, result and errors are those of `Study.run`, and `tables`: numbers of the
    paper's tables.
    """
    study = Study(
        EXPERIMENT,
        "Ablations of EfficientAD",
        lambda roots, config: planned(roots, config, tables),
        ablation_tables,
    )
    config = config or StudyConfig()
    return study.run(roots, results, config, on_done=on_done, executor=executor)


def planned(
    roots: Sequence[Path], config: StudyConfig, tables: Sequence[PaperTable]
) -> list[Job]:
    """Return all jobs of an ablation, by seed, size, scenario and training.

    Raises:
        DatasetError, ModelFileError: As `Study.run`.
    """
    scenarios, sizes = find_scenarios(roots), usable_sizes(config)
    deviations = [
        entry.deviation for n in sorted(set(tables)) for entry in PAPER_TABLES[n]
    ]
    return [
        job
        for seed in config.seeds
        for size in sizes
        for category in scenarios
        for job in _jobs(category, config, (size, seed), deviations)
    ]


def _jobs(
    category: Category,
    config: StudyConfig,
    which: tuple[ModelSize, int],
    deviations: Iterable[Deviation],
) -> list[Job]:
    """Group deviations by their training; the method's comes first."""
    full_config = config.training(*which)
    full = recipe_of(full_config, choose_device(config.device))
    groups: dict[Deviation, dict[str, PlannedEvaluation]] = {FULL: {}}
    for deviation in (each.canonical(full) for each in deviations):
        training = replace(deviation, normalization=QUANTILES)
        variant = _variant(deviation, full_config, full)
        groups.setdefault(training, {})[variant] = PlannedEvaluation(
            variant=variant, normalization=deviation.normalization
        )
    return [
        Job(
            experiment=EXPERIMENT,
            category=category,
            config=replace(
                full_config, has_pretraining_penalty=training.has_pretraining_penalty
            ),
            recipe=training.recipe(full),
            variant=_variant(training, full_config, full),
            evaluations=tuple(evaluations.values()),
        )
        for training, evaluations in groups.items()
        if evaluations
    ]


def _variant(deviation: Deviation, config: TrainConfig, full: Recipe) -> str:
    return ", ".join([variant_of(config, full), *deviation.canonical(full).words()])


def ablation_tables(runs: list[Run], config: StudyConfig) -> list[Table]:
    """Return all of the paper's tables for every size, and the failed runs."""
    tables = [
        table_of(number, size, config, runs)
        for number in PAPER_TABLES
        for size in usable_sizes(config)
    ]
    return tables + failures_table(runs)


def table_of(
    number: PaperTable, size: ModelSize, config: StudyConfig, runs: Iterable[Run]
) -> Table:
    """Return one of the paper's tables, filled with recorded runs."""
    training = config.training(size, config.seeds[0])
    full = recipe_of(training, choose_device(config.device))
    rows = [
        AblationRow(e.words, _variant(e.deviation, training, full), e.paper)
        for e in PAPER_TABLES[number]
    ]
    return ablation_table(
        f"Table {number} of the paper, {variant_of(training, full)}",
        f"The paper's numbers are of size {_SIZE_OF_TABLE[number]}.",
        rows,
        [run for run in runs if run["experiment"] == EXPERIMENT],
    )
