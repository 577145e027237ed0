import os
from dataclasses import replace

import pytest
import torch

from efficientad.distillation.feature_cache import FeatureCache
from efficientad.errors import ModelFileError


def fives(n_done, n_images=4):
    """Features of nothing but five, two images at once."""
    for start in range(n_done, n_images, 2):
        yield torch.full((min(2, n_images - start), 2, 2, 3), 5.0)


@pytest.fixture
def cache(tmp_path):
    """Cached features of four images."""
    cached = FeatureCache(tmp_path / "features", (4, 2, 2, 3), "of these")
    cached.build(fives(0))
    assert cached.n_done() == 4
    return cached


def test_features_of_a_deleted_file_are_computed_again(cache):
    (cache.folder / "features.f16").unlink()

    assert cache.n_done() == 0
    cache.build(fives(0))
    assert (cache.open() == 5).all()


def test_features_of_a_file_that_was_cut_are_computed_again(cache):
    os.truncate(cache.folder / "features.f16", 80)

    assert cache.n_done() == 0
    cache.build(fives(0))
    assert (cache.open() == 5).all()


def test_space_that_is_not_filled_does_not_pass_for_features(cache):
    (cache.folder / "features.f16").unlink()

    with pytest.raises(ZeroDivisionError):  # stopped before the first image is done
        cache.build(1 // 0 for _ in range(1))

    assert cache.n_done() == 0
    cache.build(fives(0))
    assert (cache.open() == 5).all()


def test_a_stopped_build_goes_on_where_it_was(cache):
    more = replace(cache, shape=(5, 2, 2, 3))
    assert more.n_done() == 4

    more.build(fives(4, 5))

    assert more.n_done() == 5
    assert (more.open() == 5).all()


def test_features_of_something_else_are_refused(cache):
    other = replace(cache, fingerprint="of others")

    with pytest.raises(ModelFileError, match="holds features of another source"):
        other.build(fives(0))
    (cache.folder / "features.json").write_text("{}")
    with pytest.raises(ModelFileError, match="is not the index of a feature cache"):
        cache.n_done()


@pytest.mark.parametrize("n_done", ["-1", '"3"', "2.0", "true", "null", "[" * 10_000])
def test_an_index_that_cannot_be_is_refused(cache, n_done):
    index = cache.folder / "features.json"
    index.write_text(f'{{"fingerprint": "of these", "n_done": {n_done}}}')

    with pytest.raises(ModelFileError, match="is not the index of a feature cache"):
        cache.n_done()


def test_an_index_of_more_images_than_there_are_counts_none(cache):
    index = cache.folder / "features.json"
    index.write_text('{"fingerprint": "of these", "n_done": 1000000000}')

    assert cache.n_done() == 0
