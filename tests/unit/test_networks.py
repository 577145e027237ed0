"""The networks against the paper's facts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from efficientad.kernels.winograd import FAST
from efficientad.method.networks import (
    PLAIN,
    Autoencoder,
    PatchDescriptionNetwork,
    plain_network,
)
from efficientad.method.sizes import (
    AUTOENCODER,
    PATCH_DESCRIPTION_NETWORKS,
    unpadded,
    with_channels,
)


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


def test_everything_the_autoencoder_knows_passes_through_64_numbers():
    seen: list[torch.Size] = []

    def convolve(image, weight, bias, **options):
        result = PLAIN.convolve(image, weight, bias, **options)
        if weight is autoencoder.bottleneck.weight:
            seen.append(result.shape)
        return result

    autoencoder = Autoencoder(operations=PLAIN._replace(convolve=convolve)).eval()

    with torch.no_grad():
        autoencoder(torch.rand(1, 3, 256, 256))

    assert seen == [(1, 64, 1, 1)]


def assert_same_function(network, plain, image, **options):
    """Give `plain` the weights of `network`, in their order, and compare."""
    with torch.no_grad():
        for own, copied in zip(network.parameters(), plain.parameters(), strict=True):
            own.copy_(copied)
        expected = plain.eval()(image)
        found = network.eval()(image, **options)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("operations", [PLAIN, FAST])
@pytest.mark.parametrize("size", ["small", "medium"])
def test_a_patch_description_network_computes_its_rows(size, operations):
    layers = with_channels(PATCH_DESCRIPTION_NETWORKS[size], 96, 128)
    network = PatchDescriptionNetwork(size, 96, n_hidden=128, operations=operations)
    image = torch.rand(1, 3, 65, 61)

    assert_same_function(network, plain_network(unpadded(layers)), image)
    assert_same_function(network, plain_network(layers), image, padded=True)
    with pytest.raises(AssertionError):
        assert_same_function(network, plain_network(layers), image)


@pytest.mark.parametrize("operations", [PLAIN, FAST])
def test_the_autoencoder_computes_its_rows(operations):
    autoencoder = Autoencoder(operations=operations)

    assert_same_function(
        autoencoder, plain_network(AUTOENCODER), torch.rand(1, 3, 256, 256)
    )


def test_dropout_acts_while_training_only():
    autoencoder, image = Autoencoder(), torch.rand(1, 3, 256, 256)

    with torch.no_grad():
        one, other = autoencoder(image), autoencoder(image)
        assert not torch.equal(one, other)
        autoencoder.eval()
        assert torch.equal(autoencoder(image), autoencoder(image))
