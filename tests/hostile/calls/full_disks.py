"""Full disks: each command refuses in one sentence, and what stood there stays.

The disk is one of 32 MiB in memory, which the process of the case alone sees. Only
root may mount it, so there are no such cases elsewhere.
"""

import ctypes
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from tests.hostile.case import IN, LISTS, OUT, PREDICT, Case, write
from tests.hostile.files import TRAIN

_NEW_MOUNTS: Final = 0x20000
_PRIVATE_AND_BELOW: Final = 0x40000 | 0x4000
_N_IMAGES: Final = 40

COMMANDS: Final = {
    "predict": PREDICT,
    "predict with heatmaps": PREDICT[:-1],
    "train": ("train", "normal", "--output", "out/new.ead", *TRAIN),
    "calibrate": ("calibrate", "part.ead", "normal", "--output", "out/new.ead"),
    "evaluate": ("evaluate", "part.ead", "parts", "--output", "out"),
    "export to ONNX": ("export", "part.ead", "--output", "out/new.onnx"),
    "export to OpenVINO": ("export", "part.ead", "--output", "out/new.xml"),
    "threshold": ("threshold", "out/part.ead", "--at", "0.2"),
    "check": ("check", "parts", "--output", "out/check.json"),
}
PARTIAL: Final = tuple(f"{name}.partial" for name in LISTS)
LEFT: Final = {"predict": PARTIAL, "predict with heatmaps": (*PARTIAL, "heatmaps")}
"""What an unfinished prediction leaves: its lists, and whole pictures."""


def mount_small_disk(place: Path) -> None:
    """Mount a disk of 32 MiB that only this process sees."""
    system = ctypes.CDLL(None, use_errno=True)
    place.mkdir(exist_ok=True)
    for name, *arguments in (
        ("unshare", _NEW_MOUNTS),
        ("mount", b"none", b"/", None, _PRIVATE_AND_BELOW, None),
        ("mount", b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"size=32m"),
    ):
        if getattr(system, name)(*arguments):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), name)


def can_mount() -> bool:
    """Return whether this user may mount a disk, as root may on most machines."""
    process = os.fork()
    if process == 0:
        try:
            mount_small_disk(Path("/tmp"))  # noqa: S108 - for this process alone
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(process, 0)[1] == 0


def full_disk(n_free: int) -> None:
    """Mount a disk for the output that has few bytes left, beside a model."""
    for number in range(_N_IMAGES):
        shutil.copy("good.png", write(IN / f"{number}.png"))
    mount_small_disk(OUT)
    shutil.copy("part.ead", OUT)
    (OUT / "filler").write_bytes(bytes(shutil.disk_usage(OUT).free - n_free))


def cases() -> Iterator[Case]:
    """Yield all cases of full disks."""
    for name, command in COMMANDS.items():
        # What `check` writes is small enough for the bytes that are left.
        for n_free in (0,) if name == "check" else (0, 4096):
            yield Case(
                area="environment",
                name=f"{name} on a disk with {n_free} bytes left",
                prepare=partial(full_disk, n_free),
                command=command,
                words="check folder, permissions and free space",
                leaves=LEFT.get(name, ()),
                seconds=60,
                mebibytes=1500,
            )


CASES = tuple(cases()) if can_mount() else ()
