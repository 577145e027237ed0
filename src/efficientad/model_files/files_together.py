"""Files that are of use only together: all are replaced, or none.

A model of OpenVINO is two, `.xml` and `.bin`; one of them beside the other's
predecessor would be no model at all.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from efficientad.storage import require_no_device, storage_errors


@contextmanager
def files_together(targets: Sequence[Path]) -> Iterator[Path]:
    """Give a folder to write files to, and move them into place when the block is done.

    Errors of the block are its own: not all of them are of writing.

    Args:
        targets: The files, all in one folder, which is made if it is not there. They
            are written under the same names. Where all are links, the links stay.

    Raises:
        StorageError: If one cannot be moved; what stood there stays.
    """
    for target in targets:
        require_no_device(target)
    with storage_errors(*targets):
        places = list(targets)
        if all(target.is_symlink() for target in targets):
            # One link alone would part the file behind it from the other.
            places = [Path(os.path.realpath(target)) for target in targets]
        places[-1].parent.mkdir(parents=True, exist_ok=True)
        aside = tempfile.TemporaryDirectory(dir=places[-1].parent, prefix=".writing-")
    with aside as name:
        folder = Path(name)
        yield folder
        written = [folder / target.name for target in targets]
        with storage_errors(*targets):
            _move(folder, written, places)


def _move(folder: Path, written: Sequence[Path], places: Sequence[Path]) -> None:
    *others, (new_last, last) = zip(written, places, strict=True)
    kept = folder / "kept"
    kept.mkdir()
    with ExitStack() as undo:  # also when Ctrl-C comes in between
        for new, place in others:
            undo.callback(_put_back, place, kept / new.name, new)
            if place.is_file():
                place.replace(kept / new.name)
            new.replace(place)
        try:
            new_last.replace(last)
        finally:
            # A move that fails leaves what stood there.
            if not new_last.exists():
                undo.pop_all()


def _put_back(target: Path, kept: Path, new: Path) -> None:
    """Undo an exchange, however far it came."""
    if os.path.lexists(kept):
        kept.replace(target)
    elif not new.exists():
        target.unlink()
