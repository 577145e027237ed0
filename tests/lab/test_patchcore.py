"""PatchCore: vectors, coreset, distances and weighted score by their definitions."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.contracts.engine_checks import check_engine, noise
from torch.nn import functional

from efficientad.errors import ConfigError, DatasetError, TrainingError
from efficientad_lab.methods import patchcore
from efficientad_lab.methods.fitting import FitConfig, fit
from efficientad_lab.methods.patchcore import (
    PatchCore,
    PatchCoreSettings,
    coreset,
    nearest_of_bank,
    patch_vectors,
    weighted_scores,
)
from efficientad_lab.methods.patchcore_ensemble import (
    EnsembleSettings,
    PatchCoreEnsemble,
)
from efficientad_lab.methods.predictors import calibrated, load_method, save_method
from efficientad_lab.methods.stages import open_stages

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, Any] = {
    "dimension": 64,
    "n_projected": 16,
    "input_size": 64,
    "coreset": 0.1,
}


def test_vectors_are_pooled_neighborhoods():
    """By the authors' order: unfold, enlarge each value, then pool by patch."""
    torch.manual_seed(0)
    fine, coarse = torch.randn(2, 10, 6, 6), torch.randn(2, 24, 3, 3)
    parts = []
    for grid in (fine, coarse):
        side = grid.shape[-1]
        values = functional.unfold(grid, 3, padding=1).unflatten(2, (side, side))
        larger = functional.interpolate(values, (6, 6), mode="bilinear")
        by_patch = larger.flatten(2).transpose(1, 2)
        parts.append(functional.adaptive_avg_pool1d(by_patch, 20))
    expected = functional.adaptive_avg_pool1d(torch.cat(parts, dim=2), 20)

    torch.testing.assert_close(patch_vectors([fine, coarse], 20), expected)


def test_the_radius_of_a_coreset_never_grows():
    vectors = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))

    chosen, radii = coreset(vectors, 0.25, torch.Generator().manual_seed(1))

    assert len(set(chosen.tolist())) == 100
    assert (radii.diff() <= 1e-6).all()
    covered = torch.cdist(vectors, vectors[chosen]).amin(1).max()
    assert covered <= radii[-1] + 1e-4


def test_a_coreset_takes_what_is_farthest_from_all_that_is_kept():
    vectors = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    chosen, _ = coreset(vectors, 0.2, torch.Generator().manual_seed(1))
    starts = torch.randperm(60, generator=torch.Generator().manual_seed(1))[:10]

    distances = torch.cdist(vectors, vectors)
    least = distances[starts].mean(0)
    expected = []
    for _ in range(12):
        expected.append(int(least.argmax()))
        least = torch.minimum(least, distances[expected[-1]])

    assert chosen.tolist() == expected


@pytest.mark.parametrize("n", [9, 40])
def test_too_few_vectors_for_a_coreset_are_refused(n):
    with pytest.raises(DatasetError, match=f"10 or more, the images give {n}; "):
        coreset(torch.randn(n, 4), 0.01, torch.Generator())


def test_too_little_memory_for_a_bank_is_refused(monkeypatch):
    monkeypatch.setattr(patchcore, "free_bytes", lambda: 2**30)

    with pytest.raises(TrainingError, match=r"needs 5.7 GiB .* 1.0 GiB are free"):
        patchcore.require_memory(10**6, 1024)


def test_distances_are_squared_and_exact(monkeypatch):
    monkeypatch.setattr(patchcore, "_N_ROWS", 3)
    vectors, bank = torch.randn(7, 5), torch.randn(11, 5)

    squared, index = nearest_of_bank(vectors, bank)

    expected = torch.cdist(vectors, bank).square().min(1)
    torch.testing.assert_close(squared, expected.values, rtol=1e-4, atol=1e-5)
    assert torch.equal(index, expected.indices)


def test_the_weighted_score_is_that_of_the_paper():
    vectors, bank = torch.randn(2, 5), torch.randn(12, 5)
    nearest = torch.cdist(vectors, bank).argmin(1)

    found = weighted_scores(vectors, nearest, bank, 3)

    for vector, index, score in zip(vectors, nearest, found, strict=True):
        near = (bank - bank[index]).norm(dim=1).argsort()[:3]
        distances = (bank[near] - vector).norm(dim=1)
        own = (bank[index] - vector).norm()
        expected = own * (1 - own.exp() / distances.exp().sum())
        torch.testing.assert_close(score, expected)


def test_large_distances_do_not_overflow():
    found = weighted_scores(
        torch.full((1, 2), 1000.0), torch.tensor([0]), torch.eye(2), 2
    )

    torch.testing.assert_close(found, torch.tensor([1413.5]) / 2, rtol=1e-3, atol=0)


def test_a_bank_is_found_again_and_fits_its_images(resnet18, tmp_path):
    stages = open_stages(resnet18, (8, 16))
    method = PatchCore([stages], PatchCoreSettings(**SMALL))
    pixels = noise(4)
    fit(method, torch.from_numpy(pixels), FitConfig())
    predictor = calibrated(method, noise(3, seed=1), {"training_images": {}})
    save_method(predictor, tmp_path / "part.method")

    again = load_method(tmp_path / "part.method", [PatchCore])

    assert method.bank.shape == (4 * 8 * 8 // 10, 64)
    assert method.title() == "PatchCore, resnet18, 64 px, 10 %"
    check_engine(again.engine)
    trained = predictor.engine.run(pixels).values["score"]
    assert (
        trained.mean() < predictor.engine.run(noise(4, seed=2)).values["score"].mean()
    )
    image = noise(1, seed=3)[0]
    assert again.predict(image).image_score == predictor.predict(image).image_score


def test_weighting_lowers_the_score_and_leaves_the_map(resnet18):
    stages = open_stages(resnet18, (8, 16))
    found = []
    for n_neighbours in (0, 3):
        settings = PatchCoreSettings(**SMALL, n_neighbours=n_neighbours)
        method = PatchCore([stages], settings)
        fit(method, torch.from_numpy(noise(3)), FitConfig())
        images = method.inputs(torch.from_numpy(noise(2, seed=1)))
        with torch.inference_mode():
            found.append(method.output(images))
    plain, weighted = found

    assert torch.equal(plain.maps["anomaly"], weighted.maps["anomaly"])
    assert (weighted.scores["score"] < plain.scores["score"].sqrt()).all()


def test_an_ensemble_is_the_mean_of_members_scaled_by_held_out_images(
    resnet18, tmp_path
):
    stages = [open_stages(resnet18, (8, 16)) for _ in range(3)]
    method = PatchCoreEnsemble(stages, EnsembleSettings(**SMALL))
    fit(method, torch.from_numpy(noise(3)), FitConfig())
    held_out = noise(4, seed=1)
    predictor = calibrated(method, held_out, {"training_images": {}})
    save_method(predictor, tmp_path / "part.method")
    again = load_method(tmp_path / "part.method", [PatchCore, PatchCoreEnsemble])

    output = predictor.engine.run(held_out)
    found = again.predict_batch(list(held_out))

    assert list(output.grids) == ["anomaly 0", "anomaly 1", "anomaly 2"]
    for name, grids in output.grids.items():
        scaled = np.stack([one.grids[name] for one in found])
        expected = (grids - grids.min()) / np.ptp(grids) * 0.1
        np.testing.assert_allclose(scaled, expected, atol=1e-5)
    values = np.stack([v[:, 0] for v in output.values.values()])
    joint = ((values.T - values.min(1)) / np.ptp(values, axis=1)).mean(1)
    scores = [one.image_score for one in found]
    assert np.corrcoef(scores, joint)[0, 1] > 0.9999


@pytest.mark.parametrize(
    "setting",
    [{"coreset": 0.0}, {"dimension": 0}, {"input_size": 100}, {"n_neighbours": 1}],
)
def test_a_setting_out_of_its_range_is_refused(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        PatchCoreSettings(**setting)
