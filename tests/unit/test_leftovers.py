"""What killed processes left is removed, and nothing else."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from efficientad import storage
from efficientad.storage import (
    process_name,
    remove_leftovers,
    temporary_folder,
    write_atomically,
)

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="needs /proc"
)

WRITER = """
import sys, time
from pathlib import Path
from efficientad.storage import atomic_write, temporary_folder
folder = Path(sys.argv[1])
with atomic_write(folder / "a.csv") as file, temporary_folder(folder) as other:
    file.write_text("half")
    (other / "part.onnx").write_text("half")
    print("ready", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def writer(tmp_path):
    """A process in the middle of writing a file and a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def write_as_another_process(path):
    remove_leftovers.cache_clear()
    write_atomically(path, b"content")


def test_a_living_process_keeps_its_files_and_a_killed_one_does_not(writer, tmp_path):
    write_as_another_process(tmp_path / "b.csv")
    assert len(list(tmp_path.glob(".*.partial"))) == 2

    writer.send_signal(signal.SIGKILL)
    writer.wait()
    write_as_another_process(tmp_path / "b.csv")

    assert [path.name for path in tmp_path.iterdir()] == ["b.csv"]


def test_a_number_that_another_process_has_now_does_not_keep_a_file(tmp_path):
    machine, number, _ = process_name().split("-")
    (tmp_path / f".{machine}-{number}-1.abc.partial").touch()
    own = tmp_path / f".{process_name()}.abc.partial"
    own.touch()

    write_as_another_process(tmp_path / "b.csv")

    assert sorted(tmp_path.iterdir()) == [own, tmp_path / "b.csv"]


@pytest.mark.parametrize(("hours", "stays"), [(1, True), (25, False)])
def test_files_of_another_machine_stay_for_a_day(tmp_path, hours, stays):
    other = tmp_path / ".0123abcd-1-1.abc.partial"
    other.touch()
    changed = time.time() - 3600 * hours
    os.utime(other, (changed, changed))

    write_as_another_process(tmp_path / "b.csv")

    assert other.exists() == stays


def test_where_the_system_shows_no_processes_a_file_stays_for_a_day(
    tmp_path, monkeypatch
):
    dead = tmp_path / f".{process_name().split('-')[0]}-1-1.abc.partial"
    dead.touch()
    monkeypatch.setattr(storage, "_start_of", lambda _: None)

    write_as_another_process(tmp_path / "b.csv")
    assert dead.exists()

    os.utime(dead, (0, 0))
    write_as_another_process(tmp_path / "b.csv")
    assert not dead.exists()


def test_files_of_the_user_stay(tmp_path):
    names = ["predictions.csv.partial", ".hidden.partial", "x.0123abcd-1-1.a.partial"]
    for name in names:
        (tmp_path / name).touch()

    write_as_another_process(tmp_path / "b.csv")

    assert {path.name for path in tmp_path.iterdir()} == {*names, "b.csv"}


def test_a_temporary_folder_is_removed_at_the_end(tmp_path):
    with temporary_folder(tmp_path / "new") as folder:
        (folder / "a").touch()

    assert not list((tmp_path / "new").iterdir())
