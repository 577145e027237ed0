"""Do good test images look like the held-out normal ones? A two-sample test.

If they do not, AU-ROC against good test images measures the difference of two recording
sessions as well. It may flatter: test images that are darker score lower or higher than
what a line would see. AU-ROC against held-out normal images has no such help.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.stats import mannwhitneyu

from efficientad.images.appearance import QUANTITIES

_LEVEL: Final = 0.01
"""Probability that any quantity is called different where none is."""
SCORE: Final = "image score"
"""The quantity that is measured by the model, beside those of the pictures."""
_WORDS: Final = {**QUANTITIES, SCORE: ("of lower scores", "of higher scores")}


@dataclass(frozen=True, slots=True)
class Shift:
    """A quantity in which good test images differ from held-out normal images."""

    quantity: str
    """`brightness`, `contrast`, `sharpness` or `image score`."""
    test: float
    """Median of the good test images."""
    held_out: float
    """Median of the held-out normal images."""
    p_value: float
    """Probability of a difference at least as large between samples of one kind."""

    def __str__(self) -> str:
        words = _WORDS[self.quantity][self.test > self.held_out]
        return (
            f"good test images are {words} than held-out normal images (median "
            f"{self.quantity} {self.test:.3g} against {self.held_out:.3g}, "
            f"p = {self.p_value:.1g})"
        )


def shifts(
    test: Mapping[str, Sequence[float]], held_out: Mapping[str, Sequence[float]]
) -> tuple[Shift, ...]:
    """Return the quantities that differ, by the test of Mann and Whitney.

    The tests share a level of 1 % (Bonferroni). Quantities that held-out images lack,
    as in models of earlier versions, are left out.
    """
    shared = [name for name in test if held_out.get(name)]
    found = []
    for name in shared:
        p_value = float(mannwhitneyu(test[name], held_out[name]).pvalue)
        if p_value < _LEVEL / len(shared):
            medians = float(np.median(test[name])), float(np.median(held_out[name]))
            found.append(Shift(name, *medians, p_value))
    return tuple(found)
