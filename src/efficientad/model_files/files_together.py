"""Writing of files that belong together: all are replaced, or none.

A model of OpenVINO is two files, `.xml` and `.bin`; one of them beside the other's
predecessor would be no model at all.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from efficientad.storage import (
    move,
    require_no_device,
    storage_errors,
    temporary_folder,
)


@contextmanager
def files_together(targets: Sequence[Path]) -> Iterator[Path]:
    """Yield a folder to write files to, and move them into place at the end.

    The block raises its own errors: not all of them are about writing.

    Args:
        targets: Files in one folder, which is made if needed. The block writes them
            under the same names. If all are links, the files behind them are replaced.

    Raises:
        StorageError: If one cannot be moved; the previous files stay.
    """
    for target in targets:
        require_no_device(target)
    with storage_errors(*targets):
        places = list(targets)
        if all(target.is_symlink() for target in targets):
            # One link alone would part the file behind it from the other.
            places = [Path(os.path.realpath(target)) for target in targets]
    with ExitStack() as stack:
        with storage_errors(*targets):
            folder = stack.enter_context(temporary_folder(places[-1].parent))
        yield folder
        with storage_errors(*targets):
            _move([folder / target.name for target in targets], places)


def _move(written: Sequence[Path], places: Sequence[Path]) -> None:
    *others, (new_last, last) = zip(written, places, strict=True)
    with ExitStack() as undo:  # also after Ctrl-C
        for new, place in others:
            previous = new.with_name(f"{new.name}.previous")
            undo.callback(_put_back, place, previous, new)
            if place.is_file():
                shutil.copymode(place, new)
                place.replace(previous)
            move(new, place)
        try:
            move(new_last, last)
        finally:
            if not new_last.exists():  # it was moved
                undo.pop_all()


def _put_back(place: Path, previous: Path, new: Path) -> None:
    """Undo an exchange, however far it came."""
    if os.path.lexists(previous):
        previous.replace(place)
    elif not new.exists():
        place.unlink()
