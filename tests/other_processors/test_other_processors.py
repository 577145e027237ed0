"""The native sources on processors that this machine does not have.

Built by a cross compiler and, where an emulator is at hand, run: on Debian
`apt install g++-aarch64-linux-gnu qemu-user`. Skipped where they are missing.
"""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

import efficientad
from efficientad.kernels import cook_toom, layers, winograd

SOURCES = Path(layers.__file__).parent
HARNESS = Path(__file__).with_name("one_layer.cpp")
FLAGS = ("-O2", "-std=c++17", "-fopenmp", "-fPIC")
ARM = "aarch64-linux-gnu-g++"
# Compiler, its options, what runs the result, and the channels of a packed panel.
RUNNABLE = {
    "x86-64 without AVX": ("g++", ("-march=x86-64",), (), 16),
    "aarch64": (ARM, ("-march=armv8-a", "-static"), ("qemu-aarch64",), 16),
}
BUILDABLE = {
    "AVX-512": ("g++", "-march=x86-64-v4"),
    "AVX-512 with bf16": ("g++", "-march=cooperlake"),
    "AVX2": ("g++", "-march=x86-64-v3"),
    "aarch64": (ARM, "-march=armv8-a"),
    "aarch64 with SVE": (ARM, "-march=armv8.2-a+sve"),
}
# Outputs of a tile, taps, and whether along x only.
FORMS = [
    *((*form, False) for form in cook_toom.FORMS),
    *((*form, True) for form in layers.FLAT_FORMS),
    (None, 3, False),
]


def build(compiler, arguments, folder):
    if shutil.which(compiler) is None:
        pytest.skip(f"needs the compiler {compiler}")
    (folder / "layers_matrices.h").write_text(cook_toom.matrices_header())
    (folder / "winograd_matrices.h").write_text(winograd.matrices_header())
    command = [compiler, *FLAGS, *arguments, f"-I{folder}", f"-I{SOURCES}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized" in done.stderr or "bad value" in done.stderr:
        pytest.skip(f"{compiler} does not know this processor")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source", ["layers", "winograd"])
@pytest.mark.parametrize("processor", BUILDABLE)
def test_the_sources_compile(processor, source, tmp_path):
    if "bf16" in processor and source == "winograd":
        pytest.skip("has no code for bf16")
    compiler, option = BUILDABLE[processor]
    library = tmp_path / "library.so"

    build(
        compiler,
        (option, "-shared", str(SOURCES / f"{source}.cpp"), "-o", str(library)),
        tmp_path,
    )

    assert library.stat().st_size > 0


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Build the harness for a processor, once."""
    built = {}

    def program(processor):
        if processor not in built:
            compiler, options, _, _ = RUNNABLE[processor]
            folder = tmp_path_factory.mktemp("program")
            build(
                compiler,
                (*options, str(HARNESS), "-o", str(folder / "one_layer")),
                folder,
            )
            built[processor] = folder / "one_layer"
        return built[processor]

    return program


@pytest.mark.parametrize("finish", ["store", "pool", "mean_square"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("processor", RUNNABLE)
def test_layers_give_the_same_numbers(
    processor, form, finish, programs, monkeypatch, tmp_path
):
    tile, kernel, flat = form
    if finish == "pool" and tile == 7:
        pytest.skip("a tile of 7 does not pool")
    if finish == "mean_square" and flat:
        pytest.skip("a flat tile has no sums over channels")
    *_, emulator, panel = RUNNABLE[processor]
    if emulator and shutil.which(emulator[0]) is None:
        pytest.skip(f"needs the emulator {emulator[0]}")
    program = programs(processor)
    monkeypatch.setattr(
        layers,
        "_loaded",
        lambda: SimpleNamespace(lanes=lambda: 8, panel=lambda: panel),
    )
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 16, 19, 22, generator=generator)
    weight = torch.randn(32, 16, kernel, kernel, generator=generator)
    bias = torch.randn(32, generator=generator)

    actual = computed(
        [*emulator, str(program)],
        image,
        layers.convolution(
            weight.double().numpy(),
            bias.double().numpy(),
            tile=tile,
            flat=flat,
            padding=1,
            finish=finish,
            is_packed=False,
        ),
        tmp_path,
    )

    expected = functional.conv2d(image.double(), weight.double(), bias.double(), 1, 1)
    if finish == "pool":
        expected = functional.avg_pool2d(expected, 2)
    elif finish == "mean_square":
        expected = expected.square().mean(1, keepdim=True)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() < 2e-3 * expected.std()


@pytest.mark.slow
@pytest.mark.parametrize("processor", RUNNABLE)
def test_the_c_interface_gives_the_same_numbers(
    processor, make_detector, calibrated, photograph, tmp_path
):
    if not layers.is_available():
        pytest.skip("needs the native layers to export")
    compiler, options, emulator, _ = RUNNABLE[processor]
    if emulator and shutil.which(emulator[0]) is None:
        pytest.skip(f"needs the emulator {emulator[0]}")
    program, harness = tmp_path / "one_image", HARNESS.with_name("one_image.cpp")
    sources = (SOURCES / "detector.cpp", SOURCES / "layers.cpp", harness)
    more = ("-DEFFICIENTAD_NATIVE", "-ffp-contract=off", "-pthread")
    build(compiler, (*options, *more, *map(str, sources), "-o", str(program)), tmp_path)
    predictor, image = calibrated(make_detector("small", 32, 32)), photograph(60, 90)
    efficientad.export(predictor, tmp_path / "part.native")
    (tmp_path / "pixels").write_bytes(image.tobytes())

    files = ("part.native", "pixels", "60", "90", "output")
    command = [*emulator, str(program), *files]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=600)

    score, *values = np.fromfile(tmp_path / "output", np.float32)
    expected = predictor.predict(image)
    assert score == pytest.approx(expected.image_score, rel=1e-4)
    found = np.reshape(values, (60, 90))
    np.testing.assert_allclose(found, expected.anomaly_map, atol=1e-4)


def computed(command, image, layer, folder):
    """Run the program on the layer."""
    n, n_in, height, width = image.shape
    size = layer.output_size(height, width)
    finish = layers.FINISHES.index(layer.finish)
    head = [layer.kernel, layer.stride, layer.padding, layer.relu, finish]
    head += [layer.tile or 0, layer.flat, n, height, width, n_in, *size, layer.n_out]
    grid = image.permute(0, 2, 3, 1).contiguous()
    with (folder / "layer").open("wb") as file:
        file.write(np.array(head, np.int64).tobytes())
        for array in (layer.weights, layer.bias, grid.numpy()):
            file.write(array.tobytes())
    files = [str(folder / "layer"), str(folder / "output")]
    subprocess.run([*command, *files], check=True, timeout=120)
    output = torch.from_numpy(np.fromfile(files[1], np.float32))
    return output.view(n, *size, -1).permute(0, 3, 1, 2).double()
