"""Tasks on a Ray cluster. Ray is imported when it is used.

Ray keeps the nodes, starts the processes and says which are lost. Nothing goes through
its object store but tasks and their ends, which are small.
"""

import socket
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Final

from efficientad.errors import ConfigError, needs_extra
from efficientad.executors.config import ExecutorConfig
from efficientad.executors.executor import Order, Outcome, T, run_on

_SECONDS_TO_CONNECT: Final = 10.0


def run_on_ray(
    tasks: Sequence[T], config: ExecutorConfig, *, keeps_processes: bool = False
) -> Iterator[tuple[T, Exception | None]]:
    """Run tasks on a running Ray cluster, as `ExecutorConfig.run` does.

    Files are read and written by the workers, so all paths must lie on storage that the
    machines share. A task has as many threads as its worker has CPUs.
    """
    if not tasks:
        return
    ray = _ray()
    is_own = not ray.is_initialized()
    if is_own:
        _connect(ray, config.address)
    remote = ray.remote(
        num_cpus=config.cpus,
        num_gpus=config.gpus,
        max_retries=0,
        # 0: a process runs any number of tasks, one after the other.
        max_calls=0 if keeps_processes else 1,
    )(_outcome)
    failures = ray.exceptions
    try:
        yield from run_on(
            lambda order: remote.remote(order).future(),
            tasks,
            n_workers=config.n_workers or _room(ray, config.cpus, config.gpus),
            n_threads=max(1, int(config.cpus)),
            lost=(
                failures.LocalRayletDiedError,
                failures.NodeDiedError,
                failures.OutOfMemoryError,
                failures.WorkerCrashedError,
            ),
        )
    except failures.RayTaskError as error:
        if "failed to import" not in str(error):
            raise
        raise ConfigError(
            "every machine of the cluster needs efficientad, one cannot import it; "
            "install it there"
        ) from error
    finally:
        if is_own:
            ray.shutdown()


def _outcome(order: Order) -> Outcome:
    """Code of a Ray task."""
    return order.outcome()


def _ray() -> ModuleType:
    with needs_extra("executor ray", "ray"):
        import ray  # noqa: PLC0415
    return ray


def _connect(ray: ModuleType, address: str) -> None:
    host, _, port = address.rpartition(":")
    if host in {"localhost", "127.0.0.1"}:
        host = ray.util.get_node_ip_address()  # as Ray does
    try:
        if host and port.isdecimal() and "://" not in host:
            # Ray itself would try for minutes, and then end the process.
            socket.create_connection((host, int(port)), _SECONDS_TO_CONNECT).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, SystemExit) as error:
        raise ConfigError(
            f"executor ray needs a running cluster, there is none at {address} "
            f"({' '.join(str(error).split())}); start its head node, or give "
            "its --address"
        ) from error
    except RuntimeError as error:
        if "mismatch" not in str(error).lower():
            raise
        raise ConfigError(
            f"the cluster at {address} must have the versions of Ray and Python that "
            f"are installed here ({' '.join(str(error).split())}); install the same"
        ) from error


def _room(ray: ModuleType, cpus: float, gpus: float) -> int:
    """Return how many workers the nodes have room for, or raise `ConfigError`."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    wanted = {name: n for name, n in (("CPU", cpus), ("GPU", gpus)) if n}
    room = sum(
        min(int(node.get(name, 0) / n) for name, n in wanted.items())
        for node in resources
    )
    if not room:
        held = [
            ", ".join(f"{node.get(k, 0):g} {k}" for k in wanted) for node in resources
        ]
        raise ConfigError(
            f"a worker needs {' and '.join(f'{n:g} {k}' for k, n in wanted.items())} "
            f"on one node, the nodes have {'; '.join(held)}; give fewer --cpus or "
            "--gpus"
        )
    return room
