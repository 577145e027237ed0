"""The paper's ablations: which trainings they need, and what they change."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.fake_engines import BrightnessEngine
from tests.lab.study_fakes import CONFIG, FakeTraining

from efficientad.cli import main as cli
from efficientad.demo_parts import write_category
from efficientad.errors import ConfigError
from efficientad.method.losses import hard_feature_loss
from efficientad.method.maps import (
    fit_quantiles,
    normalize_map,
)
from efficientad.method.placement import place_map
from efficientad.training.config import PAPER
from efficientad.training.quick import QUICK, QuickRecipe
from efficientad_lab.normalization import fit_mean_and_deviation
from efficientad_lab.studies import jobs
from efficientad_lab.studies.ablation import (
    FULL,
    PAPER_TABLES,
    Deviation,
    ablate,
    planned,
)
from efficientad_lab.studies.cached_maps import CachingEngine
from efficientad_lab.studies.config import StudyConfig
from efficientad_lab.studies.hard_masks import hard_feature_mask
from efficientad_lab.studies.jobs import MEAN_AND_DEVIATION, QUANTILES
from efficientad_lab.studies.records import read_runs

ONE_SEED = replace(CONFIG, seeds=(0,))


@pytest.fixture(scope="module")
def axle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("category") / "axle"
    write_category(folder, n_train=10, n_test_good=2, n_per_defect=1, seed=1, size=64)
    return folder


def trainings(jobs_):
    return {
        job.variant: [planned.variant for planned in job.evaluations] for job in jobs_
    }


def test_normalizations_share_one_training(axle):
    made = trainings(planned([axle], ONE_SEED, [4, 5]))

    name = "small, quick, 4 steps"
    both = f"{name}, without hard loss, without penalty"
    assert made == {
        name: [name, f"{name}, mean and deviation"],
        both: [f"{both}, mean and deviation", both],
        f"{name}, without penalty": [f"{name}, without penalty"],
        f"{name}, without hard loss": [f"{name}, without hard loss"],
    }


def test_table_3_needs_a_training_for_each_p_hard_only(axle):
    made = trainings(planned([axle], ONE_SEED, [3]))

    name = "small, quick, 4 steps"
    assert list(made) == [
        name,
        f"{name}, without hard loss",
        *(f"{name}, p_hard {p}" for p in ("0.9", "0.999", "0.9999", "0.99999")),
    ]
    # a and b each have one value that is the method's.
    assert len(made[name]) == 1 + 5 + 5


@pytest.mark.parametrize(("recipe", "p_hard"), [(PAPER, 0.999), (QUICK, 0.99)])
def test_the_preset_s_own_p_hard_is_the_method(recipe, p_hard):
    deviation = Deviation(p_hard=p_hard)

    assert deviation.canonical(recipe) == FULL
    assert deviation.recipe(recipe) == recipe
    assert Deviation(p_hard=0.9).canonical(recipe) == Deviation(p_hard=0.9)


@pytest.mark.parametrize("recipe", [PAPER, QUICK])
def test_without_hard_loss_all_distances_weigh_the_same(recipe, rng):
    without = Deviation(p_hard=0.0).recipe(recipe)
    teacher, student = (
        torch.from_numpy(rng.normal(size=(2, 3, 4, 4)).astype(np.float32))
        for _ in range(2)
    )

    loss = hard_feature_loss(teacher, student, without.p_hard)

    torch.testing.assert_close(loss, (teacher - student).square().mean())
    assert not isinstance(without, QuickRecipe) or without.mean_share == 0


def test_a_hard_mask_is_the_share_of_channels_at_or_above_the_quantile(rng):
    teacher = torch.from_numpy(rng.normal(size=(2, 8, 3, 3)).astype(np.float32))
    student = torch.zeros_like(teacher)

    mask = hard_feature_mask(teacher, student, p_hard=0.75)

    for image, drawn in zip(teacher, mask, strict=True):
        distances = image.square()
        threshold = torch.quantile(distances, 0.75)
        expected = (distances >= threshold).float().mean(0)
        torch.testing.assert_close(drawn, expected)


def test_by_mean_and_deviation_a_map_gets_mean_0_and_deviation_1(rng):
    grids = [rng.gamma(2, 3, (56, 56)).astype(np.float32) for _ in range(2)]

    scale = fit_mean_and_deviation(grids)

    raw = np.stack([place_map(g, 256, 256) for g in grids])
    normalized = normalize_map(raw, scale)
    assert abs(float(normalized.mean())) < 1e-4
    assert abs(float(normalized.std()) - 1) < 1e-4


def test_other_quantiles_go_to_0_and_a_tenth(rng):
    grids = [rng.gamma(2, 3, (56, 56)).astype(np.float32)]

    scale = fit_quantiles(grids, low=0.5, high=0.99)

    pixels = place_map(grids[0], 256, 256)
    expected = np.quantile(pixels, [0.5, 0.99])
    np.testing.assert_allclose([scale.low, scale.high], expected, rtol=1e-6)


@pytest.fixture
def ablated(axle, predictor, monkeypatch, tmp_path):
    """Table 5 by detectors of random weights: one is calibrated in two ways."""
    training = FakeTraining(lambda made, _output: replace(predictor, provenance=made))
    monkeypatch.setattr(jobs, "train", training)
    monkeypatch.setattr(jobs, "evaluate", fast_evaluation)
    failures = ablate([axle], tmp_path, ONE_SEED, tables=[5])
    return training, failures, tmp_path


def fast_evaluation(predictor, category, **_options):
    """Evaluate two images; random weights need no more."""
    from efficientad.evaluation.evaluate import evaluate

    test = [category.test[0], category.test[-1]]
    return evaluate(predictor, replace(category, test=tuple(test)))


def test_another_normalization_is_evaluated_and_undone(ablated):
    training, failures, results = ablated
    runs = {run["variant"]: run for run in read_runs(results)}

    name = "small, quick, 4 steps"
    assert failures == []
    assert len(training.trained) == 3
    assert len(runs) == 4
    normal = runs[f"{name}, mean and deviation"]
    assert normal["settings"]["normalization"] == {"low": None, "high": None}
    assert normal["training"] == runs[name]["training"]
    assert normal["threshold"] != runs[name]["threshold"]
    # The fake gives the same weights each time: without the penalty as with it.
    assert runs[f"{name}, without penalty"]["threshold"] == runs[name]["threshold"]


def test_a_caching_engine_computes_each_image_once(rng):
    class CountingEngine(BrightnessEngine):
        n_images = 0

        def run(self, pixels):
            self.n_images += len(pixels)
            return super().run(pixels)

    engine = CountingEngine()
    caching = CachingEngine(engine)
    pixels = rng.integers(0, 256, (3, 256, 256, 3), np.uint8)

    first = caching.run(pixels[:2]).grids
    again = caching.run(pixels).grids

    assert engine.n_images == 3
    expected = engine.run(pixels).grids
    for name, grids in expected.items():
        np.testing.assert_array_equal(first[name], grids[:2])
        np.testing.assert_array_equal(again[name], grids)


def test_the_tables_of_an_ablation_name_the_paper_s_numbers(ablated):
    _, _, results = ablated
    text = (results / "ablation.md").read_text()

    assert "Table 5 of the paper, small, quick, 4 steps" in text
    (line,) = (
        line
        for line in text.splitlines()
        if line.startswith("| without pretraining penalty | axle |")
    )
    assert "| 95.0 | 1 |" in line


def test_evaluations_in_any_order_give_the_method_its_own_calibration(
    axle, predictor, monkeypatch, tmp_path
):
    (job, *_) = planned([axle], ONE_SEED, [5])
    reversed_job = replace(job, evaluations=job.evaluations[::-1])
    assert [each.normalization for each in reversed_job.evaluations] == [
        MEAN_AND_DEVIATION,
        QUANTILES,
    ]
    training = FakeTraining(lambda made, _output: replace(predictor, provenance=made))
    monkeypatch.setattr(jobs, "train", training)
    monkeypatch.setattr(jobs, "evaluate", fast_evaluation)

    assert jobs.do(reversed_job, jobs.Place(tmp_path, tmp_path / "work")) is None

    runs = {run["variant"]: run for run in read_runs(tmp_path)}
    own = runs.pop("small, quick, 4 steps")
    assert own["threshold"] == predictor.calibration.threshold
    assert all(run["threshold"] != own["threshold"] for run in runs.values())


def test_the_paper_s_sweeps_hold_the_method_s_number_once_each():
    """a = 0.9, b = 0.995 and p_hard = 0.999 are the method: its 96.0 stands there."""
    methods = [
        entry.words
        for entry in PAPER_TABLES[3]
        if entry.deviation.canonical(PAPER) == FULL
    ]

    assert methods == ["a = 0.9", "b = 0.995", "p_hard = 0.999"]
    assert all(
        entry.paper == 96.0
        for entry in PAPER_TABLES[3]
        if entry.deviation.canonical(PAPER) == FULL
    )


def test_tables_have_the_numbers_of_the_printed_paper():
    words = {n: [entry.words for entry in PAPER_TABLES[n]] for n in PAPER_TABLES}

    assert words[3][0] == "a = 0.5"
    assert words[4][0] == "networks alone, maps by mean and deviation"
    assert words[5][1] == "without normalization by quantiles"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seeds": ()}, "seeds must be at least one"),
        ({"seeds": (1, 1)}, "seeds must be at least one, each once"),
        ({"sizes": ()}, "sizes must be at least one"),
        ({"seeds": (-1,)}, r"seeds\[0\] must be a whole number from 0"),
        ({"steps": 0}, "steps must be a whole number from 1"),
    ],
)
def test_settings_of_a_study_are_checked(settings, words):
    with pytest.raises(ConfigError, match=words):
        StudyConfig(**settings)


@pytest.mark.parametrize("verb", ["reproduce", "ablate"])
def test_a_folder_without_scenarios_is_one_line(tmp_path, capsys, verb):
    code = cli.main([verb, str(tmp_path), "--output", str(tmp_path / "out")])

    assert code == 2
    assert f"was needed in {tmp_path}" in capsys.readouterr().err
