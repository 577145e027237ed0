"""The proof's scripts, on drawn parts, two steps and networks of random weights."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import teacher_figure
import teacher_half
import teacher_proof
import torch
from PIL import Image

import efficientad
from efficientad.demo_parts import write_category
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.model_files.teachers import save_teacher
from efficientad_lab.figures.gradients import box_of, gradient_map


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


@pytest.fixture
def untrained_detectors(monkeypatch):
    """What would be trained, without training it: the settings of each."""
    trained = []
    judged = SimpleNamespace(metrics={"image_au_roc": 0.5})
    monkeypatch.setattr(efficientad, "train", lambda _, config: trained.append(config))
    monkeypatch.setattr(efficientad, "evaluate", lambda *_: judged)
    return trained


@pytest.fixture
def proof(data, teacher, tmp_path):
    """Arguments for one run, and the folder of its record."""
    arguments = [
        *("--data", str(data), "--categories", "parts", "--seeds", "3"),
        *("--steps", "2", "--results", str(tmp_path)),
    ]
    return [*arguments, "--teacher", f"small, 10 %={teacher}"], tmp_path


def test_a_run_tells_the_recipe_and_the_weights_it_depends_on(
    proof, untrained_detectors
):
    arguments, folder = proof
    assert teacher_proof.main(arguments) == 0

    [path] = folder.iterdir()
    run = json.loads(path.read_text())
    assert run["settings"]["recipe"]["steps"] == 2
    assert run["settings"]["recipe"]["quick"]["penalty_weight"] > 0
    assert len(run["settings"]["teacher_weights"]) == 64
    assert len(untrained_detectors) == 1


@pytest.mark.usefixtures("untrained_detectors")
def test_a_run_of_other_settings_is_refused(proof, capsys):
    arguments, folder = proof
    assert teacher_proof.main(arguments) == 0
    [path] = folder.iterdir()
    before = path.read_bytes()

    assert teacher_proof.main([*arguments, "--steps", "3"]) == 2

    sentence = capsys.readouterr().err
    assert f"{path} was recorded with other settings than those asked for" in sentence
    assert "(recipe, steps); remove it, or give another folder of results" in sentence
    assert len(sentence.splitlines()) == 1
    assert path.read_bytes() == before


@pytest.mark.usefixtures("untrained_detectors")
def test_a_run_of_another_teacher_is_refused(proof, tmp_path_factory, capsys):
    arguments, _ = proof
    assert teacher_proof.main(arguments) == 0
    other = tmp_path_factory.mktemp("other") / "t.safetensors"
    save_teacher(PatchDescriptionNetwork("small"), {"n_steps": 7}, other)

    assert teacher_proof.main([*arguments[:-1], f"small, 10 %={other}"]) == 2
    assert "(teacher_weights); remove it" in capsys.readouterr().err


def test_the_same_weights_in_another_file_are_the_same_teacher(
    proof, untrained_detectors, tmp_path_factory
):
    arguments, folder = proof
    assert teacher_proof.main(arguments) == 0
    same = tmp_path_factory.mktemp("same") / "t.safetensors"
    torch.manual_seed(1)
    save_teacher(PatchDescriptionNetwork("small"), {"hours": 2.0}, same)

    assert teacher_proof.main([*arguments[:-1], f"small, 10 %={same}"]) == 0
    assert len(untrained_detectors) == len(list(folder.iterdir())) == 1


@pytest.mark.usefixtures("untrained_detectors")
def test_a_run_from_before_the_recipe_was_told_is_refused(proof, capsys):
    arguments, folder = proof
    assert teacher_proof.main(arguments) == 0
    [path] = folder.iterdir()
    run = json.loads(path.read_text())
    del run["settings"]["recipe"]
    path.write_text(json.dumps(run))

    assert teacher_proof.main(arguments) == 2
    assert "asked for (recipe); remove it" in capsys.readouterr().err


def test_a_failed_run_is_made_again(proof, untrained_detectors):
    arguments, folder = proof
    assert teacher_proof.main(arguments) == 0
    [path] = folder.iterdir()
    run = json.loads(path.read_text())
    path.write_text(json.dumps(run | {"failure": "out of memory", "settings": {}}))

    assert teacher_proof.main(arguments) == 0
    assert len(untrained_detectors) == 2
    assert json.loads(path.read_text())["metrics"] == {"image_au_roc": 0.5}


@pytest.fixture
def made(data, monkeypatch):
    """What would be distilled, without distilling it: the settings of each."""
    configs = []

    def distil(images, config, *, output):
        assert images == data / "natural_images"
        config.feature_cache.mkdir(parents=True)
        output.touch()
        configs.append(config)

    monkeypatch.setattr(efficientad, "distill", distil)
    monkeypatch.setattr(teacher_proof, "find_source_network", Path)
    monkeypatch.setattr(
        teacher_proof, "file_hash", lambda path: f"{path.parent}{'0' * 9}"
    )
    return configs


def test_sources_and_reductions_get_equal_budgets(data, tmp_path, made):
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
    assert {(config.steps, config.n_images) for config in made} == {(400, 800)}
    assert not list(tmp_path.glob("*.features"))


def test_another_file_of_the_same_name_is_another_source(data, tmp_path, made):
    arguments = ["--data", str(data), "--distil", str(tmp_path), "--source"]
    [one] = teacher_proof.distilled(teacher_proof.parsed([*arguments, "a/r.pth"]))
    [other] = teacher_proof.distilled(teacher_proof.parsed([*arguments, "b/r.pth"]))

    assert one.path != other.path
    assert len(made) == 2
    with pytest.raises(SystemExit):
        teacher_proof.parsed([*arguments, "a/r.pth", "--source", "b/r.pth"])


def test_nothing_to_compare_is_refused(data, tmp_path, capsys):
    assert teacher_proof.main(["--data", str(data), "--distil", str(tmp_path)]) == 2
    assert "give --untrained, --teacher NAME=FILE" in capsys.readouterr().err


@pytest.mark.parametrize("other", [("--distil-images", "900"), ("--size", "medium")])
def test_a_teacher_of_other_images_or_size_is_made_anew(data, tmp_path, made, other):
    arguments = ["--data", str(data), "--distil", str(tmp_path), "--source", "a.pth"]
    [before] = teacher_proof.distilled(teacher_proof.parsed(arguments))
    [after] = teacher_proof.distilled(teacher_proof.parsed([*arguments, *other]))

    assert after.variant == before.variant == "a, mean, 400 steps"
    assert after.path != before.path
    assert len(made) == len(list(tmp_path.iterdir())) == 2


def test_a_teacher_that_is_not_there_is_one_line(data, tmp_path, capsys):
    code = teacher_proof.main(
        [
            *("--data", str(data), "--categories", "parts", "--results", str(tmp_path)),
            *("--teacher", f"x={tmp_path / 'gone.safetensors'}"),
        ]
    )

    assert code == 2
    assert "gone.safetensors" in capsys.readouterr().err


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


@pytest.mark.slow
def test_half_precision_is_measured_on_a_detector(data, resnet18, tmp_path, capsys):
    output = tmp_path / "teacher.safetensors"
    config = efficientad.DistillConfig(
        source=str(resnet18), preset="quick", image_size=64, steps=1, n_held_out=1
    )
    efficientad.distill(data / "natural_images", config, output=output)
    checkpoint = f"{output}.checkpoint"
    arguments = ["--category", str(data / "parts"), "--results", str(tmp_path)]
    arguments += ["--steps", "2", "--checkpoint", checkpoint]

    assert teacher_half.main(arguments) == 2
    assert "must be what the checkpoint ends in" in capsys.readouterr().err
    assert teacher_half.main([*arguments, "--teacher", str(output)]) == 0

    run = json.loads(Path(capsys.readouterr().out.strip()).read_text())
    assert 0 < run["metrics"]["mean_map_difference"] < run["metrics"]["map_deviation"]


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
