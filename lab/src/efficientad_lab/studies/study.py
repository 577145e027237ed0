"""Studies: their jobs are run and recorded, and their tables written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from efficientad.errors import ModelFileError
from efficientad.executors.config import ExecutorConfig
from efficientad.method.sizes import ModelSize
from efficientad.model_files.teachers import open_teacher
from efficientad.training.config import Recipe, TrainConfig
from efficientad_lab.studies.config import StudyConfig
from efficientad_lab.studies.jobs import Job, Place, do, pending
from efficientad_lab.studies.records import Run, read_runs
from efficientad_lab.studies.table_files import Table, write_tables

OnDone = Callable[[Job, Exception | None], None]
"""Called with each finished job, and its error or None."""


@dataclass(frozen=True, slots=True)
class JobTask:
    """A job and the folders of its results."""

    job: Job
    place: Place

    @property
    def name(self) -> str:
        """Name of the training."""
        return self.job.name

    def run(self) -> Exception | None:
        """Do the job, record it, and return its error or None."""
        return do(self.job, self.place)


def usable_sizes(config: StudyConfig) -> list[ModelSize]:
    """Return the sizes to train, each with a readable teacher.

    Raises:
        ModelFileError: If the teacher of a requested size cannot be used, or if there
            is no teacher of any size.
    """
    if config.sizes is not None:
        for size in config.sizes:
            open_teacher(size, config.teacher)
        return list(config.sizes)
    usable: list[ModelSize] = []
    reason: ModelFileError | None = None
    sizes: tuple[ModelSize, ...] = get_args(ModelSize)
    for size in sizes:
        try:
            open_teacher(size, config.teacher)
        except ModelFileError as error:
            reason = reason or error
        else:
            usable.append(size)
    if reason is not None and not usable:
        raise reason
    return usable


def variant_of(config: TrainConfig, recipe: Recipe) -> str:
    """Return the name of a training: size, preset and what the user set."""
    parts: list[str] = [config.size, recipe.preset]
    if config.steps is not None:
        parts.append(f"{config.steps} steps")
    if config.batch_size is not None:
        parts.append(f"batches of {config.batch_size}")
    return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Study:
    """An experiment of the paper: its jobs and its tables."""

    experiment: str
    """Name in the recorded runs, and of the files of tables."""
    title: str
    jobs: Callable[[Sequence[Path], StudyConfig], list[Job]]
    """Function from folders of scenarios to all jobs, in their order."""
    tables: Callable[[list[Run], StudyConfig], list[Table]]
    """Function from the study's recorded runs to its tables."""

    def run(
        self,
        roots: Sequence[Path],
        results: Path,
        config: StudyConfig,
        *,
        on_done: OnDone,
        executor: ExecutorConfig | None = None,
    ) -> list[Exception]:
        """Do the jobs that are not recorded yet, and write the tables after each one.

        Finished runs are skipped and a killed one continues, so the same call can be
        made again.

        Args:
            roots: Categories, collections, or folders of collections.
            results: Folder of the recorded runs and the tables.
            config: Settings.
            on_done: Called with each finished job, and its error or None.
            executor: Runs the jobs. None: one after the other in this process.

        Returns:
            The errors of failed jobs; these are recorded, and the next call tries them
            again.

        Raises:
            DatasetError: If a folder has no scenario.
            ModelFileError: If there is no teacher of a size.
            ResultError: If a recorded run is unusable or has other settings; then
                nothing is done.
            StorageError: If a result cannot be written.
        """
        jobs = self.jobs(roots, config)
        read_runs(results)  # an unusable record is found before hours of training
        tasks = [JobTask(job, _place(job, results, config)) for job in jobs]
        left = []
        for task in tasks:
            if pending(task.job, task.place):
                left.append(task)
            else:
                on_done(task.job, None)
        failures = []
        for task, error in (executor or ExecutorConfig()).run(left):
            on_done(task.job, error)
            self.write(results, config)
            if error is not None:
                failures.append(error)
        if not left:
            self.write(results, config)
        return failures

    def write(self, results: Path, config: StudyConfig) -> None:
        """Write the tables of the recorded runs.

        Raises:
            ResultError: If a recorded run cannot be used.
            StorageError: If a table cannot be written.
        """
        runs = [r for r in read_runs(results) if r["experiment"] == self.experiment]
        write_tables(self.title, self.tables(runs, config), results / self.experiment)


def _place(job: Job, results: Path, config: StudyConfig) -> Place:
    # The figures take the lowest seed there is.
    is_kept = config.keep_detectors == "all" or job.config.seed == min(config.seeds)
    return Place(results, config.work or results / "work", is_kept)
