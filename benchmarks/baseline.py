"""The plain baseline of all comparisons; it is part of the package, as the verb is.

`efficientad benchmark` measures beside it, so it stands in `efficientad_lab.benchmark`.
"""

from efficientad_lab.benchmark.baseline import Baseline, baseline, raw_maps

__all__ = ["Baseline", "baseline", "raw_maps"]
