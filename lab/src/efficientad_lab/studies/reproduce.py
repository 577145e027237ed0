"""All scenarios, by sizes and seeds: the paper's Tables 1 and 2."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from efficientad.engines.pytorch import choose_device
from efficientad.executors.config import ExecutorConfig
from efficientad.training.run import recipe_of
from efficientad_lab.studies.config import StudyConfig
from efficientad_lab.studies.jobs import Job, PlannedEvaluation
from efficientad_lab.studies.scenarios import find_scenarios
from efficientad_lab.studies.study import OnDone, Study, usable_sizes, variant_of
from efficientad_lab.studies.tables import reproduction_tables

EXPERIMENT: Final = "reproduce"


def reproduce(
    roots: Sequence[Path],
    results: Path,
    config: StudyConfig | None = None,
    *,
    on_done: OnDone = lambda _job, _error: None,
    executor: ExecutorConfig | None = None,
) -> list[Exception]:
    """Train and evaluate all scenarios by sizes and seeds, and write the tables.

    Arguments, result and errors are those of `Study.run`.
    """
    study = Study(
        EXPERIMENT,
        "EfficientAD reproduced",
        planned,
        lambda runs, _config: reproduction_tables(runs),
    )
    config = config or StudyConfig()
    return study.run(roots, results, config, on_done=on_done, executor=executor)


def planned(roots: Sequence[Path], config: StudyConfig) -> list[Job]:
    """Return all jobs of a reproduction: one seed of everything, then the next."""
    scenarios = find_scenarios(roots)
    device = choose_device(config.device)
    jobs = []
    sizes = usable_sizes(config)
    for seed in config.seeds:
        for size in sizes:
            training = config.training(size, seed)
            recipe = recipe_of(training, device)
            variant = variant_of(training, recipe)
            jobs += [
                Job(
                    experiment=EXPERIMENT,
                    category=category,
                    config=training,
                    recipe=recipe,
                    variant=variant,
                    evaluations=(PlannedEvaluation(variant=variant),),
                )
                for category in scenarios
            ]
    return jobs
