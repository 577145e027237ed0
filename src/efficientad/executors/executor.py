"""Executors run tasks in other processes, here or on other machines. No torch here.

A task is a value that can be pickled. It records its result itself, and does nothing
that is recorded already, so that it can be run again after its worker was lost.
"""

import os
import pickle
import platform
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeVar, runtime_checkable

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


class Outcome(NamedTuple):
    """End of a task."""

    error: Exception | None
    ends_all: bool


@dataclass(frozen=True, slots=True)
class Order:
    """A task as a worker gets it; it is unpickled when the process is prepared."""

    task: bytes
    folder: str
    """Working folder of the driver."""
    n_threads: int
    versions: Mapping[str, str]

    def outcome(self) -> Outcome:
        """Prepare the process, run the task and return its end."""
        # OpenMP and PyTorch read it when they are loaded, which may be by the task.
        os.environ["OMP_NUM_THREADS"] = str(self.n_threads)
        try:
            self._enter_folder()
            self._compare_versions()
            return Outcome(pickle.loads(self.task).run(), ends_all=False)  # noqa: S301 - from the driver
        except EfficientADError as error:
            return Outcome(error, ends_all=True)

    def _enter_folder(self) -> None:
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise ConfigError(
                f"workers need the folder {self.folder} of the driver, "
                f"{platform.node()} has none ({error.strerror}); start from a folder "
                "that all machines share"
            ) from error

    def _compare_versions(self) -> None:
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


def run_on(
    submit: Callable[[Order], "Future[Outcome]"],
    tasks: Sequence[T],
    *,
    n_workers: int,
    n_threads: int,
    lost: type[Exception] | tuple[type[Exception], ...],
) -> Iterator[tuple[T, Exception | None]]:
    """Run tasks on workers, as `ExecutorConfig.run` does.

    Args:
        submit: Gives an order to a worker that is free.
        tasks: Tasks to run.
        n_workers: Tasks at the same time, at least 1.
        n_threads: Threads of each task.
        lost: Exceptions of an order whose process has ended.
    """
    waiting = deque((task, 1) for task in tasks)
    given: dict[Future[Outcome], tuple[T, int]] = {}
    order = partial(
        Order, folder=str(Path.cwd()), n_threads=n_threads, versions=_versions()
    )

    def give() -> None:
        while waiting and len(given) < n_workers:
            task, attempt = waiting.popleft()
            given[submit(order(pickle.dumps(task)))] = (task, attempt)

    give()
    while given:
        ended = []
        for future in wait(given, return_when=FIRST_COMPLETED).done:
            task, attempt = given.pop(future)
            if not isinstance(future.exception(), lost):
                ended.append((task, future.result()))
            elif attempt < N_ATTEMPTS:
                waiting.appendleft((task, attempt + 1))
            else:
                killed = ResultError(
                    f"the process of {task.name} was killed {N_ATTEMPTS} times; give "
                    "the same command again, with fewer workers if memory was short"
                )
                ended.append((task, Outcome(killed, ends_all=False)))
        for _, outcome in ended:
            if outcome.ends_all and outcome.error is not None:
                raise outcome.error
        give()
        yield from ((task, outcome.error) for task, outcome in ended)


def run_locally(
    tasks: Sequence[T], n_workers: int, *, keeps_processes: bool = False
) -> Iterator[tuple[T, Exception | None]]:
    """Run tasks on this machine, as `ExecutorConfig.run` does, each in its process.

    The workers share the cores. A single one runs the tasks in this process.
    """
    if n_workers == 1:
        for task in tasks:
            yield task, task.run()
        return
    n_threads = max(1, usable_cores() // n_workers)
    processes = _Processes(keeps=keeps_processes)
    try:
        yield from run_on(
            processes.submit,
            tasks,
            n_workers=n_workers,
            n_threads=n_threads,
            lost=BrokenProcessPool,
        )
    finally:
        processes.stop()


class _Processes:
    """Pools of one process each: if it is killed, no other task is lost with it."""

    def __init__(self, *, keeps: bool) -> None:
        self._keeps = keeps
        self._pools: dict[ProcessPoolExecutor, Future[Outcome]] = {}

    def submit(self, order: Order) -> "Future[Outcome]":
        for pool, last in [*self._pools.items()]:
            if last.done() and (last.exception() or not self._keeps):
                pool.shutdown()
                del self._pools[pool]
        free = (pool for pool, last in self._pools.items() if last.done())
        pool = next(free, None) or ProcessPoolExecutor(1, get_context("spawn"))
        self._pools[pool] = future = pool.submit(order.outcome)
        return future

    def stop(self) -> None:
        for pool in self._pools:
            pool.shutdown()


def _versions() -> dict[str, str]:
    """Return the versions that results depend on, of what is installed."""
    found = {"python": platform.python_version()}
    for package in _DECISIVE:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
