"""Whether a scenario can be judged, found out before hours go into its training."""

import numpy as np

from efficientad.datasets import MIN_NORMAL_IMAGES, Category
from efficientad.errors import DatasetError
from efficientad.evaluation.evaluate import require_both_kinds
from efficientad.evaluation.pixel_results import Annotations
from efficientad.images.rgb import image_hash, read_image


def require_judgeable(category: Category) -> None:
    """Find out before a training what would be an error in it or after it.

    Raises:
        DatasetError: If there are too few normal images, if an annotation cannot be
            used, or if a test image is also one to train or calibrate on.
        ImageError: If a test image or its annotation cannot be read.
        UndefinedMetricError: If there are no normal or no defective test images.
    """
    require_both_kinds(category, otherwise="leave it out")
    if len(category.train) < MIN_NORMAL_IMAGES:
        raise DatasetError(
            f"a scenario needs at least {MIN_NORMAL_IMAGES} normal images to train on, "
            f"{category.root} has {len(category.train)}; add some, or leave it out"
        )
    # What judging would refuse is refused now; the published collections are judged as
    # they are.
    is_plain = category.collection == "plain"
    normal = (*category.train, *category.validation) if is_plain else ()
    twins = {image_hash(read_image(sample.path)): sample.path for sample in normal}
    annotations = Annotations(category)
    for sample in category.test:
        image = read_image(sample.path)
        twin = twins.get(image_hash(image))
        if twin is not None:
            raise DatasetError(
                "a scenario needs test images that are not trained on, "
                f"{sample.path} is the same picture as {twin}; remove one of them"
            )
        if sample.is_defect and sample.mask_path is not None:
            annotations.defect_pixels(sample, np.zeros(image.shape[:2], np.float32))
