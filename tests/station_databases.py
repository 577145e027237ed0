"""PostgreSQL for tests: a private server in a temporary folder, on the loopback."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from lab.experiments.station.harness import free_port

_USER = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name


class Server:
    """A server that can be stopped, killed and started again."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self._as_user: dict[str, Any] = {}
        if os.getuid() == 0:  # it refuses to run as root
            shutil.chown(folder, _USER, _USER)
            self._as_user = {"user": _USER, "group": _USER, "extra_groups": []}
        options = ["--auth=trust", "--encoding=UTF8", "--no-sync", "--username=eve"]
        self._run("initdb", *options, str(folder / "data"))
        self.port = free_port()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = (
            f"-h 127.0.0.1 -p {self.port} -k '' -c max_connections=200 -c fsync=off"
        )
        log = self._folder / "log"
        self._control("start", "-o", options, "-l", str(log), "-t", "120")

    def stop(self) -> None:
        """Stop it at once, as a crash would; connections are lost."""
        self._control("stop", "-m", "immediate", "-t", "120")

    def freeze(self, number: int = signal.SIGSTOP) -> None:
        """Stop the process that accepts connections; SIGCONT continues it."""
        os.kill(
            int((self._folder / "data/postmaster.pid").read_text().split()[0]), number
        )

    def address(self, name: str) -> str:
        """Return the address of a database, which is made if there is none."""
        import psycopg
        from psycopg import errors, sql

        place = f"host=127.0.0.1 port={self.port} user=eve dbname=postgres"
        with psycopg.connect(place, autocommit=True) as connection:
            query = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
            with suppress(errors.DuplicateDatabase):
                connection.execute(query)
        return f"postgresql+psycopg://eve:secret@127.0.0.1:{self.port}/{name}"

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-w", "-D", str(self._folder / "data"), *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._programs / program), *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd="/",
            **self._as_user,
        )


@contextmanager
def postgresql() -> Iterator[Server]:
    """Run a server, or skip the test where PostgreSQL or its driver is missing."""
    pytest.importorskip("psycopg", reason="needs psycopg, of the extra postgres")
    found = shutil.which("initdb")
    places = [*Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found is None and not places:
        pytest.skip("needs PostgreSQL's server, such as Debian's package postgresql")
    programs = Path(found or max(places)).parent
    with tempfile.TemporaryDirectory(prefix="efficientad-") as folder:
        server = Server(programs, Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
