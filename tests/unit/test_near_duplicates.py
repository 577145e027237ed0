"""Pictures that are nearly the same, and the groups of them."""

from itertools import combinations, pairwise

import numpy as np
from tests.dataset_files import smooth_picture

from efficientad.datasets.near_duplicates import linked, similar_pairs, thumbnail


def test_thumbnail_has_mean_0_and_deviation_1_or_is_zero():
    small = thumbnail(np.asarray(smooth_picture(0)))

    np.testing.assert_allclose([small.mean(), small.std()], [0, 1], atol=1e-5)
    assert not thumbnail(np.full((20, 30, 3), 7, np.uint8)).any()


def test_similar_pairs_are_the_same_picture_with_noise():
    rng = np.random.default_rng(0)
    pictures = [np.asarray(smooth_picture(seed)) for seed in range(8)]
    noisy = pictures[2] + rng.normal(0, 3, pictures[2].shape)
    pictures.append(np.clip(noisy, 0, 255).astype(np.uint8))

    assert list(similar_pairs([thumbnail(image) for image in pictures])) == [(2, 8)]
    assert list(similar_pairs([])) == []


def test_linked_groups_do_not_depend_on_the_pairs_that_link_them():
    chain = list(pairwise(range(400)))

    assert linked(400, chain) == [list(range(400))]
    assert linked(400, combinations(range(400), 2)) == linked(400, chain)
    assert linked(400, reversed(chain)) == linked(400, chain)


def test_linked_makes_one_group_of_a_long_chain_from_either_end():
    n = 20_000

    assert linked(n, pairwise(range(n))) == [list(range(n))]
    assert linked(n, pairwise(reversed(range(n)))) == [list(range(n))]


def test_linked_keeps_groups_apart_and_leaves_out_single_indices():
    assert linked(8, [(5, 7), (1, 4), (2, 7), (4, 6)]) == [[1, 4, 6], [2, 5, 7]]
    assert linked(3, []) == []
