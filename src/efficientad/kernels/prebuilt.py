"""Native layers compiled ahead, as wheels carry them: one library for all processors.

It holds the functions once for each instruction set. The best one that the processor
has is used. `hatch_build.py` makes the library; a checkout has none.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

PATH: Final = Path(__file__).with_name("libefficientad.so")
"""The library in an installed wheel."""

_AVX2: Final = frozenset({"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"})
_AVX512: Final = _AVX2 | {*("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")}
INSTRUCTION_SETS: Final = {
    "avx512bf16": _AVX512 | {"avx512_bf16"},
    "avx512": _AVX512,
    "avx2": _AVX2,
    "plain": frozenset[str](),
}
"""Flags in /proc/cpuinfo that each set needs, the best set first. `plain`: what every
processor of its kind has, on Arm with NEON."""


class Functions:
    """The functions of a library for one instruction set, by name without its end."""

    def __init__(self, library: ctypes.CDLL, instruction_set: str) -> None:
        self._library, self.instruction_set = library, instruction_set
        for name in ("lanes", "panel", "has_bf16"):
            getattr(self, name).restype = ctypes.c_int64

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(
            self._library, f"{name}_{self.instruction_set}"
        )
        return function


def load() -> Functions | None:
    """Return the functions of a wheel's library; None in a checkout.

    Raises:
        OSError: If there is a library that cannot be opened.
        AttributeError: If it is a foreign one.
    """
    if not PATH.exists():
        return None
    try:
        processors = Path("/proc/cpuinfo").read_text()
    except OSError:
        processors = ""
    return Functions(ctypes.CDLL(str(PATH)), best_instruction_set(processors))


def best_instruction_set(processors: str) -> str:
    """Return the best set of the processors that a text like /proc/cpuinfo describes.

    Every one of them has it: some machines have cores of different kinds.
    """
    lines = (line.partition(":") for line in processors.splitlines())
    flags = [set(text.split()) for name, _, text in lines if name.strip() == "flags"]
    found = set.intersection(*flags) if flags else set[str]()
    return next(name for name, needed in INSTRUCTION_SETS.items() if needed <= found)
