"""Files that are of use only together: all are replaced, or none.

A model of OpenVINO is two, `.xml` and `.bin`; one of them beside the other's
predecessor would be no model at all.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
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
    with ExitStack() as undo:  # also when Ctrl-C comes in between
        for target in others:
            undo.callback(_put_back, target, kept / target.name, folder / target.name)
            if target.is_file():
                target.replace(kept / target.name)
            (folder / target.name).replace(target)
        try:
            (folder / last.name).replace(last)
        finally:
            # A move that fails leaves what stood there.
            if not (folder / last.name).exists():
                undo.pop_all()


def _put_back(target: Path, kept: Path, new: Path) -> None:
    """Undo an exchange, however far it came."""
    if os.path.lexists(kept):
        kept.replace(target)
    elif not new.exists():
        target.unlink()
