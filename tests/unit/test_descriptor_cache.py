"""The cache of the teacher's descriptors: half precision, bounded, complete."""

import numpy as np
import pytest
import torch

from efficientad.method.inputs import normalize_images
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.training import descriptor_cache
from efficientad.training.descriptor_cache import DescriptorCache

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return PatchDescriptionNetwork("small").eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 256, 256, 3), np.uint8)


def expected(teacher, pixels, statistics):
    raw = teacher(normalize_images(torch.from_numpy(pixels)))
    mean, std = (v.view(1, -1, 1, 1) for v in statistics)
    return (raw - mean) / std


def test_all_of_a_few_images_are_cached(teacher, pixels):
    cache = DescriptorCache(teacher, pixels, CPU)

    wanted = expected(teacher, pixels, cache.statistics)
    found = torch.stack([cache[index] for index in range(5)])
    torch.testing.assert_close(found, wanted, atol=0.01, rtol=0.01)  # half precision
    torch.testing.assert_close(
        wanted.mean((0, 2, 3)), torch.zeros(384), atol=1e-3, rtol=0
    )
    assert cache._grids.shape == (5, 56, 56, 384)


def test_of_many_images_some_are_cached_and_the_others_computed(
    teacher, pixels, monkeypatch
):
    monkeypatch.setattr(descriptor_cache, "MAX_CACHED", 2)

    cache = DescriptorCache(teacher, pixels, CPU)

    assert cache._grids.shape == (2, 56, 56, 384)
    wanted = expected(teacher, pixels, cache.statistics)
    measured = wanted[[0, 2]].transpose(0, 1).flatten(1)
    torch.testing.assert_close(measured.mean(1), torch.zeros(384), atol=1e-3, rtol=0)
    for index in range(5):
        torch.testing.assert_close(cache[index], wanted[index], atol=0.01, rtol=0.01)
