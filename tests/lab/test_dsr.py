"""DSR: sizes, codebooks, fake defects, and three trainings one after the other."""

import math

import pytest
import torch
from PIL import Image
from tests.contracts.engine_checks import noise

from efficientad.errors import ConfigError
from efficientad_lab.methods.dsr import (
    DualSubspace,
    DualSubspaceSettings,
    focal_loss,
)
from efficientad_lab.methods.fake_defects import (
    masks,
    perlin,
    smudged,
    with_wrong_entries,
)
from efficientad_lab.methods.fitting import FitConfig, fit
from efficientad_lab.methods.method import Draw
from efficientad_lab.methods.predictors import calibrated, load_method, save_method
from efficientad_lab.methods.unet import UNet
from efficientad_lab.methods.vector_quantization import Codebook, QuantizedAutoencoder

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_networks_have_as_many_parameters_as_published():
    general = QuantizedAutoencoder()
    entries = 2 * 4096 * 128
    detector = UNet(6, 2, [64, 128, 256, 256], is_bilinear=True)

    n_general = sum(p.numel() for p in general.parameters()) + entries
    n_detector = sum(p.numel() for p in detector.parameters())
    assert round(n_general / 1e6, 1) == 3.0
    assert round(n_detector / 1e6, 1) == 5.6


def test_a_codebook_replaces_by_the_nearest_and_passes_gradients():
    torch.manual_seed(0)
    codebook = Codebook(50)
    grid = torch.randn(2, 128, 3, 4, requires_grad=True)

    found = codebook.quantized(grid)
    found.sum().backward()

    vectors = grid.detach().movedim(1, -1).reshape(-1, 128)
    nearest = torch.cdist(vectors, codebook.entries).argmin(1)
    expected = codebook.entries[nearest].view(2, 3, 4, 128).movedim(-1, 1)
    torch.testing.assert_close(found.detach(), expected)
    assert grid.grad is not None
    assert torch.equal(grid.grad, torch.ones_like(grid))


def test_a_codebook_follows_the_vectors_of_its_batches():
    torch.manual_seed(0)
    codebook, centers = Codebook(4), 5 * torch.randn(4, 128)
    shifted = centers + 0.5
    codebook.follow(centers.T.reshape(1, 128, 2, 2))
    torch.testing.assert_close(codebook.entries, centers)

    for _ in range(600):
        codebook.follow(shifted.T.reshape(1, 128, 2, 2))

    torch.testing.assert_close(codebook.entries, shifted, atol=0.01, rtol=0)


def test_an_entry_that_replaces_none_goes_to_a_vector_of_the_batch():
    torch.manual_seed(0)
    codebook, centers = Codebook(3), 5 * torch.randn(4, 128)
    codebook.follow(centers.T.reshape(1, 128, 2, 2))
    codebook.entries[1] = 1000.0
    codebook.counts[1] = 0.05

    codebook.follow(centers.T.reshape(1, 128, 2, 2))

    assert torch.cdist(codebook.entries[1][None], centers).min() < 1e-3


def test_perlin_noise_is_smooth_and_follows_its_generator():
    for seed in range(8):
        found = perlin(64, generator(seed))
        assert tuple(found.shape) == (64, 64)
        assert found.abs().max() <= math.sqrt(2)
        assert found[0, 0] == 0, "zero where gradients sit"
        assert torch.equal(found, perlin(64, generator(seed)))


def test_about_half_of_the_masks_are_empty():
    found = masks(200, 32, generator())

    assert set(found.unique().tolist()) == {0, 1}
    is_empty = found.sum((1, 2, 3)) == 0
    assert 0.4 < is_empty.float().mean() < 0.75  # noise may stay below its limit


def test_wrong_entries_are_near_but_never_the_nearest():
    torch.manual_seed(0)
    entries = torch.randn(100, 8)
    index = torch.randint(100, (3, 4, 4))
    quantized = entries[index].movedim(-1, 1)
    mask = torch.zeros(3, 1, 8, 8)
    mask[:2, :, 2, 5] = 1  # under it: the vector of row 1, column 2

    found = with_wrong_entries(quantized, entries, mask, generator())

    is_changed = (found != quantized).any(1)
    expected = torch.zeros_like(is_changed)
    expected[:2, 1, 2] = True
    assert torch.equal(is_changed, expected)
    for image in range(2):
        new = torch.cdist(found[image, :, 1, 2][None], entries).argmin()
        order = torch.cdist(quantized[image, :, 1, 2][None], entries).argsort(1)[0]
        assert new not in order[:5]


def test_smudges_lie_under_their_mask():
    images = torch.rand(4, 3, 32, 32)
    mask = torch.zeros(4, 1, 32, 32)
    mask[:, :, :8] = 1

    found = smudged(images, mask, generator())

    torch.testing.assert_close(found[:, :, 8:], images[:, :, 8:])
    assert not torch.allclose(found[:, :, :8], images[:, :, :8])
    assert found.min() >= 0
    assert found.max() <= 1


def test_the_focal_loss_is_that_of_its_formula():
    probabilities = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    mask = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)

    expected = (-(0.1**2) * math.log(0.9) - 0.9**2 * math.log(0.1)) / 2
    assert float(focal_loss(probabilities, mask)) == pytest.approx(expected)


@pytest.fixture
def settings(tmp_path):
    folder = tmp_path / "natural"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(noise(1, seed=index)[0]).save(folder / f"{index}.png")
    return DualSubspaceSettings(
        input_size=64, base=4, n_entries=64, natural_images=str(folder)
    )


def test_the_trainings_follow_each_other_and_the_file_opens(settings, tmp_path):
    torch.manual_seed(0)
    method = DualSubspace([], settings)
    before = {name: v.clone() for name, v in method.fitted_state().items()}

    fitted = fit(method, torch.from_numpy(noise(3)), FitConfig(minutes=0.0))
    predictor = calibrated(method, noise(3, seed=1), {"training_images": {}})
    save_method(predictor, tmp_path / "part.method")
    again = load_method(tmp_path / "part.method", [DualSubspace])

    names = [phase.name for phase in fitted.phases]
    assert names == ["autoencoder", "object part", "second detector"]
    assert [phase.steps for phase in fitted.phases] == [1, 1, 1]
    after = method.fitted_state()
    for name in (
        "general.low.entries",
        "general.to_high.0.weight",
        "low_to_normal.layers.0.weight",
        "own_decoder.0.weight",
        "detector.last.weight",
        "second.last.weight",
    ):
        assert not torch.equal(before[name], after[name]), name
    assert method.title() == "DSR, own autoencoder, base 4"
    image = noise(1, seed=3)[0]
    assert again.predict(image).image_score == predictor.predict(image).image_score


def test_only_the_first_training_changes_the_general_autoencoder(settings):
    torch.manual_seed(0)
    method = DualSubspace([], settings)
    pixels = torch.from_numpy(noise(3))
    phases = method.phases(pixels)
    next(phases)
    method.general.loss(torch.rand(2, 3, 64, 64))
    state = {k: v.clone() for k, v in method.general.state_dict().items()}
    detector = None
    for phase in phases:
        method.train()
        phase.loss(phase.inputs, Draw(generator(), 0.5)).backward()
        phase.optimizer.step()
        if phase.name == "object part":
            detector = {k: v.clone() for k, v in method.detector.state_dict().items()}

    for name, value in method.general.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert detector is not None
    for name, value in method.detector.state_dict().items():
        assert torch.equal(value, detector[name]), name


def test_dsr_without_natural_images_is_refused():
    method = DualSubspace([], DualSubspaceSettings(input_size=64, base=4, n_entries=64))

    with pytest.raises(ConfigError, match="dsr needs natural images, no folder"):
        fit(method, torch.from_numpy(noise(2)), FitConfig())
