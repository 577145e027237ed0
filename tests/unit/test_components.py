"""Connected groups of pixels, against SciPy."""

from itertools import combinations, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from efficientad.images.components import components, joined

masks = arrays(
    np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=st.booleans()
)


@given(masks)
def test_groups_are_those_of_scipy(mask):
    expected, n = ndimage.label(mask)

    found = components(mask)
    labels = found.labels(*mask.shape)

    np.testing.assert_array_equal(labels >= 0, mask)
    pairs = set(zip(labels[mask].tolist(), expected[mask].tolist(), strict=True))
    assert len(pairs) == n == len(found.areas())
    sizes = np.bincount(labels[mask], minlength=n)
    np.testing.assert_array_equal(found.areas(), sizes)


def test_a_hole_belongs_to_no_group_and_corners_do_not_connect():
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    mask[0, 0] = mask[0, 1] = mask[1, 1] = mask[1, 0] = False
    mask[0, 0] = True

    assert sorted(components(mask).areas().tolist()) == [1, 20]
    assert components(mask).labels(5, 5)[2, 2] == -1


def linked(n, edges):
    one, other = np.array(edges, np.intp).reshape(-1, 2).T
    return joined(n, one, other).tolist()


def test_groups_do_not_depend_on_the_edges_that_join_them():
    chain = list(pairwise(range(400)))

    assert linked(400, chain) == [0] * 400
    assert linked(400, list(combinations(range(400), 2))) == [0] * 400
    assert linked(400, chain[::-1]) == [0] * 400


def test_a_long_chain_is_one_group_from_either_end():
    n = 20_000

    assert linked(n, list(pairwise(range(n)))) == [0] * n
    assert linked(n, list(pairwise(reversed(range(n))))) == [0] * n


def test_groups_stay_apart():
    found = linked(8, [(5, 7), (1, 4), (2, 7), (4, 6)])

    assert found == [0, 1, 2, 3, 1, 2, 1, 2]
    assert linked(3, []) == [0, 1, 2]
