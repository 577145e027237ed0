"""The figure of a teacher, with networks of random weights."""

from pathlib import Path

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
def teacher(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("teacher") / "t.safetensors"
    facts = {"n_steps": 7, "explained_variance": 0.5}
    save_teacher(PatchDescriptionNetwork("small"), facts, path)
    return path


def test_a_figure_that_cannot_be_drawn_is_one_line(teacher, resnet18, tmp_path, capsys):
    code = teacher_figure.main(
        [
            *("--source", str(resnet18), "--teacher", str(teacher)),
            *("--size", "medium", "--numbers", "0"),
            *("--output", str(tmp_path / "f.png"), "--results", str(tmp_path)),
        ]
    )

    assert code == 2
    assert "small" in capsys.readouterr().err


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


@pytest.mark.slow
def test_the_figure_is_drawn_and_recorded(teacher, resnet18, tmp_path, capsys):
    arguments = [
        *("--source", str(resnet18), "--teacher", str(teacher)),
        *("--numbers", "0", "2"),
        *("--output", str(tmp_path / "f.png"), "--results", str(tmp_path)),
    ]

    assert teacher_figure.main(arguments) == 0

    run = read_run(Path(capsys.readouterr().out.strip()))
    assert run["metrics"]["teacher_gradient_height"] == 33
    with Image.open(tmp_path / "f.png") as picture:
        assert picture.width > picture.height
