"""The networks against the paper's facts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def networks_of(size):
    return (
        PatchDescriptionNetwork(size),
        PatchDescriptionNetwork(size, 768),
        Autoencoder(),
    )


@pytest.mark.parametrize(("size", "millions"), [("small", 8.06), ("medium", 20.74)])
def test_the_three_networks_have_the_papers_number_of_parameters(size, millions):
    n = sum(p.numel() for net in networks_of(size) for p in net.parameters())

    assert n / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(("size", "gflop"), [("small", 75.9), ("medium", 235.4)])
def test_the_three_networks_cost_the_papers_operations(size, gflop):
    with torch.device("meta"):
        teacher, student, autoencoder = networks_of(size)
        image = torch.empty(1, 3, 256, 256)
    counter = FlopCounterMode(display=False)

    with counter:
        teacher(image)
        student(image)
        autoencoder.eval()(image)

    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, abs=0.05)


@pytest.mark.parametrize(("size", "gflop"), [("small", 53.4), ("medium", 230.9)])
def test_networks_of_few_channels_cost_less(size, gflop):
    with torch.device("meta"):
        networks = (
            PatchDescriptionNetwork(size, 128, n_hidden=384),
            PatchDescriptionNetwork(size, 128 + 64, n_hidden=768),
            Autoencoder(64).eval(),
        )
        image = torch.empty(1, 3, 256, 256)
    counter = FlopCounterMode(display=False)

    with counter:
        for network in networks:
            network(image)

    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, abs=0.05)


@pytest.mark.parametrize("size", ["small", "medium"])
def test_a_descriptor_sees_exactly_one_patch_of_33_by_33_pixels(size):
    """In double precision, where no rounding of fast convolutions reaches further."""
    network = PatchDescriptionNetwork(size).double()
    image = torch.rand(1, 3, 65, 65, dtype=torch.float64, requires_grad=True)

    network(image)[0, :, 3, 4].sum().backward()

    assert image.grad is not None
    rows, columns = torch.nonzero(image.grad[0].abs().sum(0), as_tuple=True)
    assert (rows.min(), rows.max()) == (4 * 3, 4 * 3 + 32)
    assert (columns.min(), columns.max()) == (4 * 4, 4 * 4 + 32)


@pytest.mark.parametrize("size", ["small", "medium"])
def test_unpadded_descriptors_are_the_interior_of_the_padded_ones(size):
    network = PatchDescriptionNetwork(size).eval()
    image = torch.rand(1, 3, 96, 96)

    with torch.no_grad():
        padded = network(image, padded=True)
        unpadded = network(image)

    assert padded.shape[-2:] == (24, 24)
    assert unpadded.shape[-2:] == (16, 16)
    torch.testing.assert_close(padded[:, :, 4:20, 4:20], unpadded, atol=1e-5, rtol=0)


def test_a_whole_image_gives_the_papers_grids():
    with torch.device("meta"):
        network = PatchDescriptionNetwork("small")
        image = torch.empty(1, 3, 256, 256)

        assert network(image, padded=True).shape == (1, 384, 64, 64)
        assert network(image).shape == (1, 384, 56, 56)
        assert Autoencoder()(image).shape == (1, 384, 56, 56)
        assert Autoencoder()(image, (64, 64)).shape == (1, 384, 64, 64)


def test_folding_batch_normalization_changes_no_descriptor():
    network = PatchDescriptionNetwork("small", has_batch_norm=True)
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
    network = PatchDescriptionNetwork("small", has_batch_norm=True)
    network(torch.randn(2, 3, 49, 49) * 2 + 1)
    network.eval()
    plain = PatchDescriptionNetwork("small")
    plain.load_state_dict(network.state_dict(), strict=False)
    image = torch.randn(1, 3, 61, 61)

    with torch.no_grad(), pytest.raises(AssertionError):
        torch.testing.assert_close(plain(image), network(image), atol=1e-5, rtol=1e-4)


def test_everything_the_autoencoder_knows_passes_through_64_numbers():
    autoencoder = Autoencoder().eval()
    seen = []
    autoencoder.bottleneck.register_forward_hook(lambda *a: seen.append(a[2].shape))

    with torch.no_grad():
        autoencoder(torch.rand(1, 3, 256, 256))

    assert seen == [(1, 64, 1, 1)]
