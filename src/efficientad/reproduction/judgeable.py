"""Whether a scenario can be judged, found out before hours go into its training."""

import numpy as np

from efficientad.datasets import MIN_NORMAL_IMAGES, Category
from efficientad.errors import DatasetError
from efficientad.images import read_image
from efficientad.judgement.evaluation import require_both_kinds
from efficientad.judgement.pixel_results import PixelResults


def require_judgeable(category: Category) -> None:
    """Find out before a training what would be an error in it or after it.

    Raises:
        DatasetError: If there are too few normal images, or an annotation cannot be
            used.
        ImageError: If a test image or its annotation cannot be read.
        UndefinedMetricError: If there are no normal or no defective test images.
    """
    require_both_kinds(category, otherwise="leave it out")
    if len(category.train) < MIN_NORMAL_IMAGES:
        raise DatasetError(
            f"a scenario needs at least {MIN_NORMAL_IMAGES} normal images to train on, "
            f"{category.root} has {len(category.train)}; add some, or leave it out"
        )
    # What judging would refuse is refused now.
    results = PixelResults(category)
    for sample in category.test:
        if sample.is_defect and sample.mask_path is not None:
            height, width = read_image(sample.path).shape[:2]
            results.add(sample, np.zeros((height, width), np.float32))
