"""Batch normalization while distilling, and the plain network it leaves."""

import pytest
import torch
from torch import nn

from efficientad.distillation.batch_norm import NormalizedNetwork, unfold
from efficientad.method.networks import PatchDescriptionNetwork


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_folding_batch_normalization_changes_no_descriptor():
    network = NormalizedNetwork("small")
    for _ in range(3):
        network(torch.randn(2, 3, 49, 49) * 2 + 1)
    network.eval()
    image = torch.randn(1, 3, 61, 61)

    with torch.no_grad():
        for padded in (False, True):
            expected = network(image, padded=padded)
            folded = network.folded()(image, padded=padded)
            torch.testing.assert_close(folded, expected, atol=1e-5, rtol=1e-4)


def test_folding_is_needed():
    """Positive control: without folding the same weights give other descriptors."""
    network = NormalizedNetwork("small")
    network(torch.randn(2, 3, 49, 49) * 2 + 1)
    network.eval()
    plain = PatchDescriptionNetwork("small")
    plain.load_state_dict(network.state_dict(), strict=False)
    image = torch.randn(1, 3, 61, 61)

    with torch.no_grad(), pytest.raises(AssertionError):
        torch.testing.assert_close(plain(image), network(image), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", ["small", "medium"])
@torch.no_grad()
def test_an_unfolded_network_equals_the_plain_one(size):
    torch.manual_seed(0)
    plain = PatchDescriptionNetwork(size).eval()
    network = NormalizedNetwork(size)
    norms = [n for n in network.norms if isinstance(n, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.normal_(norm.weight)
    images = torch.randn(4, 3, 64, 64)

    unfold(network, plain, images.split(2))

    expected = plain(images)
    scale = float(expected.std())
    unfolded = network.eval()(images)
    torch.testing.assert_close(unfolded, expected, rtol=0, atol=1e-4 * scale)
    folded = network.folded()(images)
    torch.testing.assert_close(folded, expected, rtol=0, atol=1e-4 * scale)
    # The statistics are those of these images: as a batch they give nearly the same.
    trained = network.train()(images)
    torch.testing.assert_close(trained, expected, rtol=0, atol=0.02 * scale)
    nn.init.ones_(norms[0].bias)  # the positive control
    assert (network.eval()(images) - expected).abs().max() > 1e-3 * scale
