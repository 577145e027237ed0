"""Shape annotations are checked under pytest: the proof that they are."""

import pytest
import torch
from jaxtyping import TypeCheckError

from efficientad.method.losses import hard_feature_loss


def test_a_missing_axis_is_refused():
    with pytest.raises(TypeCheckError, match="teacher"):
        hard_feature_loss(torch.zeros(2, 3), torch.zeros(2, 3))


def test_two_shapes_that_disagree_are_refused():
    with pytest.raises(TypeCheckError, match="student"):
        hard_feature_loss(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))
