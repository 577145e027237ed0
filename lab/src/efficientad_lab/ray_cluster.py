"""A Ray cluster of one node for tests and measurements, on loopback alone."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_CLUSTER: Final = "EFFICIENTAD_CLUSTER"
_STARTED: Final = "will now block forever"

SETTINGS: Final = {
    # Ray takes the address in the network otherwise, on both sides.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # It writes a token to the home folder otherwise.
    "RAY_AUTH_MODE": "disabled",
    # Its workers yield to everything else on the machine otherwise.
    "RAY_worker_niceness": "0",
}
"""Variables of the environment of the cluster and its drivers, before Ray's import."""


@contextmanager
def loopback_cluster(n_cpus: int) -> Iterator[str]:
    """Start a cluster, yield its address, and stop it.

    Args:
        n_cpus: CPUs that it has for tasks, whatever the machine has.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ray") as name:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head"]
        command += ["--block", "--node-ip-address=127.0.0.1", f"--port={port}"]
        command += [f"--num-cpus={n_cpus}", "--object-store-memory=80000000"]
        command += ["--include-dashboard=false", "--disable-usage-stats"]
        command += [f"--temp-dir={name}/ray"]
        log = Path(name, "log")
        environment = os.environ | SETTINGS
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        environment[_CLUSTER] = f"127.0.0.1:{port}"
        head = _started(command, log, environment)
        try:
            yield f"127.0.0.1:{port}"
        finally:
            head.terminate()
            head.wait()


def _started(
    command: Sequence[str], log: Path, environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Start Ray, which gives up after 30 s on a busy machine, up to four times."""
    for _ in range(4):
        with log.open("w") as file:
            head = subprocess.Popen(  # noqa: S603 - Ray
                command, stdout=file, stderr=file, env=environment
            )
        while head.poll() is None:
            if _STARTED in log.read_text():
                return head
            time.sleep(0.1)
    raise RuntimeError(log.read_text())


def workers(address: str) -> list[int]:
    """Return the numbers of the processes of a cluster made here that run a task."""
    return [p for p in _processes(address) if b"ray::_outcome" in _file(p, "cmdline")]


def processor_seconds(address: str) -> dict[int, float]:
    """Return the processor time so far of each process of a cluster made here."""
    found = {}
    for process in _processes(address):
        user_and_system = _file(process, "stat").rpartition(b")")[2].split()[11:13]
        found[process] = sum(map(int, user_and_system)) / os.sysconf("SC_CLK_TCK")
    return found


def _processes(address: str) -> list[int]:
    wanted = f"{_CLUSTER}={address}\0".encode()
    numbers = (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
    return [number for number in numbers if wanted in _file(number, "environ")]


def _file(process: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{process}/{name}").read_bytes()
    except OSError:  # it has ended
        return b""
