"""The common part of all studies: sizes with a teacher, and running the jobs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from efficientad.errors import ModelFileError
from efficientad.method.sizes import ModelSize
from efficientad.model_files.teachers import open_teacher
from efficientad.training.config import Recipe, TrainConfig
from efficientad_lab.studies.config import StudyConfig
from efficientad_lab.studies.executor import Executor, LocalProcesses
from efficientad_lab.studies.jobs import Job, Place, do, pending

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


def do_all(
    jobs: Sequence[Job],
    results: Path,
    config: StudyConfig,
    on_done: OnDone,
    write: Callable[[], None],
    executor: Executor | None = None,
) -> list[Exception]:
    """Do the jobs that are not recorded yet.

    Args:
        jobs: All jobs of the study.
        results: Folder of the recorded runs.
        config: Settings: which detectors stay, where, and the number of workers.
        on_done: Called with each job when it is done.
        write: Function that writes the tables; called after each job that was done,
            or once if none was.
        executor: Runs the jobs. None: local processes.

    Returns:
        The errors of failed jobs.

    Raises:
        ResultError: If a recorded run cannot be read or has other settings; then
            nothing is done.
        StorageError: If a result cannot be written.
    """
    tasks = [JobTask(job, _place(job, results, config)) for job in jobs]
    left = []
    for task in tasks:
        if pending(task.job, task.place):
            left.append(task)
        else:
            on_done(task.job, None)
    failures = []
    executor = executor or LocalProcesses(config.n_workers)
    for task, error in executor.run(left):
        on_done(task.job, error)
        write()
        if error is not None:
            failures.append(error)
    if not left:
        write()
    return failures


def _place(job: Job, results: Path, config: StudyConfig) -> Place:
    # The figures take the lowest seed there is.
    is_kept = config.keep_detectors == "all" or job.config.seed == min(config.seeds)
    return Place(results, config.work or results / "work", is_kept)
