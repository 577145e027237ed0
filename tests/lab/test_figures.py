"""Figures from recorded runs, and what is said where a run is missing."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fake_engines import brightness_predictor
from tests.lab.study_fakes import loco_run, run_of

from efficientad.cli import main as cli
from efficientad.datasets import Category, Sample
from efficientad.errors import ConfigError, ResultError
from efficientad.method.detector import Detector
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.training.config import TrainConfig
from efficientad.training.quick import QUICK
from efficientad_lab.figures import pictures
from efficientad_lab.figures import runs as figure_runs
from efficientad_lab.figures.canvas import picture_table, save
from efficientad_lab.figures.charts import (
    accuracy_against_latency,
    own_bars,
    own_points,
    read_benchmarks,
)
from efficientad_lab.figures.config import FigureConfig
from efficientad_lab.figures.drawing import draw_figures
from efficientad_lab.figures.runs import Material
from efficientad_lab.studies.evaluated_samples import read_samples, write_samples
from efficientad_lab.studies.hard_masks import (
    MOMENTS,
    HardMaskRecorder,
    mask_file,
    read_masks,
)
from efficientad_lab.studies.records import write_run

RECIPE = replace(QUICK, steps=10)


class RandomDescriptors(Detector):
    """A detector that describes images by noise, quickly."""

    device = torch.device("cpu")

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.student = RandomGrid()

    def describe(self, images):
        return torch.randn(len(images), 384, 56, 56)


class RandomGrid(PatchDescriptionNetwork):
    def __init__(self):
        torch.nn.Module.__init__(self)

    def forward(self, images, *, padded=False):
        assert not padded
        return torch.randn(len(images), 768, 56, 56)


def picture(path, rng, size=(40, 60)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def images(tmp_path):
    """A category of random pictures: training, and a defect of each kind."""
    rng = np.random.default_rng(0)
    train = [picture(tmp_path / f"train/{k}.png", rng) for k in range(5)]
    mask = tmp_path / "mask.png"
    Image.fromarray(np.eye(40, 60, dtype=np.uint8) * 255).save(mask)
    test = [
        Sample(picture(tmp_path / "good.png", rng), "good"),
        Sample(picture(tmp_path / "logical.png", rng), "logical_anomalies", mask),
        Sample(picture(tmp_path / "other.png", rng), "structural_anomalies"),
    ]
    samples = tuple(Sample(path, "good") for path in train)
    return Category("juice_bottle", tmp_path, samples, (), tuple(test))


@pytest.fixture
def results(tmp_path, images, monkeypatch):
    """Two recorded runs with all that belongs to them; the detector is a fake."""
    folder = tmp_path / "results"
    monkeypatch.setattr(figure_runs, "load", lambda *_a, **_k: brightness_predictor())
    for run in (run_of("bottle", 0.9), loco_run(0.8, 0.9)):
        training = folder / "work" / f"training_of_{run['category']}"
        write_run(run | {"training": training.name}, folder)
        write_samples(images.test, training)
        (training / "part.ead").write_text("")
        recorder = HardMaskRecorder(images, TrainConfig(), RECIPE, training)
        for n_steps in range(11):
            recorder(n_steps, RandomDescriptors())
    return folder


def test_hard_masks_are_written_at_the_moments_of_a_training(results):
    folder = results / "work" / "training_of_bottle"

    assert {path.name for path in folder.glob("hard*")} == {
        mask_file(folder, moment).name for moment in MOMENTS
    }
    kept = read_masks(mask_file(folder, 0.5))
    assert kept.pixels.shape == (2, 256, 256, 3)
    assert kept.masks.shape == (2, 56, 56)
    # The loss of the preset selects a hundredth of the distances.
    np.testing.assert_allclose(kept.masks.mean((1, 2)), 0.01, rtol=0.01)


def test_hard_masks_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "hard_masks_at_0.npz"
    path.write_text("no archive")

    with pytest.raises(ResultError, match=r"hard_masks_at_0\.npz cannot be read"):
        read_masks(path)


def test_test_samples_are_read_as_they_were(tmp_path, images):
    write_samples(images.test, tmp_path)

    assert read_samples(tmp_path) == list(images.test)


def test_missing_samples_are_named(tmp_path):
    with pytest.raises(ResultError, match=r"test_images\.json cannot be read"):
        read_samples(tmp_path)


def test_all_figures_of_own_runs_are_drawn_as_pdf_and_png(results, monkeypatch):
    # Figure 3 by a network as small as can be; that of real ones is tested with them.
    light = SimpleNamespace(network=torch.nn.Conv2d(3, 4, 33, 4))
    monkeypatch.setattr(pictures, "open_teacher", lambda *_: light)
    monkeypatch.setattr(pictures, "open_source", lambda _: torch.nn.Conv2d(3, 4, 64, 8))
    write_run(
        run_of("small", 0.9, experiment="speed", metrics={"latency_ms": 3.0}), results
    )

    drawn, missing = draw_figures(results, FigureConfig(n_images=1, source="resnet50"))

    assert missing == []
    assert [path.name.rpartition("_")[0][:8] for path in drawn[::2]] == [
        f"figure_{number}" for number in (1, 3, 4, 5, 6, 7)
    ]
    for path in drawn:
        start = path.read_bytes()[:4]
        assert start == {".pdf": b"%PDF", ".png": b"\x89PNG"}[path.suffix]


def test_the_same_runs_give_the_same_bytes(results, tmp_path):
    contents = []
    for name in ("first", "second"):
        config = FigureConfig(figures=(7,), n_images=1, output=tmp_path / name)
        contents.append(
            [path.read_bytes() for path in draw_figures(results, config).paths]
        )

    assert contents[0] == contents[1]


def test_the_seed_chooses_what_is_shown(results, tmp_path):
    contents = set()
    for seed in range(3):
        config = FigureConfig(
            figures=(7,), seed=seed, n_images=1, output=tmp_path / str(seed)
        )
        contents.add(draw_figures(results, config).paths[1].read_bytes())

    assert len(contents) > 1


@pytest.mark.parametrize(
    ("number", "lost", "words"),
    [
        (4, "hard_masks_at_100.npz", "figure 4 needs the hard-loss masks of bottle, "),
        (7, "part.ead", "figure 7 needs the detector of bottle, small, quick, seed 0"),
    ],
)
def test_what_a_run_has_lost_is_named(results, number, lost, words):
    (results / "work" / "training_of_bottle" / lost).unlink()

    with pytest.raises(ResultError, match=words):
        draw_figures(results, FigureConfig(figures=(number,)))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (1, "figure 1 needs finished runs of efficientad reproduce"),
        (4, "figure 4 needs finished runs of efficientad reproduce"),
        (5, "figure 5 needs finished runs of efficientad reproduce"),
        (6, "figure 6 needs recorded benchmarks with a latency"),
        (7, "figure 7 needs finished runs of efficientad reproduce"),
    ],
)
def test_a_figure_without_runs_says_which_are_missing(tmp_path, number, words):
    with pytest.raises(ResultError, match=words):
        draw_figures(tmp_path, FigureConfig(figures=(number,)))


def test_a_figure_of_maps_needs_a_scenario_with_both_kinds(results):
    (results / "reproduce_juice_bottle_small_quick_seed0.json").unlink()

    with pytest.raises(ResultError, match="needs a run on a scenario of MVTec LOCO"):
        draw_figures(results, FigureConfig(figures=(5,)))


def test_runs_of_another_size_are_not_shown(results):
    config = FigureConfig(figures=(7,), size="medium")

    with pytest.raises(ResultError, match="needs runs of size medium"):
        draw_figures(results, config)


def test_the_command_line_draws_what_it_can(results, capsys):
    command = ["figures", str(results), "--figures", "1", "6"]

    assert cli.main(command) == 1

    told = capsys.readouterr()
    assert "figure_1_accuracy_against_latency.pdf" in told.out
    assert "efficientad: figure 6 needs recorded benchmarks" in told.err
    assert cli.main([*command[:-1]]) == 0


def test_an_image_that_is_gone_costs_its_figure_alone(results, images):
    for sample in images.test:
        sample.path.unlink()

    drawn = draw_figures(results, FigureConfig(figures=(1, 5)))

    assert {path.stem for path in drawn.paths} == {"figure_1_accuracy_against_latency"}
    (sentence,) = drawn.missing
    assert sentence.startswith("figure 5")
    assert "does not exist; check the path" in sentence


def test_a_folder_that_is_none_is_one_line(tmp_path, capsys):
    assert cli.main(["figures", str(tmp_path / "nowhere")]) == 2

    assert "needed a folder of recorded runs" in capsys.readouterr().err


def test_a_point_is_the_mean_over_scenarios_and_seeds():
    runs = [
        run_of("bottle", 0.9),
        run_of("bottle", 1.0, seed=1),
        run_of("screw", 0.7, latency_ms=200.0),
        run_of("screw", 0.8, seed=1, latency_ms=200.0),
    ]

    (point,) = own_points(runs)

    assert (point.name, point.latency_ms) == ("small, quick", 150.0)
    assert abs(point.au_roc - 85.0) < 1e-9


def test_a_scenario_that_failed_in_all_seeds_leaves_no_point(tmp_path):
    write_run(run_of("bottle", 0.9), tmp_path)
    write_run(run_of("screw", 0, metrics={}, failure="no memory"), tmp_path)

    with pytest.raises(ResultError, match="all scenarios finished"):
        accuracy_against_latency(Material(tmp_path, FigureConfig()))


def test_a_bar_is_the_fastest_run_of_a_machine_and_variant():
    speed = {"experiment": "inference_speed", "variant": "batch 1, native"}
    runs = [
        # An image took four times as long.
        run_of("small", 0, metrics={"milliseconds": 1.0}, **speed)
        | {"variant": "4 processes of 1 thread, native"},
        run_of("small", 0.9, metrics={"milliseconds": 7.0}, **speed),
        run_of("small", 0.9, metrics={"milliseconds": 5.0}, seed=1, **speed),
        run_of("small", 0.9, metrics={"latency_ms": 9.0}, machine="other"),
        run_of("small", 0.9),
        # Of a training: no latency.
        run_of("s", 0, metrics={"milliseconds": 1.0}, experiment="training_speed"),
    ]

    bars = {bar.name: bar.latency_ms for bar in own_bars(runs)}

    assert bars == {
        "2 cores: small, batch 1, native": 5.0,
        "other: small, small, quick": 9.0,
    }


def test_a_report_of_the_benchmark_has_a_bar_for_each_engine(tmp_path):
    measured = [
        {"engine": name, "precision": "fp32", "latency_ms": {"p50": value}}
        for name, value in (("native", 140.0), ("pytorch", 530.0))
    ]
    report = {"machine": "2 cores", "model": "part.ead", "engines": measured}
    (tmp_path / "speed.json").write_text(json.dumps(report))
    run = run_of("small", 0.9, metrics={"latency_ms": 7.0}, experiment="speed")
    write_run(run, tmp_path)

    bars = {bar.name: bar.latency_ms for bar in own_bars(read_benchmarks([tmp_path]))}

    assert bars == {
        "2 cores: part.ead, native, fp32": 140.0,
        "2 cores: part.ead, pytorch, fp32": 530.0,
        "2 cores: small, small, quick": 7.0,
    }


@pytest.mark.parametrize("text", ["{", "[]", '{"engines": [1]}'])
def test_a_file_that_is_no_benchmark_is_named(tmp_path, text):
    path = tmp_path / "broken.json"
    path.write_text(text)

    with pytest.raises(ResultError) as raised:
        read_benchmarks([path])
    assert str(path) in str(raised.value)


def test_a_file_that_cannot_be_used_is_no_missing_figure(tmp_path):
    """Figure 3 needs no run, and would be drawn."""
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "results").mkdir()

    with pytest.raises(ResultError, match=r"broken\.json cannot be read"):
        draw_figures(tmp_path, FigureConfig(figures=(3,)))
    with pytest.raises(ResultError, match=r"broken\.json cannot be read"):
        draw_figures(
            tmp_path / "results",
            FigureConfig(figures=(3,), benchmarks=(tmp_path / "broken.json",)),
        )


def test_pictures_of_any_shape_stand_in_one_table(tmp_path):
    wide, high = np.zeros((4, 9, 3), np.uint8), np.zeros((9, 4, 3), np.uint8)

    figure = picture_table(["a", "b"], [("row", [wide, high])])

    pdf, png = save(figure, tmp_path / "table")
    assert pdf.exists()
    with Image.open(png) as image:
        assert image.width > image.height


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"figures": ()}, "figures must be at least one"),
        ({"n_images": 0}, "n_images must be a whole number from 1 to 1000, got 0"),
        ({"seed": -1}, "seed must be a whole number from 0"),
    ],
)
def test_settings_of_figures_are_checked(settings, words):
    with pytest.raises(ConfigError, match=words):
        FigureConfig(**settings)
