"""All scenarios, by sizes and seeds: the paper's Tables 1 and 2."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from efficientad.training.devices import choose_device
from efficientad.training.run import recipe_of
from efficientad_lab.studies.config import StudyConfig
from efficientad_lab.studies.jobs import Job, Judging
from efficientad_lab.studies.records import read_runs
from efficientad_lab.studies.scenarios import find_scenarios
from efficientad_lab.studies.study import OnDone, do_all, usable_sizes, variant_of
from efficientad_lab.studies.table_files import write_tables
from efficientad_lab.studies.tables import reproduction_tables

EXPERIMENT: Final = "reproduce"


def reproduce(
    roots: Sequence[Path],
    results: Path,
    config: StudyConfig | None = None,
    *,
    on_done: OnDone = lambda _job, _error: None,
) -> list[Exception]:
    """Train and evaluate all scenarios by sizes and seeds, and write the tables.

    Finished runs are skipped and a killed one continues, so the same call can be made
    again. The tables are written again after each run. One seed of everything comes
    before the next seed.

    Args:
        roots: Categories, collections, or folders of collections.
        results: Folder for the recorded runs, `reproduce.md` and `reproduce.html`.
        config: Settings. None: the defaults.
        on_done: Called with each finished job, and its error or None.

    Returns:
        The errors of failed runs; these are recorded, and the next call tries them
        again.

    Raises:
        DatasetError: If a folder has no scenario.
        ModelFileError: If there is no teacher of a size.
        ResultError: If a recorded run is unusable, or has other settings.
        StorageError: If a result cannot be written.
    """
    config = config or StudyConfig()
    jobs = planned(roots, config)
    read_runs(results)  # an unusable record is found before hours of training
    return do_all(jobs, results, config, on_done, partial(write, results))


def write(results: Path) -> None:
    """Write the tables of the recorded runs.

    Raises:
        ResultError: If a recorded run cannot be used.
        StorageError: If a table cannot be written.
    """
    runs = [run for run in read_runs(results) if run["experiment"] == EXPERIMENT]
    write_tables(
        "EfficientAD reproduced", reproduction_tables(runs), results / EXPERIMENT
    )


def planned(roots: Sequence[Path], config: StudyConfig) -> list[Job]:
    """Return all jobs of a reproduction, by seed, size and scenario.

    Raises:
        DatasetError, ModelFileError: As `reproduce`.
    """
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
                    judgings=(Judging(variant=variant),),
                )
                for category in scenarios
            ]
    return jobs
