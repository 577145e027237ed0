"""The Gaussian of normal images' cells, learned from the training images."""

import numpy as np

from efficientad.engines.engine import Engine, EngineOutput
from efficientad.images.changes import CHANGES, changed
from efficientad.inspection.tiling import whole_views
from efficientad.method.composition import (
    COMPOSITION,
    MAX_IMAGES,
    Composition,
    fit_composition,
)
from efficientad.method.rule import ANYWHERE, Rule
from efficientad.training.calibration import outputs
from efficientad.training.normal_images import Pixels
from efficientad.training.second_session import n_affordable


def learn_composition(
    engine: Engine, pixels: Pixels, rule: Rule = ANYWHERE, *, seed: int
) -> tuple[Composition, EngineOutput]:
    """Fit the Gaussian to training images, and to changes that are no defects.

    The teacher has not learned from these images, so their own cells say what is usual.

    Args:
        engine: Engine of the trained networks; it gives `cells`.
        pixels: Training images, (n, height, width, 3), at least one.
        rule: Rule of the decision.
        seed: Seed of the changes.

    Returns:
        The Gaussian, and the output for up to 400 of the images with their cross-fitted
        distances.
    """
    pixels = pixels[:: -(-len(pixels) // n_affordable(MAX_IMAGES, pixels))]
    output = outputs(engine, pixels, rule, "training images")
    rng = np.random.default_rng((seed, len(pixels)))
    kinds = list(CHANGES)
    variants = np.stack(
        [
            changed(image, kinds[rng.integers(len(kinds))], rng.uniform(-1, 1), index)
            for index, image in enumerate(whole_views(pixels))
        ]
    )
    cells = outputs(engine, variants, rule, "changed images").values["cells"]
    composition, distances = fit_composition(
        output.values["cells"], cells, np.arange(len(pixels))
    )
    return composition, EngineOutput(
        output.grids, {COMPOSITION: distances[:, np.newaxis]}
    )
