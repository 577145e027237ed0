"""The figure of a teacher, with networks of random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import efficientad
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.model_files.teachers import save_teacher
from efficientad_lab.figures.gradients import box_of, gradient_map
from efficientad_lab.studies.records import read_run
from lab.experiments.teacher_figure import run as teacher_figure


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "natural_images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 256, (40, 48, 3), np.uint8)
        path = folder / "natural_images" / f"{number}.png"
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("teacher") / "t.safetensors"
    facts = {"n_steps": 7, "explained_variance": 0.5}
    save_teacher(PatchDescriptionNetwork("small"), facts, path)
    return path


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--numbers", "0", "3"], "numbered from 0 to 2, number 3 was asked for"),
        (["--size", "medium"], "small"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_one_line(
    data, teacher, resnet18, tmp_path, capsys, options, words
):
    code = teacher_figure.main(
        [
            *("--images", str(data / "natural_images"), "--source", str(resnet18)),
            *("--teacher", str(teacher), "--numbers", "0", *options),
            *("--output", str(tmp_path / "f.png"), "--results", str(tmp_path)),
        ]
    )

    assert code == 2
    assert words in capsys.readouterr().err


def test_the_gradient_of_one_descriptor_ends_after_33_pixels(teacher):
    network = efficientad.load_teacher("small", teacher).double()
    images = torch.randn(1, 3, 97, 97, dtype=torch.float64)

    gradient = gradient_map(network, images)

    assert box_of(gradient) == (33, 33)
    assert teacher_figure.share_outside(gradient, 33) == pytest.approx(0, abs=1e-6)
    assert teacher_figure.share_outside(gradient, 17) > 0.1
    wide = torch.nn.functional.avg_pool2d
    spread = gradient_map(lambda x: wide(x, 5, 4).repeat(1, 128, 1, 1), images)
    assert box_of(spread) == (5, 5)


def test_the_figure_is_drawn_and_recorded(data, teacher, resnet18, tmp_path, capsys):
    arguments = [
        *("--images", str(data / "natural_images"), "--source", str(resnet18)),
        *("--teacher", str(teacher), "--numbers", "0", "2"),
        *("--output", str(tmp_path / "f.png"), "--results", str(tmp_path)),
    ]

    assert teacher_figure.main(arguments) == 0

    run = read_run(Path(capsys.readouterr().out.strip()))
    assert run["metrics"]["teacher_gradient_height"] == 33
    with Image.open(tmp_path / "f.png") as picture:
        assert picture.width > picture.height
