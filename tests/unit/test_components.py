"""Connected groups of pixels, against SciPy."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from efficientad.images.components import components

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
