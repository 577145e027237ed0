"""Files that are whole or not there: written beside their place, then moved into it.

What stood there before stays until the new file is complete. No torch here.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from efficientad.errors import StorageError


@contextmanager
def whole_file(path: Path, *, keeps_partial: bool = False) -> Iterator[Path]:
    """Give a place to write to, and move it to `path` when the block is done.

    Args:
        path: The file; its folder is made if it is not there.
        keeps_partial: Leave what was written so far where the block ends by an error,
            as `path` with the suffix `.partial`.

    Raises:
        StorageError: If it cannot be written, for example on a full disk; what stood
            there stays.
    """
    partial = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except StorageError:
        raise  # of another file, written meanwhile
    except OSError as error:
        raise StorageError(
            f"cannot write {path} ({error.strerror or error}); check folder, "
            "permissions and free space, what stood there before is untouched"
        ) from error
    finally:
        if not keeps_partial:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        StorageError: As `whole_file`.
    """
    with whole_file(path) as partial:
        partial.write_bytes(content)


def require_writable(path: Path) -> None:
    """Find out before hours are spent whether a result can be written.

    Raises:
        StorageError: If the folder of the path cannot take a file, or if the path is a
            folder itself.
    """
    probe = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f"cannot write to {path.parent} ({error.strerror or error}); choose "
            "another output"
        ) from error
    if path.is_dir():
        raise StorageError(f"{path} is a folder; give the name of a file to write")


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")
