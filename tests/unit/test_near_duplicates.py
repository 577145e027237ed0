"""Groups of pictures that are nearly the same."""

import numpy as np
from tests.dataset_files import smooth_picture

from efficientad.datasets import near_duplicates
from efficientad.datasets.near_duplicates import similar_groups, thumbnail


def test_thumbnail_has_mean_0_and_deviation_1_or_is_zero():
    small = thumbnail(np.asarray(smooth_picture(0)))

    np.testing.assert_allclose([small.mean(), small.std()], [0, 1], atol=1e-5)
    assert not thumbnail(np.full((20, 30, 3), 7, np.uint8)).any()


def test_similar_groups_are_the_same_picture_with_noise():
    rng = np.random.default_rng(0)
    pictures = [np.asarray(smooth_picture(seed)) for seed in range(8)]
    noisy = pictures[2] + rng.normal(0, 3, pictures[2].shape)
    pictures.append(np.clip(noisy, 0, 255).astype(np.uint8))

    assert similar_groups([thumbnail(image) for image in pictures]) == [[2, 8]]
    assert similar_groups([]) == []


def test_groups_are_linked_over_all_rows_that_are_compared_at_a_time(monkeypatch):
    thumbnails = [thumbnail(np.asarray(smooth_picture(seed))) for seed in range(8)]
    thumbnails = [thumbnails[n] for n in (0, 1, 2, 3, 0, 4, 1, 5, 6, 1, 0, 7)]
    expected = [[0, 4, 10], [1, 6, 9]]

    assert similar_groups(thumbnails) == expected
    monkeypatch.setattr(near_duplicates, "_N_ROWS", 1)
    assert similar_groups(thumbnails) == expected
