"""C++ sources of the package, built on first use and stored in a cache folder.

The cache key holds the sources, the compiler's version and the processor, so a cached
binary from another machine is never loaded. Where no compiler works, or the folder
cannot be written, `load` returns None and logs a warning once, and callers use PyTorch.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared")
_BUILD_SECONDS = 120

logger = logging.getLogger(__name__)


def int64_fields(*names: str) -> list[tuple[str, type[ctypes.c_int64]]]:
    """Return the fields of a structure of whole numbers."""
    return [(name, ctypes.c_int64) for name in names]


def cache_folder() -> Path:
    """Return the folder of built binaries: the user's cache folder for this package."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "efficientad"


@functools.cache
def processor() -> str:
    """Return the processor's name and instruction sets, where known."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    wanted = ("model name", "flags", "Features", "CPU part")
    found = {k.strip(): v for k, _, v in (line.partition(":") for line in lines)}
    return platform.machine() + "".join(found.get(key, "") for key in wanted)


@functools.cache
def _compiler() -> str | None:
    return shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")


def load(name: str, headers: Mapping[str, str]) -> ctypes.CDLL | None:
    """Return the library of `name`.cpp in this folder, built where it is not cached.

    Args:
        name: Source file without suffix.
        headers: Generated headers, file name to text, found by `#include "name"`.

    Returns:
        None where it cannot be built; the reason is logged once.
    """
    try:
        return _opened(name, headers)
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        warn_once(str(detail).strip().splitlines()[0] if str(detail).strip() else "?")
        return None


@functools.cache
def warn_once(
    reason: str, what: str = "native kernels", instead: str = "PyTorch's"
) -> None:
    """Log why something slower is used, once for each reason."""
    logger.warning("%s unavailable, using %s (%s)", what, instead, reason)


def _opened(name: str, headers: Mapping[str, str]) -> ctypes.CDLL:
    path = _built(name, headers)
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        # A damaged file in the cache: built anew, once.
        path.unlink(missing_ok=True)
        return ctypes.CDLL(str(_built(name, headers)))


def _built(name: str, headers: Mapping[str, str]) -> Path:
    compiler = _compiler()
    if compiler is None:
        raise OSError("no C++ compiler found")
    source = Path(__file__).with_name(f"{name}.cpp")
    version = subprocess.run(  # noqa: S603 - the compiler found on PATH
        [compiler, "--version"], check=True, capture_output=True, text=True, timeout=30
    ).stdout
    own = (file.read_text() for file in sorted(source.parent.glob("*.h")))
    parts = (
        *(source.read_text(), *own, *headers.values()),
        *(version, processor(), *_FLAGS),
    )
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}-{key}.so"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=folder) as build:
        for file, text in headers.items():
            (Path(build) / file).write_text(text)
        result = Path(build) / target.name
        subprocess.run(  # noqa: S603 - the compiler found on PATH
            [compiler, *_FLAGS, f"-I{build}", str(source), "-o", str(result)],
            check=True,
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS,
        )
        result.replace(target)
    return target
