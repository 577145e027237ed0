"""The learning rate as a function of the training's progress."""

import math

from efficientad.training.config import RateSchedule

# Algorithm 1: a tenth of the rate after 95 % of the steps.
_DROP_AT = 0.95
_DROP_TO = 0.1
# A short rise from zero lets a high rate start on normalized activations.
_WARM_UP = 0.05


def learning_rate(progress: float, highest: float, schedule: RateSchedule) -> float:
    """Give the learning rate of a step.

    Args:
        progress: Share of the training that is done before the step, in [0, 1).
        highest: Base rate.
        schedule: `constant`; `drop` to a tenth for the last 5 %; `cosine` from a linear
            warm-up over the first 5 % down to zero.
    """
    if schedule == "drop":
        return highest * (_DROP_TO if progress >= _DROP_AT else 1.0)
    if schedule == "cosine":
        if progress < _WARM_UP:
            return highest * (progress + 0.01) / (_WARM_UP + 0.01)
        rest = (progress - _WARM_UP) / (1 - _WARM_UP)
        return highest * 0.5 * (1 + math.cos(math.pi * rest))
    return highest
