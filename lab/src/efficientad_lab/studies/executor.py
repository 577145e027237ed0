"""Executors run the tasks of a study, here or elsewhere. No torch here.

A task is a value, so that another process or machine can run it.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Protocol, TypeVar, runtime_checkable

from efficientad.cores import usable_cores
from efficientad.errors import ResultError


@runtime_checkable
class Task(Protocol):
    """One training and its evaluations; it can be pickled."""

    @property
    def name(self) -> str:
        """Name for messages."""
        ...

    def run(self) -> Exception | None:
        """Do the work, record it, and return the error of a failed task.

        Raises:
            ResultError, StorageError: If no further task can be recorded.
        """
        ...


T = TypeVar("T", bound=Task)


@runtime_checkable
class Executor(Protocol):
    """Runs tasks."""

    def run(self, tasks: Sequence[T]) -> Iterator[tuple[T, Exception | None]]:
        """Run tasks and yield each one with its error as it ends, in any order.

        Raises:
            ResultError, StorageError: As `Task.run`; tasks that have not begun are
                left out.
        """
        ...


@dataclass(frozen=True, slots=True)
class LocalProcesses:
    """Runs tasks on this machine, each in a process of its own.

    A single worker runs them one after the other in this process.
    """

    n_workers: int = 1
    """Tasks at the same time, at least 1; they share the cores."""

    def run(self, tasks: Sequence[T]) -> Iterator[tuple[T, Exception | None]]:
        """Run tasks and yield each one with its error as it ends."""
        if self.n_workers == 1:
            for task in tasks:
                yield task, task.run()
            return
        pool = ThreadPoolExecutor(self.n_workers)
        try:
            started = {pool.submit(self._run_alone, task): task for task in tasks}
            for finished in as_completed(started):
                yield started[finished], finished.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _run_alone(self, task: Task) -> Exception | None:
        n_threads = max(1, usable_cores() // self.n_workers)
        with ProcessPoolExecutor(
            1, get_context("spawn"), _limit_threads, (n_threads,)
        ) as process:
            try:
                return process.submit(task.run).result()
            except BrokenProcessPool:
                return ResultError(
                    f"the process of {task.name} was killed; give the same command "
                    "again, with fewer workers if memory was short"
                )


def _limit_threads(n_threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(n_threads)
    import torch  # noqa: PLC0415 - after the environment is set

    torch.set_num_threads(n_threads)
