"""C++ sources of the package, built on first use and stored in a cache folder.

The cache key holds the sources, the compiler's version and the processor, so a cached
binary from another machine is never loaded. Its length and SHA-256 are stored beside it
and checked before it is loaded, since a damaged binary would end the process. Where no
compiler works, or the folder cannot be written, `load` returns None and logs a warning
once, and callers use PyTorch.
"""

import ctypes
import functools
import hashlib
import logging
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from platformdirs import user_cache_path

from efficientad.errors import StorageError
from efficientad.storage import move, temporary_folder, write_atomically

_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared")
_BUILD_SECONDS = 120

logger = logging.getLogger(__name__)


def int64_fields(*names: str) -> list[tuple[str, type[ctypes.c_int64]]]:
    """Return the fields of a structure of whole numbers."""
    return [(name, ctypes.c_int64) for name in names]


def cache_folder() -> Path:
    """Return the folder of built binaries: the user's cache folder for this package.

    Raises:
        StorageError: If the user has no home folder, as in some containers.
    """
    try:
        return user_cache_path("efficientad", appauthor=False)
    except RuntimeError as error:  # a user whom the system does not know
        raise StorageError(
            "the cache of native kernels needs a home folder, this user has none; "
            "set XDG_CACHE_HOME to a folder"
        ) from error


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

    It includes generated headers by their names. Where it cannot be built, the reason
    is logged once.
    """
    try:
        return ctypes.CDLL(str(_built(name, headers)))
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


def _built(name: str, headers: Mapping[str, str]) -> Path:
    """Return the path of a whole library, built where the cache has none."""
    compiler = _compiler()
    if compiler is None:
        raise OSError("no C++ compiler found")
    source = Path(__file__).with_name(f"{name}.cpp")
    own = (file.read_bytes() for file in (source, *sorted(source.parent.glob("*.h"))))
    texts = *headers.values(), _output(compiler, "--version"), processor(), *_FLAGS
    parts = *own, *(text.encode() for text in texts)
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]
    folder = cache_folder()
    target = folder / f"{name}-{key}.so"
    record = target.with_suffix(".sha256")
    if _is_whole(target, record):
        return target
    with temporary_folder(folder) as build:
        for file, text in headers.items():
            (build / file).write_text(text, encoding="utf-8")
        result = build / target.name
        _output(compiler, *_FLAGS, f"-I{build}", str(source), "-o", str(result))
        text = _record(result.read_bytes())
        move(result, target)
        write_atomically(record, text.encode())
    return target


def _is_whole(library: Path, record: Path) -> bool:
    try:
        return record.read_bytes() == _record(library.read_bytes()).encode()
    except FileNotFoundError:
        return False


def _record(content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()} {len(content)}\n"


def _output(*command: str) -> str:
    return subprocess.run(  # noqa: S603 - the compiler found on PATH
        command,
        check=True,
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",  # a compiler may speak another encoding
        timeout=_BUILD_SECONDS,
    ).stdout
