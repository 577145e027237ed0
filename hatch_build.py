"""Wheels for a production line: `make wheel`.

EFFICIENTAD_MACHINE names the machine, x86_64 or aarch64. Such a wheel has native layers
that need no compiler, and no teachers, which have a wheel of their own. Any other wheel
has the teachers, and its layers are compiled on first use.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Container
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = Path(__file__).with_name("src") / "efficientad"
KERNELS = PACKAGE / "kernels"
GLIBC = (2, 28)
FLAGS = ("-O3", "-std=c++17", "-fPIC")

# For each instruction set the compiler and its option. GCC makes faster code for
# AVX-512 than Clang, which `zig` brings as a cross compiler and as a linker for glibc.
ZIG = (sys.executable, "-m", "ziglang", "c++")
COMPILED: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "plain": ("g++", "-march=x86-64"),
        "avx2": ("g++", "-march=x86-64-v3"),
        "avx512": ("g++", "-march=x86-64-v4"),
        "avx512bf16": ("g++", "-march=x86-64-v4", "-mavx512bf16"),
    },
    "aarch64": {
        "plain": (*ZIG, "-target", f"aarch64-linux-gnu.{GLIBC[0]}.{GLIBC[1]}"),
    },
}


class NativeLayers(BuildHookInterface):  # type: ignore[type-arg]
    """Adds what only some wheels have."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add compiled layers where a machine is named, and the teachers elsewhere."""
        if version == "editable":
            return
        machine = os.environ.get("EFFICIENTAD_MACHINE")
        if machine is None:
            for teacher in (PACKAGE / "weights").glob("*.safetensors"):
                inside = f"efficientad/weights/{teacher.name}"
                build_data["force_include"][str(teacher)] = inside
            return
        self.folder = tempfile.TemporaryDirectory()
        library = compile_layers(machine, Path(self.folder.name))
        build_data["force_include"][str(library)] = (
            "efficientad/kernels/libefficientad.so"
        )
        build_data["tag"] = f"py3-none-manylinux_{GLIBC[0]}_{GLIBC[1]}_{machine}"
        build_data["pure_python"] = False


def compile_layers(machine: str, folder: Path) -> Path:
    """Return a library of the layers for a machine, made in a folder."""
    sys.path.insert(0, str(PACKAGE.parent))
    from efficientad.kernels.cook_toom import matrices_header  # noqa: PLC0415

    (folder / "layers_matrices.h").write_text(matrices_header())
    sets = instruction_sets_header(COMPILED[machine])
    (folder / "instruction_sets.h").write_text(sets)
    objects = []
    target = f"{machine}-linux-gnu.{GLIBC[0]}.{GLIBC[1]}"
    for_any = (*ZIG, "-target", target)
    units = [
        ("layers.cpp", name, (*compiler, f"-DISA=_{name}"))
        for name, compiler in COMPILED[machine].items()
    ]
    # Products and sums of scores are rounded one by one, as in Python.
    units.append(("detector.cpp", "detector", (*for_any, "-ffp-contract=off")))
    for source, name, compiler in units:
        objects.append(folder / f"{name}.o")
        options = (f"-I{folder}", "-c", KERNELS / source, "-o", objects[-1])
        subprocess.run([*compiler, *FLAGS, *options], check=True)  # noqa: S603
    library = folder / "libefficientad.so"
    name = f"-Wl,-soname,{library.name}"
    link: list[str | Path] = [*for_any, "-shared", "-s", name, *objects, "-o", library]
    subprocess.run(link, check=True)  # noqa: S603
    return library


def instruction_sets_header(names: Container[str]) -> str:
    """Return instruction sets and their flags as a macro of C++, the best set first."""
    from efficientad.kernels.prebuilt import INSTRUCTION_SETS  # noqa: PLC0415

    sets = [
        f'X({name}, "{" ".join(sorted(flags))}")'
        for name, flags in INSTRUCTION_SETS.items()
        if name in names
    ]
    return f"#define INSTRUCTION_SETS(X) {' '.join(sets)}\n"
