"""What every study does with its jobs: sizes by their teachers, places, one by one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from efficientad.errors import ModelFileError
from efficientad.model_files.teachers import open_teacher
from efficientad.training.config import ModelSize, Recipe, TrainConfig
from efficientad_lab.studies.config import StudyConfig
from efficientad_lab.studies.jobs import Job, Place, do, pending

OnDone = Callable[[Job, Exception | None], None]
"""Gets a job when it is done, and why it failed or None."""


def usable_sizes(config: StudyConfig) -> list[ModelSize]:
    """List the sizes to train, each with a teacher that can be read.

    Raises:
        ModelFileError: If the teacher of a size that was asked for cannot be used, or
            if there is none at all.
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
    """Name a training by what the user chose."""
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
) -> list[Exception]:
    """Do some jobs one after the other.

    Args:
        jobs: What to do.
        results: Folder of the recorded runs.
        config: Says which detectors stay, and where.
        on_done: Gets each job when it is done.
        write: Writes the tables: after each job that had something to do, or once,
            where none had.

    Returns:
        Why some failed.

    Raises:
        ResultError: If a recorded run cannot be read or had other settings; then
            nothing is done.
        StorageError: If a result cannot be written.
    """
    tasks = [(job, _place(job, results, config)) for job in jobs]
    is_left = [bool(pending(job, place)) for job, place in tasks]
    failures = []
    for (job, place), has_work in zip(tasks, is_left, strict=True):
        error = do(job, place) if has_work else None
        on_done(job, error)
        if has_work:
            write()
        if error is not None:
            failures.append(error)
    if not any(is_left):
        write()
    return failures


def _place(job: Job, results: Path, config: StudyConfig) -> Place:
    # The figures take the lowest seed there is.
    is_kept = config.keep_detectors == "all" or job.config.seed == min(config.seeds)
    return Place(results, config.work or results / "work", is_kept)
