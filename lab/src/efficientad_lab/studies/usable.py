"""Checks of a scenario before hours go into its training."""

import numpy as np

from efficientad.datasets import MIN_NORMAL_IMAGES, Category
from efficientad.errors import DatasetError
from efficientad.evaluation.evaluate import require_both_kinds
from efficientad.evaluation.pixel_results import Annotations
from efficientad.images.rgb import image_hash, read_image


def require_usable(category: Category) -> None:
    """Raise the errors that the training or the evaluation would raise later.

    Raises:
        DatasetError: If there are too few normal images, if an annotation cannot be
            used, or if a test image is also a training or calibration image.
        ImageError: If a test image or its annotation cannot be read.
        UndefinedMetricError: If there are no normal or no defective test images.
    """
    require_both_kinds(category, otherwise="leave it out")
    if len(category.train) < MIN_NORMAL_IMAGES:
        raise DatasetError(
            f"a scenario needs at least {MIN_NORMAL_IMAGES} normal images to train on, "
            f"{category.root} has {len(category.train)}; add some, or leave it out"
        )
    # The evaluation refuses these test images too; it takes the published collections
    # as they are.
    is_plain = category.collection == "plain"
    normal = (*category.train, *category.validation) if is_plain else ()
    training = {image_hash(read_image(sample.path)): sample.path for sample in normal}
    annotations = Annotations(category)
    for sample in category.test:
        image = read_image(sample.path)
        duplicate = training.get(image_hash(image))
        if duplicate is not None:
            raise DatasetError(
                "a scenario needs test images that are not trained on, "
                f"{sample.path} is a duplicate of {duplicate}; remove one of them"
            )
        if sample.is_defect and sample.mask_path is not None:
            annotations.defect_pixels(sample, np.zeros(image.shape[:2], np.float32))
