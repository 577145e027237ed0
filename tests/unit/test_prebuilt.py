"""The library that wheels carry: which of its functions are used, and when none."""

import subprocess
import sys
from pathlib import Path

import pytest
from hatch_build import instruction_sets_header

from efficientad.kernels import cook_toom, layers, native, prebuilt

SOURCE = Path(layers.__file__).with_name("layers.cpp")
AVX2 = "avx2 bmi1 bmi2 f16c fma movbe"
AVX512 = f"{AVX2} avx512f avx512bw avx512cd avx512dq avx512vl"


def processors(*flags):
    return "\n".join(f"processor\t: {n}\nflags\t\t: {f}" for n, f in enumerate(flags))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (processors(f"fpu {AVX512} avx512_bf16"), "avx512bf16"),
        (processors(AVX512), "avx512"),
        (processors(f"{AVX2} avx512f"), "avx2"),
        (processors(AVX2.replace("fma", "")), "plain"),
        (processors(AVX512, AVX2), "avx2"),
        ("processor : 0\nFeatures : fp asimd", "plain"),
        ("", "plain"),
    ],
)
def test_the_best_instruction_set_of_all_processors_is_used(text, expected):
    assert prebuilt.best_instruction_set(text) == expected


def test_the_c_interface_chooses_among_the_sets_of_its_library():
    found = instruction_sets_header({"plain", "avx2"})

    expected = f'X(avx2, "{AVX2}") X(plain, "")'
    assert found == f"#define INSTRUCTION_SETS(X) {expected}\n"


@pytest.fixture
def library(tmp_path, monkeypatch):
    """The place of a wheel's library, with nothing opened before."""
    monkeypatch.setattr(prebuilt, "PATH", tmp_path / "libefficientad.so")
    for function in (layers._library, layers.is_available, native.warn_once):
        function.cache_clear()
    yield prebuilt.PATH
    layers._library.cache_clear()
    layers.is_available.cache_clear()


def test_a_wheel_s_library_is_used_without_a_compiler(library, monkeypatch):
    if native._compiler() is None:
        pytest.skip("needs a C++ compiler to make one")
    header = library.with_name("layers_matrices.h")
    header.write_text(cook_toom.matrices_header())
    options = ("-O1", "-std=c++17", "-fPIC", "-shared", "-DISA=_plain")
    command = ["g++", *options, f"-I{header.parent}", str(SOURCE), "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.setattr(prebuilt, "best_instruction_set", lambda _: "plain")
    monkeypatch.setattr(native, "_compiler", lambda: None)

    assert layers.is_available()
    assert layers._loaded().instruction_set == "plain"


FOREIGN = Path(str(sys.modules["numpy._core._multiarray_umath"].__file__))


@pytest.mark.parametrize("content", [b"not a library", FOREIGN.read_bytes()])
def test_a_broken_or_foreign_library_is_told_and_replaced(library, caplog, content):
    library.write_bytes(content)

    functions = layers._library()

    assert functions is None or functions.instruction_set == "native"
    assert "the wheel's native layers unavailable" in caplog.text
