"""The proof's scripts, on drawn parts, two steps and networks of random weights."""

import json

import numpy as np
import pytest
import teacher_figure
import teacher_proof
import torch
from PIL import Image

import efficientad
from efficientad.figures.gradients import box_of, gradient_map
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.synthetic_parts import write_category
from efficientad.training.teachers import save_teacher


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_category(
        folder / "parts", n_train=10, n_test_good=2, n_per_defect=1, seed=0, size=64
    )
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


@pytest.mark.slow
def test_each_teacher_is_judged_once(data, teacher, tmp_path, monkeypatch, capsys):
    arguments = [
        *("--data", str(data), "--categories", "parts", "--seeds", "3"),
        *("--steps", "2", "--results", str(tmp_path), "--untrained"),
        *("--teacher", f"small, 10 %={teacher}"),
    ]
    assert teacher_proof.main(arguments) == 0
    runs = [json.loads(path.read_text()) for path in sorted(tmp_path.iterdir())]

    assert [run["variant"] for run in runs] == ["small, 10 %", "small, untrained"]
    assert {run["category"] for run in runs} == {"parts"}
    assert all(0 <= run["metrics"]["image_au_roc"] <= 1 for run in runs)
    assert runs[0]["teacher"]["n_steps"] == 7
    assert runs[0]["teacher"]["hash"] != runs[1]["teacher"]["hash"]
    monkeypatch.setattr(efficientad, "train", lambda *_: pytest.fail("done again"))
    assert teacher_proof.main(arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_sources_and_reductions_get_equal_budgets(data, tmp_path, monkeypatch):
    made = []

    def distil(images, config, *, output):
        assert images == data / "natural_images"
        config.feature_cache.mkdir(parents=True)
        output.touch()
        made.append((config.source, config.reduction, config.steps, config.n_images))

    monkeypatch.setattr(efficientad, "distill", distil)
    options = teacher_proof.parsed(
        [
            *("--data", str(data), "--distil", str(tmp_path)),
            *("--source", "a.safetensors", "--source", "mobilenet-v2"),
            *("--reduction", "mean", "--reduction", "pca"),
        ]
    )
    candidates = list(teacher_proof.distilled(options))
    again = list(teacher_proof.distilled(options))

    assert [c.variant for c in candidates] == [
        "a, mean, 400 steps",
        "a, pca, 400 steps",
        "mobilenet-v2, mean, 400 steps",
        "mobilenet-v2, pca, 400 steps",
    ]
    assert again == candidates
    assert len(made) == 4
    assert {budget[2:] for budget in made} == {(400, 800)}
    assert not list(tmp_path.glob("*.features"))


def test_a_teacher_that_is_not_there_is_one_line(data, tmp_path, capsys):
    code = teacher_proof.main(
        [
            *("--data", str(data), "--categories", "parts", "--results", str(tmp_path)),
            *("--teacher", f"x={tmp_path / 'gone.safetensors'}"),
        ]
    )

    assert code == 2
    assert "gone.safetensors" in capsys.readouterr().err


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


def test_the_figure_has_a_row_for_each_image():
    tiles = [np.zeros((8, 8, 3), np.uint8)] * 5

    page = teacher_figure.figure([tiles, tiles])

    assert page.size == (5 * 166 - 6, 18 + 2 * 166 - 6)
