"""Settings of executors. No torch here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from efficientad.errors import ConfigError
from efficientad.settings import Parallel, Range, check_fields

if TYPE_CHECKING:
    from efficientad.executors.executor import T


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutorConfig:
    """Settings of an executor."""

    executor: Literal["local", "ray"] = "local"
    """`local`: processes of this machine. `ray`: a running Ray cluster."""

    address: str = "auto"
    """Address of the Ray cluster, host:port. `auto`: the cluster of this machine."""

    n_workers: Parallel | None = None
    """Tasks at the same time, from 1 to 1024. None: one on this machine, which has all
    cores, and as many on Ray as its nodes have room for."""

    cpus: Annotated[float, Range(0.01, 1024)] = 1.0
    """CPUs of each worker on Ray, which are its threads."""

    gpus: Annotated[float, Range(0, 1024)] = 0.0
    """GPUs of each worker on Ray, also a share of one."""

    def __post_init__(self) -> None:
        """Reject values outside their range."""
        check_fields(self)

    def run(
        self, tasks: "Sequence[T]", *, keeps_processes: bool = False
    ) -> "Iterator[tuple[T, Exception | None]]":
        """Run tasks and yield each one with its error as it ends, in any order.

        A task whose worker is lost is run again, at most three times in all.

        Args:
            tasks: Tasks to run.
            keeps_processes: Run several tasks in one process, one after the other.

        Raises:
            MissingDependencyError: If Ray is not installed.
            ConfigError: If there is no cluster at the address, it has no room for a
                worker, or its versions differ from those here.
            EfficientADError: As `Task.run`; tasks that have not begun are left out.
        """
        from efficientad.executors import executor, ray_tasks  # noqa: PLC0415

        if self.executor == "ray":
            return ray_tasks.run_on_ray(tasks, self, keeps_processes=keeps_processes)
        n_workers = self.n_workers or 1
        return executor.run_locally(tasks, n_workers, keeps_processes=keeps_processes)


@dataclass(frozen=True, kw_only=True, slots=True)
class PartsConfig(ExecutorConfig):
    """Form of the results, and the executor that computes them."""

    format: Literal["csv", "parquet"] | None = None
    """`csv`: predictions.csv, predictions.jsonl and pictures, by this process.
    `parquet`: parts for very many images, by any executor. None: `parquet` on Ray,
    otherwise `csv`."""

    part_size: Annotated[int, Range(1, 1_000_000)] = 1000
    """Images of a Parquet part; a tar file is a part of its own."""

    @property
    def writes_parts(self) -> bool:
        """Whether the results are Parquet parts.

        Raises:
            ConfigError: If they are not, and the executor writes nothing else.
        """
        is_plain = self.executor == "local" and self.n_workers is None
        if self.format == "csv" and not is_plain:
            raise ConfigError(
                "format csv is written by one process, got an executor of several; use "
                "format parquet, or --streams"
            )
        return self.format == "parquet" or not is_plain
