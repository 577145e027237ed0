"""Executors run tasks in other processes, here or on other machines. No torch here.

A task is a value that can be pickled. It records its result itself, and does nothing
that is recorded already, so that it can be run again after its worker was lost.
"""

import os
import platform
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Final, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from efficientad.cores import usable_cores
from efficientad.errors import ConfigError, EfficientADError, ResultError

N_ATTEMPTS: Final = 3
"""Times that a task is begun if its worker is lost each time."""

_DECISIVE: Final = (
    *("efficientad", "numpy", "onnxruntime", "openvino", "pillow", "pyarrow"),
    *("tifffile", "torch"),
)


@runtime_checkable
class Task(Protocol):
    """A piece of work that records its own result; it can be pickled."""

    @property
    def name(self) -> str:
        """Short text for messages, the same in every run."""
        ...

    def run(self) -> Exception | None:
        """Do the work, record it, and return the error of a failed task.

        Raises:
            EfficientADError: If no further task can be done or recorded.
        """
        ...


T = TypeVar("T", bound=Task)


@runtime_checkable
class Executor(Protocol):
    """Runs tasks."""

    def run(self, tasks: Sequence[T]) -> Iterator[tuple[T, Exception | None]]:
        """Run tasks and yield each one with its error as it ends, in any order.

        A task whose worker is lost is run again, at most three times in all.

        Raises:
            EfficientADError: As `Task.run`; tasks that have not begun are left out.
        """
        ...


class Outcome(NamedTuple):
    """End of a task."""

    error: Exception | None
    ends_all: bool


def outcome_of(task: Task) -> Outcome:
    """Run a task and return its end."""
    try:
        return Outcome(task.run(), ends_all=False)
    except EfficientADError as error:
        return Outcome(error, ends_all=True)


@runtime_checkable
class Worker(Protocol):
    """A process that runs one task after the other."""

    def submit(self, task: Task) -> "Future[Outcome]":
        """Begin a task."""
        ...

    def stop(self) -> None:
        """End the process."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """Workers of an executor."""

    start: Callable[[], Worker]
    """Starts a process."""
    n: int
    """Tasks at the same time."""
    n_threads: int
    """Threads of each task."""
    keeps_processes: bool
    """Whether a process runs several tasks, one after the other."""
    lost: type[Exception]
    """Exception of a task whose process ended."""


def run_on(
    workers: Workers, tasks: Sequence[T]
) -> Iterator[tuple[T, Exception | None]]:
    """Run tasks on workers, as `Executor.run` does."""
    run = _Run(workers, tasks)
    try:
        for _ in range(min(workers.n, len(tasks))):
            run.start()
        while run.is_under_way:
            for future in wait(run.given, return_when=FIRST_COMPLETED).done:
                yield from run.end_of(future)
    finally:
        for given in run.given.values():
            given.worker.stop()


@dataclass(frozen=True, slots=True)
class _Given(Generic[T]):
    worker: Worker
    task: T | None
    """None: the worker is being prepared."""
    attempt: int


class _Run(Generic[T]):
    """Tasks that wait, and tasks that were given to workers.

    A worker gets a task when it is free, so no task waits for a slow worker. One that
    has yet to be prepared has none.
    """

    def __init__(self, workers: Workers, tasks: Sequence[T]) -> None:
        self.given: dict[Future[Outcome], _Given[T]] = {}
        self._waiting = deque((task, 1) for task in tasks)
        self._workers = workers
        self._prepare = _Preparation(Path.cwd(), workers.n_threads, _versions())

    @property
    def is_under_way(self) -> bool:
        """Whether a task waits or runs."""
        return bool(self._waiting) or any(g.task for g in self.given.values())

    def start(self, attempt: int = 1) -> None:
        """Start a worker."""
        worker = self._workers.start()
        self.given[worker.submit(self._prepare)] = _Given(worker, None, attempt)

    def end_of(self, future: "Future[Outcome]") -> Iterator[tuple[T, Exception | None]]:
        """Yield the task that has ended, if any; the worker gets another one."""
        given, error = self.given[future], future.exception()
        task = given.task
        if isinstance(error, self._workers.lost):
            del self.given[future]
            given.worker.stop()
            if failure := self._lost(given, error):
                yield failure
            return
        outcome = future.result()
        if outcome.ends_all and outcome.error is not None:
            raise outcome.error
        del self.given[future]
        self._continue(given)
        if task is not None:
            yield task, outcome.error

    def _continue(self, given: _Given[T]) -> None:
        is_fresh = given.task is None
        if self._waiting and (is_fresh or self._workers.keeps_processes):
            task, attempt = self._waiting.popleft()
            future = given.worker.submit(task)
            self.given[future] = _Given(given.worker, task, attempt)
            return
        given.worker.stop()
        if self._waiting:
            self.start()

    def _lost(self, given: _Given[T], error: Exception) -> tuple[T, ResultError] | None:
        """Start another worker; return a task that was begun too often."""
        is_last = given.attempt == N_ATTEMPTS
        if given.task is None and is_last:
            raise ResultError(
                f"a worker could not be started {N_ATTEMPTS} times "
                f"({' '.join(str(error).split())}); check that efficientad is "
                "installed on every machine, and the memory"
            ) from error
        if given.task is not None and not is_last:
            self._waiting.appendleft((given.task, given.attempt + 1))
        if self._waiting:
            self.start(given.attempt + 1 if given.task is None else 1)
        if given.task is None or not is_last:
            return None
        return given.task, ResultError(
            f"the process of {given.task.name} was killed {N_ATTEMPTS} times; give the "
            "same command again, with fewer workers if memory was short"
        )


@dataclass(frozen=True, slots=True)
class LocalProcesses:
    """Runs tasks on this machine, each in a process of its own.

    A single worker runs them one after the other in this process.
    """

    n_workers: int = 1
    """Tasks at the same time, at least 1; they share the cores."""
    keeps_processes: bool = False
    """Run several tasks in one process, one after the other."""

    def run(self, tasks: Sequence[T]) -> Iterator[tuple[T, Exception | None]]:
        """Run tasks and yield each one with its error as it ends."""
        if self.n_workers == 1:
            for task in tasks:
                yield task, task.run()
            return
        workers = Workers(
            start=_LocalProcess,
            n=self.n_workers,
            n_threads=max(1, usable_cores() // self.n_workers),
            keeps_processes=self.keeps_processes,
            lost=BrokenProcessPool,
        )
        yield from run_on(workers, tasks)


class _LocalProcess:
    def __init__(self) -> None:
        self._process = ProcessPoolExecutor(1, get_context("spawn"))

    def submit(self, task: Task) -> "Future[Outcome]":
        return self._process.submit(outcome_of, task)

    def stop(self) -> None:
        self._process.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Preparation:
    """First task of each worker: its folder and threads are set, versions compared."""

    folder: Path
    n_threads: int
    versions: Mapping[str, str]

    @property
    def name(self) -> str:
        return "a worker that starts"

    def run(self) -> None:
        # OpenMP and PyTorch read it when they are loaded, which is later.
        os.environ["OMP_NUM_THREADS"] = str(self.n_threads)
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise ConfigError(
                f"workers need the folder {self.folder} of the driver, "
                f"{platform.node()} has none ({error.strerror}); start from a folder "
                "that all machines share"
            ) from error
        own = _versions()
        different = [
            f"{package} {own.get(package, 'missing')} in place of {wanted}"
            for package, wanted in self.versions.items()
            if own.get(package) != wanted
        ]
        if different:
            raise ConfigError(
                f"workers need the versions of the driver, {platform.node()} has "
                f"{', '.join(different)}; install the same there"
            )


def _versions() -> dict[str, str]:
    """Return the versions that results depend on, of what is installed."""
    found = {"python": platform.python_version()}
    for package in _DECISIVE:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
