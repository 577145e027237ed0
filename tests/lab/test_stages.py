"""Frozen backbones of other methods, out of files with random weights."""

import pickle

import pytest
import torch

from efficientad.distillation.source_networks import open_source_network
from efficientad.distillation.weights_reader import Weights, read_weights
from efficientad.errors import ModelFileError
from efficientad.model_files.teachers import load_teacher
from efficientad_lab.methods import architectures
from efficientad_lab.methods.stages import Stages, open_stages

pytestmark = pytest.mark.usefixtures("one_thread")

PARTS = ("weight", "bias", "running_mean", "running_var")


class Ones(dict[str, torch.Tensor]):
    """Weights of ones that take no memory, under the published names."""

    def convolution(self, name, *shape):
        self[f"{name}.weight"] = torch.ones(()).expand(shape)

    def norm(self, name, n):
        self.update({f"{name}.{part}": torch.ones(()).expand(n) for part in PARTS})

    def weights(self, tmp_path):
        return Weights(tmp_path / "network.safetensors", self, {})


def densenet201(dot=""):
    ones, n = Ones(), 64
    ones.convolution("features.conv0", 64, 3, 7, 7)
    ones.norm("features.norm0", 64)
    for block, n_layers in enumerate((6, 12, 48, 32), start=1):
        for layer in range(1, n_layers + 1):
            at = f"features.denseblock{block}.denselayer{layer}"
            ones.norm(f"{at}.norm{dot}1", n)
            ones.convolution(f"{at}.conv{dot}1", 128, n, 1, 1)
            ones.norm(f"{at}.norm{dot}2", 128)
            ones.convolution(f"{at}.conv{dot}2", 32, 128, 3, 3)
            n += 32
        if block < 4:
            ones.norm(f"features.transition{block}.norm", n)
            ones.convolution(f"features.transition{block}.conv", n // 2, n, 1, 1)
            n //= 2
    return ones


def efficientnet_b5():
    ones, n_in = Ones(), 48
    ones.convolution("features.0.0", 48, 3, 3, 3)
    ones.norm("features.0.1", 48)
    plan = [(3, 24, 3), (3, 40, 5), (5, 64, 5), (3, 128, 7), (5, 176, 7), (5, 304, 9)]
    for stage, (kernel, n_out, n_blocks) in enumerate(plan, start=1):
        for block in range(n_blocks):
            at, n = f"features.{stage}.{block}.block", n_in * (1 if stage == 1 else 6)
            shapes = [(n, 1, kernel, kernel), None, (n_out, n, 1, 1)]
            if stage > 1:
                shapes.insert(0, (n, n_in, 1, 1))
            for index, shape in enumerate(shapes):
                if shape is not None:
                    ones.convolution(f"{at}.{index}.0", *shape)
                    ones.norm(f"{at}.{index}.1", shape[0])
                    continue
                for name, sizes in (("fc1", (n_in // 4, n)), ("fc2", (n, n_in // 4))):
                    ones.convolution(f"{at}.{index}.{name}", *sizes, 1, 1)
                    ones[f"{at}.{index}.{name}.bias"] = torch.ones(()).expand(sizes[0])
            n_in = n_out
    return ones


def resnext101():
    ones, n_in = Ones(), 64
    ones.convolution("conv1", 64, 3, 7, 7)
    ones.norm("bn1", 64)
    for layer, n_blocks in enumerate((3, 4, 23), start=1):
        inner, outer = 128 * 2**layer, 128 * 2**layer
        for block in range(n_blocks):
            at = f"layer{layer}.{block}"
            shapes = [(inner, n_in, 1, 1), (inner, inner // 32, 3, 3)]
            for index, shape in enumerate([*shapes, (outer, inner, 1, 1)], start=1):
                ones.convolution(f"{at}.conv{index}", *shape)
                ones.norm(f"{at}.bn{index}", shape[0])
            if block == 0:
                ones.convolution(f"{at}.downsample.0", outer, n_in, 1, 1)
                ones.norm(f"{at}.downsample.1", outer)
            n_in = outer
    return ones


def resnet18_with_layer4():
    ones, n_in = Ones(), 64
    ones.convolution("conv1", 64, 3, 7, 7)
    ones.norm("bn1", 64)
    for layer, n in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            at = f"layer{layer}.{block}"
            for index in (1, 2):
                ones.convolution(f"{at}.conv{index}", n, n_in, 3, 3)
                ones.norm(f"{at}.bn{index}", n)
                if index == 1 and n_in != n:
                    ones.convolution(f"{at}.downsample.0", n, n_in, 1, 1)
                    ones.norm(f"{at}.downsample.1", n)
                n_in = n
    return ones


def mobilenet_v2():
    ones, n_in, index = Ones(), 32, 1
    ones.convolution("features.0.0", 32, 3, 3, 3)
    ones.norm("features.0.1", 32)
    plan = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3)]
    for wide, n_out, n_blocks in [*plan, (6, 320, 1)]:
        for _ in range(n_blocks):
            at, n = f"features.{index}.conv", wide * n_in
            shapes = [(n, n_in, 1, 1)] * (wide > 1) + [(n, 1, 3, 3)]
            for place, shape in enumerate(shapes):
                ones.convolution(f"{at}.{place}.0", *shape)
                ones.norm(f"{at}.{place}.1", n)
            ones.convolution(f"{at}.{len(shapes)}", n_out, n, 1, 1)
            ones.norm(f"{at}.{len(shapes) + 1}", n_out)
            n_in, index = n_out, index + 1
    return ones


@pytest.mark.parametrize(
    ("make", "architecture", "channels"),
    [
        (densenet201, "densenet201", {4: 256, 8: 512, 16: 1792}),
        (lambda: densenet201("."), "densenet201", {8: 512, 16: 1792}),
        (efficientnet_b5, "efficientnet_b5", {4: 40, 8: 64, 16: 176, 32: 304}),
        (resnext101, "resnext101_32x8d", {4: 256, 8: 512, 16: 1024}),
        (resnet18_with_layer4, "resnet18", {4: 64, 8: 128, 16: 256, 32: 512}),
        (mobilenet_v2, "mobilenet-v2", {4: 24, 8: 32, 16: 96, 32: 160}),
    ],
)
def test_stages_of_a_network_have_their_strides(make, architecture, channels, tmp_path):
    stages = Stages(make().weights(tmp_path), tuple(channels))

    found = stages(torch.rand(1, 3, 96, 64))

    assert stages.architecture == architecture
    assert [tuple(grid.shape) for grid in found] == [
        (1, n, 96 // stride, 64 // stride) for stride, n in channels.items()
    ]


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def test_densenet_has_as_many_parameters_as_published(tmp_path):
    layers = architectures.densenet201(densenet201().weights(tmp_path))
    rest = [architectures._DenseLayer(896 + 32 * i) for i in range(32)]
    others = 2 * 1792 + 1792 * 896 + 2 * 1920 + 1920 * 1000 + 1000

    assert count(*layers, *rest) + others == 20_013_928


def test_efficientnet_b5_has_as_many_parameters_as_published(tmp_path):
    layers = architectures.efficientnet_b5(efficientnet_b5().weights(tmp_path))
    rest = [architectures._InvertedBlock(n, 512, 3, 1, 6) for n in (304, 512, 512)]
    others = 512 * 2048 + 2 * 2048 + 2048 * 1000 + 1000

    assert count(*layers, *rest) + others == 30_389_784


def test_padding_is_that_of_tensorflow():
    """For an even length, stride 2 and kernel 3: nothing before, one zero after."""
    padded = architectures._SamePadding(1, 1, 3, 2, bias=False)
    torch.nn.init.ones_(padded.weight)

    found = padded(torch.eye(4)[None, None])

    assert found[0, 0].tolist() == [[3, 1], [1, 2]]


def test_the_stages_of_a_resnet_are_those_of_distillation(resnet18):
    images = torch.rand(1, 3, 64, 64)
    fine, coarse = open_source_network(resnet18).stages(images)

    found = open_stages(resnet18, (4, 8, 16))(images)

    torch.testing.assert_close(found[1:], [fine, coarse])
    assert tuple(found[0].shape) == (1, 64, 16, 16)


def test_a_teacher_is_a_backbone():
    images = torch.rand(1, 3, 64, 64)

    fine, coarse = open_stages("pdn-small", (4, 8))(images)

    torch.testing.assert_close(fine, load_teacher("small")(images, padded=True))
    torch.testing.assert_close(coarse, torch.nn.functional.avg_pool2d(fine, 2))


def test_stages_stay_frozen_and_keep_their_weights(resnet18):
    stages = open_stages(resnet18, (8, 16)).train()
    again = Stages(stages.weights, (8, 16))

    assert not stages.training
    assert not any(p.requires_grad for p in stages.parameters())
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(again(images), stages(images))


def test_a_stride_that_a_backbone_lacks_is_refused():
    with pytest.raises(ModelFileError, match=r"needs stages of stride \[16\], pdn-sm"):
        open_stages("pdn-small", (8, 16))


def test_weights_of_another_network_are_refused(tmp_path):
    other = Ones({"encoder.weight": torch.ones(3)}).weights(tmp_path)

    with pytest.raises(ModelFileError, match="holds no ResNet, MobileNetV2"):
        Stages(other, (8, 16))


def test_a_backbone_file_with_code_is_refused(tmp_path):
    path = tmp_path / "code.pth"
    path.write_bytes(pickle.dumps(print, protocol=2))

    with pytest.raises(ModelFileError):
        open_stages(path, (8, 16))


def test_a_layer_of_another_shape_is_refused(tmp_path):
    ones = densenet201()
    ones.norm("features.norm0", 32)

    with pytest.raises(ModelFileError, match=r"features.norm0.weight needs shape"):
        Stages(ones.weights(tmp_path), (8, 16))


def test_a_classifier_is_not_kept(resnet18):
    weights = read_weights(resnet18)
    with_classifier = Weights(
        weights.path, {**weights.tensors, "fc.weight": torch.ones(10, 4)}, {}
    )

    assert "fc.weight" not in Stages(with_classifier, (8, 16)).weights
