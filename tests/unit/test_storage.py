import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from efficientad.errors import StorageError
from efficientad.model_files import container as tensor_file
from efficientad.storage import (
    atomic_folder,
    atomic_write,
    file_hash,
    files_together,
    open_regular,
    require_writable,
    temporary_path,
    write_atomically,
)

FULL_DISK = Path("/dev/full")


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "folder" / "result.txt"
    write_atomically(path, b"the old one")
    return path


def write_half_of_it(target, error, *, keeps_partial=False):
    with atomic_write(target, keeps_partial=keeps_partial) as partial:
        partial.write_text("half of the n")
        raise error


def names_beside(path):
    return sorted(p.name for p in path.parent.iterdir())


def test_a_file_is_replaced_at_the_end_of_the_block(target):
    with atomic_write(target) as partial:
        partial.write_text("the new one")
        assert target.read_text() == "the old one"

    assert target.read_text() == "the new one"
    assert names_beside(target) == ["result.txt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_previous_file(target, error):
    with pytest.raises((StorageError, KeyboardInterrupt)):
        write_half_of_it(target, error)

    assert target.read_text() == "the old one"
    assert names_beside(target) == ["result.txt"]


def test_keeps_partial_keeps_what_a_failed_write_wrote(target):
    error = OSError(28, "No space left on device")

    with pytest.raises(StorageError):
        write_half_of_it(target, error, keeps_partial=True)

    assert target.read_text() == "the old one"
    assert target.with_name("result.txt.partial").read_text() == "half of the n"
    with atomic_write(target, keeps_partial=True) as partial:
        partial.write_text("the new one")
    assert target.read_text() == "the new one"
    assert names_beside(target) == ["result.txt"]


def test_a_link_stays_and_its_file_is_replaced(target):
    link = target.with_name("current")
    link.symlink_to(target.name)

    write_atomically(link, b"the new one")

    assert link.is_symlink()
    assert target.read_text() == "the new one"


@pytest.mark.skipif(not FULL_DISK.exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_storage_error_that_says_so(target):
    temporary_path(target).symlink_to(FULL_DISK)

    with pytest.raises(StorageError, match=r"result\.txt \(No space left on device\)"):
        write_atomically(target, b"new")
    assert target.read_text() == "the old one"
    assert names_beside(target) == ["result.txt"]


@pytest.mark.parametrize("keeps_partial", [False, True])
def test_processes_that_write_the_same_file_do_not_disturb_each_other(
    target, monkeypatch, keeps_partial
):
    with atomic_write(target, keeps_partial=keeps_partial) as first:
        first.write_text("by the first")
        monkeypatch.setattr(os, "getpid", lambda: 2**30)
        with atomic_write(target, keeps_partial=keeps_partial) as second:
            second.write_text("by the second")
        assert target.read_text() == "by the second"
        assert first.read_text() == "by the first"

    assert target.read_text() == "by the first"
    assert names_beside(target) == ["result.txt"]


def test_temporary_paths_differ_between_containers(target):
    of_another = subprocess.check_output(
        [sys.executable, "-c", ANOTHER_CONTAINER, str(target)], text=True
    )

    assert of_another != str(temporary_path(target))
    assert f"-{os.getpid()}-" in of_another


ANOTHER_CONTAINER = f"""
import os, sys
from pathlib import Path
from efficientad.storage import temporary_path
os.getpid = lambda: {os.getpid()}
print(temporary_path(Path(sys.argv[1])), end="")
"""


@pytest.fixture
def pipe(tmp_path):
    """A pipe with a reader that does not wait, and its name."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, reader
    os.close(reader)


def test_a_pipe_is_written_directly(pipe):
    path, reader = pipe

    require_writable(path, may_be_device=True)
    write_atomically(path, b"a report")

    assert os.read(reader, 100) == b"a report"
    assert path.is_fifo()
    assert names_beside(path) == ["pipe"]


def test_a_model_does_not_replace_a_pipe(pipe):
    path, _ = pipe
    link = path.with_name("part.onnx")
    link.symlink_to(path.name)

    for name in (path, link):
        with pytest.raises(StorageError, match="is no file; give the name of a file"):
            require_writable(name)
        with pytest.raises(StorageError, match="is no file; give the name of a file"):
            tensor_file.write(name, "detector", {"x": np.zeros(3)}, {})
        with pytest.raises(StorageError, match="is no file"), files_together([name]):
            pytest.fail("nothing may be written")
    assert path.is_fifo()
    assert link.is_symlink()


def test_errors_of_another_file_keep_their_name(target, tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match=r"inner\.txt"), atomic_write(target):
        write_atomically(tmp_path / "file" / "inner.txt", b"")


def test_other_errors_pass_unchanged(target):
    with pytest.raises(ZeroDivisionError), atomic_write(target):
        raise ZeroDivisionError


def test_require_writable_tries_the_folder_and_leaves_the_file(target, tmp_path):
    require_writable(tmp_path / "new folder" / "result.txt")
    require_writable(target)

    assert target.read_text() == "the old one"
    with pytest.raises(StorageError, match="is a folder; give the name of a file"):
        require_writable(target.parent)
    with pytest.raises(StorageError, match="choose another output"):
        require_writable(target / "result.txt")


def test_a_name_of_255_bytes_can_be_written(tmp_path):
    path = tmp_path / ("ä" * 127 + "x")

    write_atomically(path, b"content")

    assert path.read_bytes() == b"content"
    with files_together([path]) as folder:
        (folder / path.name).write_bytes(b"other")
    assert path.read_bytes() == b"other"


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    for name in ("a", "b", "part.ead"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o600)

    write_atomically(tmp_path / "a", b"new")
    with files_together([tmp_path / "b"]) as folder:
        (folder / "b").write_bytes(b"new")
    tensor_file.write(tmp_path / "part.ead", "detector", {"x": np.zeros(3)}, {})

    for name in ("a", "b", "part.ead"):
        assert (tmp_path / name).stat().st_size
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def calls_of(write, monkeypatch):
    """Return the system calls of a write that matter, in order: name and file."""
    calls = []
    synchronize, replace = os.fsync, os.replace

    def fsync(descriptor):
        calls.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        synchronize(descriptor)

    def rename(source, target):
        calls.append(("rename", Path(target).name))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        patch.setattr(os, "replace", rename)
        write()
    return calls


def in_a_folder(target):
    with atomic_folder(target.with_name("parts")) as folder:
        (folder / "a.png").write_bytes(b"content")


def as_a_model(target):
    tensor_file.write(target, "detector", {"x": np.zeros(3)}, {})


def of_two_files(target):
    with files_together([target.with_name("part.bin"), target]) as folder:
        for name in ("part.bin", target.name):
            (folder / name).write_bytes(b"content")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("write", "names"),
    [
        (lambda target: write_atomically(target, b"new"), ["result.txt"]),
        (as_a_model, ["result.txt"]),
        (of_two_files, ["part.bin", "result.txt"]),
    ],
)
def test_a_file_is_on_the_disk_before_it_has_its_name(
    target, monkeypatch, write, names
):
    calls = calls_of(lambda: write(target), monkeypatch)

    moves = [i for i, call in enumerate(calls) if call[0] == "rename"]
    assert [calls[i][1] for i in moves if calls[i][1] in names] == names
    for i in moves:
        if calls[i][1] in names:
            assert calls[i - 1][0] == "fsync"
            assert calls[i + 1] == ("fsync", "folder")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_folder_is_on_the_disk_before_it_has_its_name(target, monkeypatch):
    calls = calls_of(lambda: in_a_folder(target), monkeypatch)

    assert calls == [
        *(("fsync", "parts"), ("fsync", "a.png")),
        *(("rename", "parts"), ("fsync", "folder")),
    ]


def test_the_kernel_sees_these_calls(tmp_path):
    log, code = tmp_path / "log", tmp_path / "write.py"
    code.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from efficientad.storage import write_atomically\n"
        "write_atomically(Path(sys.argv[1]), b'content')\n"
    )
    calls = "trace=fsync,rename,renameat,renameat2"
    command = ["strace", "-f", "-y", "-e", calls, "-o", log, sys.executable, code]
    try:
        subprocess.run(
            [*command, tmp_path / "result.txt"], check=True, capture_output=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("needs strace and the right to trace")

    assert (tmp_path / "result.txt").read_bytes() == b"content"
    seen = [line.split(maxsplit=1)[1] for line in log.read_text().splitlines()]
    file, rename, folder = (line for line in seen if str(tmp_path) in line)
    assert file.startswith("fsync(")
    assert ".partial" in file
    assert rename.startswith("rename")
    assert "result.txt" in rename
    assert folder.startswith("fsync(")
    assert f"<{tmp_path}>" in folder


def test_a_model_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()

    tensor_file.write(tmp_path / "part.ead", "detector", {"x": np.zeros(3)}, {})

    usual = (tmp_path / "usual").stat().st_mode
    assert (tmp_path / "part.ead").stat().st_mode == usual


def test_file_hash_is_the_sha256_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"content")

    assert file_hash(tmp_path / "a") == hashlib.sha256(b"content").hexdigest()
    assert file_hash(str(tmp_path / "a")) == file_hash(tmp_path / "a")


def test_file_hash_of_a_missing_file_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="gone"):
        file_hash(tmp_path / "gone")


@pytest.mark.parametrize("read", [file_hash, open_regular])
def test_a_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(OSError, match="a pipe or device"):
        read(tmp_path / "pipe")


def test_a_folder_that_is_replaced_keeps_its_permissions(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir(mode=0o700)

    with atomic_folder(folder) as made:
        (made / "a").touch()

    assert (folder / "a").is_file()
    assert folder.stat().st_mode & 0o777 == 0o700
