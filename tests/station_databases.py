"""PostgreSQL and S3 for tests: private servers on the loopback."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from lab.experiments.station.harness import free_port

BUCKET = "s3://station/line 1"
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


@contextmanager
def bucket_of_moto() -> Iterator[Any]:
    """Yield the files of a bucket, or skip the test where moto or s3fs is missing.

    The environment has its address and keys meanwhile.
    """
    pytest.importorskip("s3fs", reason="needs s3fs, of the extra s3")
    server = pytest.importorskip("moto.server", reason="needs moto's server")
    from s3fs import S3FileSystem

    moto = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    # All servers of a process have the same buckets.
    httpx2.post(f"http://{host}:{port}/moto-api/reset").raise_for_status()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        files = S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
        files.mkdir("station")
        yield files
    moto.stop()


def keys_in(bucket: Any, replica: str) -> set[str]:
    """Return the names of a replica's images."""
    places = bucket.find(f"{BUCKET}/{replica}")
    return {place.rpartition("/")[2] for place in places}
