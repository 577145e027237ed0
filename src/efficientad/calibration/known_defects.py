"""A few known defects, and what a threshold finds of them.

They show what to expect, and choose nothing: the threshold stays that of the normal
images.
"""

import math
from bisect import bisect_right
from pathlib import Path
from typing import Final

from efficientad.decisions.budget import BUDGETS
from efficientad.errors import DatasetError
from efficientad.images.listing import find_images, unused_files
from efficientad.inspection.opening import load

_Z: Final = 1.96  # of a normal distribution, for 95 %


def expectations(model: Path, defects: Path) -> list[str]:
    """Return lines on the defects of a folder found, and false alarms, at each budget.

    Raises:
        DatasetError: If the folder holds no images.
        ImageError: If one cannot be read.
    """
    paths = find_images(defects, recursive=True)
    if not paths:
        raise DatasetError(f"needed images of known defects, found none in {defects}")
    predictor = load(model)
    calibration = predictor.calibration
    scores = sorted(predictor.predict(path).image_score for path in paths)
    n_normal = len(calibration.normal_scores)
    lines = [f"{'budget':>7}  {'threshold':>9}  {'defects found':>26}  false alarms"]
    best = None
    for budget in BUDGETS:
        other = calibration.at_budget(budget)
        n_found = len(scores) - bisect_right(scores, other.threshold)
        best = budget if best is None and n_found == len(scores) else best
        lines.append(
            f"{budget:>7.1%}  {other.threshold:9.4g}  "
            f"{_of(n_found, len(scores)):>26}  {_of(other.n_flagged, n_normal)}"
        )
    lines.append("in brackets: 95 % confidence intervals")
    if best is None:
        lines.append("no budget finds all of these defects")
    else:
        lines.append(
            f"the smallest budget that finds all of these defects is {best:.1%}; "
            f"to take it: --false-alarm-budget {best}"
        )
    unused = unused_files(defects, paths)
    return [*lines, unused] if unused else lines


def _of(n_found: int, n: int) -> str:
    low, high = wilson_interval(n_found, n)
    return f"{n_found} of {n} ({low:.0%} to {high:.0%})"


def wilson_interval(n_found: int, n: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share (Wilson 1927); n is at least 1."""
    share, factor = n_found / n, _Z**2 / n
    center = (share + factor / 2) / (1 + factor)
    half = math.sqrt(share * (1 - share) * factor + factor**2 / 4) / (1 + factor)
    return max(0.0, center - half), min(1.0, center + half)
