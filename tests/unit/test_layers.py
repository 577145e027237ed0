"""Fused native layers against the direct convolution in double precision."""

import os
import shutil
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from efficientad import storage
from efficientad.kernels import cook_toom, layers, native

needs_compiler = pytest.mark.skipif(
    not layers.is_available(), reason="needs a C++ compiler for the native layers"
)
# Largest error as a share of the output's standard deviation, on positive inputs, which
# are the harder ones. Products of plain float32 are at about 1e-5.
BOUNDS = {(6, 3): 1e-3, (6, 4): 2e-3, (7, 4): 2e-3, (8, 4): 8e-3, None: 5e-5}
FLAT_BOUND = 1e-4
# Each factor is rounded to 8 bits: the errors of a sum of many add up slowly.
BF16_BOUND = 3e-2
FORMS = [*cook_toom.FORMS, None]
every_form = pytest.mark.parametrize(
    ("form", "flat"),
    [*((form, False) for form in FORMS), *((form, True) for form in layers.FLAT_FORMS)],
)


@pytest.mark.parametrize(("n_outputs", "n_taps"), cook_toom.FORMS)
def test_the_matrices_give_the_exact_correlation(n_outputs, n_taps):
    output, taps, inputs = cook_toom.transforms(n_outputs, n_taps)
    signal = [Fraction(3 * i * i - 7 * i + 2) for i in range(n_outputs + n_taps - 1)]
    kernel = [Fraction(i * i + 1, 3) for i in range(n_taps)]

    direct = [
        sum(signal[i + k] * kernel[k] for k in range(n_taps)) for i in range(n_outputs)
    ]

    products = [
        dot(g, kernel) * dot(b, signal) for g, b in zip(taps, inputs, strict=True)
    ]
    assert [dot(row, products) for row in output] == direct


@pytest.mark.parametrize(("n_outputs", "n_taps"), cook_toom.FORMS)
def test_pairs_of_points_share_their_work(n_outputs, n_taps):
    """The halves with sums and differences are the same matrices, with more zeros."""
    output, _, inputs = cook_toom.transforms(n_outputs, n_taps)

    half_output, half_inputs = cook_toom.halved(output, inputs)

    for a in range(1, len(inputs) - 2, 2):
        b = a + 1
        for x, y, plus, minus in zip(
            half_inputs[a], half_inputs[b], inputs[a], inputs[b], strict=True
        ):
            assert (x + y, x - y) == (plus, minus)
        for half, row in zip(half_output, output, strict=True):
            assert (half[a] + half[b], half[a] - half[b]) == (row[a], row[b])
            assert 0 in {half[a], half[b]}


def dot(one, other):
    return sum(x * y for x, y in zip(one, other, strict=True))


def packed(weight, bias, **settings_of_layer):
    """A native layer of PyTorch's weights."""
    doubles = weight.double().numpy(), bias.double().numpy()
    return layers.convolution(*doubles, **settings_of_layer)


def call(layer, *grids):
    """A call of a layer that reads and writes PyTorch's memory."""
    return layers.Call(layer, *(grid.numpy() for grid in grids))


def computed(image, weight, bias, *, finish="store", n_threads=None, **settings):
    """The native layer on an image in PyTorch's layout, whatever its channels."""
    layer = packed(weight, bias, finish=finish, **settings)
    n, n_in, height, width = image.shape
    grid = torch.zeros(n, height, width, layer.n_in)
    grid[..., :n_in] = image.permute(0, 2, 3, 1)
    channels = 1 if finish == "mean_square" else layer.n_out
    size = layer.output_size(height, width)
    output = torch.full((n, *size, channels), torch.nan)
    layers.run([call(layer, grid, output)], n_threads)
    return output[..., : len(weight)].permute(0, 3, 1, 2)


def expected(
    image, weight, bias, *, stride=1, padding=0, relu=False, finish="store", **_
):
    """The same in double precision, and the deviation that errors are measured by."""
    image, weight, bias = image.double(), weight.double(), bias.double()
    result = functional.conv2d(image, weight, bias, stride=stride, padding=padding)
    deviation = result.std()
    if relu:
        result = result.relu()
    if finish == "pool":
        result = functional.avg_pool2d(result, 2, 2)
    if finish == "mean_square":
        deviation = result.square().mean()
        result = result.square().mean(1, keepdim=True)
    return result, deviation


def drawn(seed, n, channels, kernel, size):
    generator = torch.Generator().manual_seed(seed)
    n_in, n_out = channels
    image = torch.randn(n, n_in, *size, generator=generator).abs()
    weight = torch.randn(n_out, n_in, kernel, kernel, generator=generator)
    return image, weight / kernel, torch.randn(n_out, generator=generator)


def error_of(arguments, **settings_of_layer):
    actual = computed(*arguments, **settings_of_layer)
    exact, deviation = expected(*arguments, **settings_of_layer)
    assert actual.shape == exact.shape
    return ((actual - exact).abs().max() / deviation).item()


@needs_compiler
@settings(max_examples=60)
@given(
    form=st.sampled_from(FORMS),
    n=st.integers(1, 3),
    size=st.tuples(st.integers(5, 29), st.integers(5, 29)),
    channels=st.tuples(
        st.sampled_from([1, 3, 8, 20, 64, 130]), st.sampled_from([1, 16, 33, 64, 96])
    ),
    padding=st.integers(0, 2),
    after=st.tuples(st.booleans(), st.sampled_from(["store", "pool"])),
    seed=st.integers(0, 99),
)
def test_winograd_layers_equal_the_direct_convolution(
    form, n, size, channels, padding, after, seed
):
    tile, kernel = form or (None, 3)
    relu, finish = after
    finish = finish if tile is None or tile % 2 == 0 else "store"
    arguments = drawn(seed, n, channels, kernel, size)

    error = error_of(arguments, tile=tile, padding=padding, relu=relu, finish=finish)

    assert error < BOUNDS[form]


@needs_compiler
@every_form
def test_what_is_not_a_number_stays_so_through_relu(form, flat):
    tile, kernel = form or (None, 3)
    image, weight, bias = drawn(1, 1, (8 if flat else 64, 32), kernel, (20, 20))
    image[0, 0, 9, 9] = torch.nan

    found = computed(image, weight, bias, tile=tile, flat=flat, relu=True)

    assert found.isnan().any()


@needs_compiler
@settings(max_examples=60)
@given(
    form=st.sampled_from(layers.FLAT_FORMS),
    n=st.integers(1, 3),
    size=st.tuples(st.integers(5, 41), st.integers(5, 41)),
    channels=st.tuples(
        st.sampled_from([1, 3, 8, 20]), st.sampled_from([1, 16, 33, 96])
    ),
    padding=st.integers(0, 2),
    after=st.tuples(st.booleans(), st.sampled_from(["store", "pool"])),
    seed=st.integers(0, 99),
)
def test_flat_winograd_layers_equal_the_direct_convolution(
    form, n, size, channels, padding, after, seed
):
    tile, kernel = form
    relu, finish = after
    arguments = drawn(seed, n, channels, kernel, size)

    error = error_of(
        arguments, tile=tile, flat=True, padding=padding, relu=relu, finish=finish
    )

    assert error < FLAT_BOUND


@needs_compiler
def test_a_flat_layer_reads_and_writes_parts_of_grids():
    """A window of a larger grid in, some channels of a wider one out."""
    image, weight, bias = drawn(7, 2, (3, 32), 4, (31, 29))
    grid = torch.full((2, 35, 33, 5), torch.nan)
    grid[:, 2:33, 1:30, 1:4] = image.permute(0, 2, 3, 1)
    output = torch.zeros(2, 14, 13, 96)
    layer = packed(weight, bias, tile=6, flat=True, finish="pool")

    layers.run([call(layer, grid[:, 2:33, 1:30, 1:4], part := output[..., 32:64])])

    exact, deviation = expected(image, weight, bias, finish="pool")
    assert (part.permute(0, 3, 1, 2) - exact).abs().max() < FLAT_BOUND * deviation
    part.zero_()
    assert torch.equal(output, torch.zeros(2, 14, 13, 96))


@needs_compiler
@settings(max_examples=25)
@given(
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    size=st.tuples(st.integers(5, 20), st.integers(5, 20)),
    n_in=st.integers(1, 40),
    n_out=st.integers(1, 70),
    seed=st.integers(0, 99),
)
def test_layers_of_patches_equal_the_direct_convolution(
    kernel, stride, padding, size, n_in, n_out, seed
):
    arguments = drawn(seed, 2, (n_in, n_out), kernel, size)

    assert error_of(arguments, stride=stride, padding=padding) < BOUNDS[None]


@needs_compiler
@pytest.mark.parametrize("form", FORMS)
def test_the_mean_of_squares_needs_no_output(form):
    tile, kernel = form or (None, 1)
    arguments = drawn(1, 2, (64, 96), kernel, (24, 31))

    assert error_of(arguments, tile=tile, finish="mean_square") < BOUNDS[form]


@needs_compiler
@every_form
def test_the_number_of_threads_changes_nothing(form, flat):
    tile, kernel = form or (None, 3)
    arguments = drawn(2, 2, (64, 64), kernel, (40, 37))
    results = [
        computed(*arguments, tile=tile, flat=flat, n_threads=n) for n in (1, 2, 3)
    ]

    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@needs_compiler
def test_a_residual_is_added_before_the_squares():
    image, weight, bias = drawn(3, 2, (24, 64), 1, (9, 8))
    residual = torch.randn(2, 9, 8, 64, generator=torch.Generator().manual_seed(4))
    layer = packed(weight, bias, finish="mean_square")
    grid = image.permute(0, 2, 3, 1).contiguous()
    output = torch.empty(2, 9, 8, 1)

    layers.run([call(layer, grid, output, residual)])

    described = functional.conv2d(image, weight, bias).permute(0, 2, 3, 1)
    expected_map = (described + residual).square().mean(-1, keepdim=True)
    torch.testing.assert_close(output, expected_map, rtol=1e-4, atol=1e-4)


@needs_compiler
def test_layers_side_by_side_share_grids():
    """Two layers read and write halves of the channels of common grids."""
    image, weight, bias = drawn(5, 1, (64, 64), 3, (20, 20))
    grid = image.permute(0, 2, 3, 1).contiguous()
    output = torch.zeros(1, 20, 20, 96)
    halves = [
        packed(weight[part, source], bias[part], tile=6)
        for part, source in (
            (slice(0, 32), slice(0, 32)),
            (slice(32, 64), slice(32, 64)),
        )
    ]

    layers.run(
        [
            call(halves[0], grid[..., :32], output[:, 1:19, 1:19, :32]),
            call(halves[1], grid[..., 32:], output[:, 1:19, 1:19, 64:]),
        ]
    )

    exact = functional.conv2d(
        image, torch.cat([weight[:32, :32], weight[32:, 32:]]), bias, groups=2
    ).permute(0, 2, 3, 1)
    inner = output[:, 1:19, 1:19]
    torch.testing.assert_close(inner[..., :32], exact[..., :32], rtol=0, atol=1e-3)
    torch.testing.assert_close(inner[..., 64:], exact[..., 32:], rtol=0, atol=1e-3)
    inner.zero_()
    assert torch.equal(output[..., :32], torch.zeros(1, 20, 20, 32))
    assert torch.equal(output[..., 32:64], torch.zeros(1, 20, 20, 32))


@needs_compiler
@settings(max_examples=20)
@given(size=st.integers(1, 20), other=st.integers(1, 40), n=st.integers(1, 2))
def test_resizing_is_pytorchs(size, other, n):
    generator = torch.Generator().manual_seed(size)
    image = torch.randn(n, 32, size, size + 1, generator=generator)
    output = torch.empty(n, other, other + 2, 32)

    layers.resize(image.permute(0, 2, 3, 1).contiguous().numpy(), output.numpy())

    reference = functional.interpolate(image, (other, other + 2), mode="bilinear")
    torch.testing.assert_close(output.permute(0, 3, 1, 2), reference)


needs_bf16 = pytest.mark.skipif(
    not layers.is_available() or not layers.has_bf16(),
    reason="needs a processor with products in bf16",
)


@needs_bf16
@settings(max_examples=40)
@given(
    n=st.integers(1, 2),
    n_in=st.integers(1, 70).map(lambda half: 2 * half),
    n_out=st.integers(1, 70),
    kernel=st.integers(1, 3),
    size=st.tuples(st.integers(5, 30), st.integers(5, 30)),
    after=st.tuples(st.booleans(), st.sampled_from(["store", "pool"])),
    seed=st.integers(0, 99),
)
def test_bf16_rounds_what_is_multiplied_and_nothing_else(
    n, n_in, n_out, kernel, size, after, seed
):
    relu, finish = after
    image, weight, bias = drawn(seed, n, (n_in, n_out), kernel, size)

    actual = computed(image, weight, bias, relu=relu, finish=finish, bf16=True)

    image, weight = image.bfloat16(), weight.bfloat16()
    exact, deviation = expected(image, weight, bias, relu=relu, finish=finish)
    assert (actual - exact).abs().max() / deviation < BOUNDS[None]


@needs_bf16
def test_bf16_stays_near_the_exact_product():
    image, weight, bias = drawn(4, 1, (512, 64), 1, (20, 20))

    actual = computed(image, weight, bias, bf16=True)

    exact, deviation = expected(image, weight, bias)
    assert (actual - exact).abs().max() / deviation < BF16_BOUND


@needs_compiler
@pytest.mark.parametrize(
    ("tile", "flat", "bound"), [(7, False, BOUNDS[7, 4]), (6, True, FLAT_BOUND)]
)
def test_a_wrong_tap_would_be_noticed(tile, flat, bound):
    """Positive control of the comparison."""
    image, weight, bias = drawn(6, 1, (64, 64), 4, (20, 20))
    exact, deviation = expected(image, weight, bias)
    weight[0, 0, 0, 0] += 0.1

    actual = computed(image, weight, bias, tile=tile, flat=flat)

    assert (actual - exact).abs().max() / deviation > bound


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache folder, and nothing loaded or said before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.warn_once.cache_clear()
    layers._library.cache_clear()
    layers.is_available.cache_clear()
    yield tmp_path
    native.warn_once.cache_clear()
    layers._library.cache_clear()
    layers.is_available.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_without_a_compiler_native_layers_are_not_there(monkeypatch, caplog):
    monkeypatch.setattr(native, "_compiler", lambda: None)

    assert not layers.is_available()
    assert not layers.is_available()

    (warning,) = caplog.messages
    assert "using PyTorch's (no C++ compiler found)" in warning


@pytest.mark.usefixtures("fresh")
def test_a_failing_compiler_is_one_warning(monkeypatch, caplog):
    monkeypatch.setattr(native, "_compiler", lambda: "false")

    assert not layers.is_available()
    assert [message.count("\n") for message in caplog.messages] == [0]


@needs_compiler
def test_a_cache_folder_that_cannot_be_written_is_one_warning(fresh, caplog):
    (fresh / "efficientad").write_text("a file stands where the folder should be")

    assert not layers.is_available()
    assert [message.count("\n") for message in caplog.messages] == [0]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A cache folder with the library."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        native._built("layers", {"layers_matrices.h": cook_toom.matrices_header()})
    return folder / "efficientad"


@pytest.fixture
def builds(built, monkeypatch):
    """The builds from now on, which give that library without its time."""
    found = []
    (library,) = built.glob("*.so")
    output = native._output

    def copied(*command):
        if "-o" not in command:
            return output(*command)
        found.append(command)
        shutil.copy(library, command[-1])
        return ""

    monkeypatch.setattr(native, "_output", copied)
    return found


def cut(path):
    os.truncate(path, 60_000)


def zero_pages(path):
    content = bytearray(path.read_bytes())
    content[8192:12288] = bytes(4096)
    path.write_bytes(content)


def replace_with_text(path):
    path.write_bytes(b"not a library")


def remove_record(path):
    path.with_suffix(".sha256").unlink()


@needs_compiler
@pytest.mark.parametrize("damage", [cut, zero_pages, replace_with_text, remove_record])
def test_a_damaged_binary_is_built_anew(fresh, built, builds, damage, caplog):
    shutil.copytree(built, fresh / "efficientad")
    (library,) = (fresh / "efficientad").glob("layers-*.so")
    whole = library.read_bytes()
    damage(library)

    assert layers.is_available()
    assert library.read_bytes() == whole
    assert len(builds) == 1
    native._built("layers", {"layers_matrices.h": cook_toom.matrices_header()})
    assert len(builds) == 1
    assert not caplog.messages


@needs_compiler
@pytest.mark.usefixtures("builds")
def test_what_a_killed_build_left_is_removed(fresh):
    machine = storage.process_name().partition("-")[0]
    left = fresh / "efficientad" / f".{machine}-1-0.build.partial"
    left.mkdir(parents=True)
    (left / "layers.so").touch()

    assert layers.is_available()
    assert not left.exists()
    assert len(list(left.parent.iterdir())) == 2


@pytest.mark.usefixtures("fresh")
def test_a_compiler_may_speak_another_encoding(tmp_path, monkeypatch, caplog):
    compiler = tmp_path / "c++"
    compiler.write_bytes(
        "#!/bin/sh\necho 'Übersetzer 1.0'\necho 'unmöglich' >&2\n".encode("latin-1")
        + b"[ $1 = --version ]\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setattr(native, "_compiler", lambda: str(compiler))

    assert not layers.is_available()
    assert r"using PyTorch's (unm\xf6glich)" in caplog.text


def test_without_a_home_folder_native_layers_are_not_there(fresh, monkeypatch, caplog):
    monkeypatch.chdir(fresh)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")  # a user whom the system does not know
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)

    assert not layers.is_available()
    assert "needs a home folder, this user has none; set XDG_CACHE_" in caplog.text
    assert not list(fresh.iterdir())


@pytest.mark.parametrize("home", ["", "relative"])
def test_a_home_that_is_no_folder_is_ignored(monkeypatch, home):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", home)

    assert native.cache_folder().is_absolute()
    assert native.cache_folder().name == "efficientad"


def test_a_relative_cache_folder_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert native.cache_folder() == tmp_path / ".cache" / "efficientad"


@needs_compiler
def test_a_library_with_wrong_numbers_is_not_used(fresh, monkeypatch, caplog):
    header = cook_toom.matrices_header().replace("0.5f", "0.25f")
    monkeypatch.setattr(layers, "matrices_header", lambda: header)

    assert not layers.is_available()
    assert "they give wrong numbers here" in caplog.text
    assert list((fresh / "efficientad").glob("layers-*.so"))


@needs_compiler
@pytest.mark.usefixtures("fresh", "builds")
def test_a_binary_of_another_processor_is_not_taken(monkeypatch):
    header = {"layers_matrices.h": cook_toom.matrices_header()}
    here = native._built("layers", header)
    monkeypatch.setattr(native, "processor", lambda: "another one")

    assert native._built("layers", header) != here
