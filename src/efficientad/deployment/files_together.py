"""Files that are of use only together: all are replaced, or none.

A model of OpenVINO is two, `.xml` and `.bin`; one of them beside the other's
predecessor would be no model at all.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from efficientad.storage import writing


@contextmanager
def files_together(targets: Sequence[Path]) -> Iterator[Path]:
    """Give a folder to write files to, and move them into place when the block is done.

    Args:
        targets: The files, all in one folder, which is made if it is not there. They
            are written under the same names.

    Raises:
        StorageError: If one cannot be written or moved; what stood there stays.
    """
    place = targets[-1].parent
    with writing(*targets):
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place, prefix=".writing-") as folder:
            yield Path(folder)
            _move(Path(folder), targets)


def _move(folder: Path, targets: Sequence[Path]) -> None:
    *others, last = targets
    kept = folder / "kept"
    kept.mkdir()
    with ExitStack() as undo:
        for target in others:
            undo.callback(_exchange(folder / target.name, target, kept / target.name))
        # A move that fails leaves what stood there.
        (folder / last.name).replace(last)
        undo.pop_all()


def _exchange(new: Path, target: Path, kept: Path) -> Callable[[], object]:
    """Put a file where another may be, and tell how to take that back."""
    if not target.is_file():
        new.replace(target)
        return target.unlink
    target.replace(kept)
    try:
        new.replace(target)
    except OSError:
        kept.replace(target)
        raise
    return lambda: kept.replace(target)
