"""The table of all hostile cases."""

from tests.hostile import (
    checkpoints,
    exports,
    images,
    lists,
    model_files,
    names,
    trees,
)
from tests.hostile.calls import environment, full_disks, library, options, settings
from tests.hostile.case import AREAS, Case

CASES: tuple[Case, ...] = (
    *images.CASES,
    *names.CASES,
    *model_files.CASES,
    *checkpoints.CASES,
    *exports.CASES,
    *lists.CASES,
    *trees.CASES,
    *options.CASES,
    *settings.CASES,
    *environment.CASES,
    *full_disks.CASES,
    *library.CASES,
)


def fast_cases() -> tuple[Case, ...]:
    """Return the first case of each area."""
    return tuple(next(case for case in CASES if case.area == area) for area in AREAS)
