import os
from dataclasses import replace

import pytest
import torch

from efficientad.distillation.feature_cache import FeatureCache
from efficientad.errors import ModelFileError


def fives(n_images=4):
    """Return a function that gives features of nothing but five, two images at once."""

    def batches_from(n_done):
        for start in range(n_done, n_images, 2):
            yield torch.full((min(2, n_images - start), 2, 2, 3), 5.0)

    return batches_from


def built(cache):
    """Build a cache of fives, and return the number of images that were kept."""
    numbers = []

    def noted(n_done):
        numbers.append(n_done)
        return fives(cache.shape[0])(n_done)

    cache.build(noted)
    assert (cache.open() == 5).all()
    return numbers[0]


@pytest.fixture
def cache(tmp_path):
    """Cached features of four images."""
    cached = FeatureCache(tmp_path / "features", (4, 2, 2, 3), "of these")
    assert built(cached) == 0
    assert built(cached) == 4
    return cached


def test_features_of_a_deleted_file_are_computed_again(cache):
    (cache.folder / "features.f16").unlink()

    assert built(cache) == 0


def test_features_of_a_file_that_was_cut_are_computed_again(cache):
    os.truncate(cache.folder / "features.f16", 80)

    assert built(cache) == 0


@pytest.mark.parametrize("place", [0, 40, 95])
def test_damaged_features_are_computed_again(cache, place, caplog):
    path = cache.folder / "features.f16"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)

    assert built(cache) == 0
    assert f"{path} is damaged, so it is computed again" in caplog.messages
    assert built(cache) == 4


def test_space_that_is_not_filled_does_not_pass_for_features(cache):
    (cache.folder / "features.f16").unlink()

    with pytest.raises(ZeroDivisionError):  # stopped before the first image is done
        cache.build(lambda _: (1 // 0 for _ in range(1)))

    assert built(cache) == 0


def test_a_stopped_build_goes_on_where_it_was(cache):
    assert built(replace(cache, shape=(5, 2, 2, 3))) == 4


def test_features_of_something_else_are_refused(cache):
    other = replace(cache, fingerprint="of others")

    with pytest.raises(ModelFileError, match="holds features of another source"):
        other.build(fives())
    (cache.folder / "features.json").write_text("{}")
    with pytest.raises(ModelFileError, match="is not the index of a feature cache"):
        cache.build(fives())


@pytest.mark.parametrize("n_done", ["-1", '"3"', "2.0", "true", "null", "[" * 10_000])
def test_an_index_that_cannot_be_is_refused(cache, n_done):
    index = cache.folder / "features.json"
    index.write_text(f'{{"fingerprint": "of these", "n_done": {n_done}}}')

    with pytest.raises(ModelFileError, match="is not the index of a feature cache"):
        cache.build(fives())


def test_an_index_of_more_images_than_there_are_counts_none(cache):
    index = cache.folder / "features.json"
    index.write_text('{"fingerprint": "of these", "n_done": 1000000000}')

    assert built(cache) == 0
