"""The Gaussian of normal images' cells, learned from the training images."""

import numpy as np

from efficientad.engines.engine import Engine, EngineOutput
from efficientad.images.changes import CHANGES, changed
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

    Args:
        engine: Engine of the trained networks; it gives `cells`.
        pixels: Training images, (n, 256, 256, 3), at least one.
        rule: Rule of the decision.
        seed: Seed of the changes.

    Returns:
        The Gaussian, and the output for up to 400 of the images with their cross-fitted
        distances.
    """
    pixels = _affordable(pixels)
    output = training_output(engine, pixels, rule)
    rng = np.random.default_rng((seed, len(pixels)))
    kinds = list(CHANGES)
    variants = np.stack(
        [
            changed(image, kinds[rng.integers(len(kinds))], rng.uniform(-1, 1), index)
            for index, image in enumerate(pixels)
        ]
    )
    cells = outputs(engine, variants, rule, "changed images").values["cells"]
    composition, distances = fit_composition(
        output.values["cells"], cells, np.arange(len(pixels))
    )
    return composition, EngineOutput(
        output.grids, {COMPOSITION: distances[:, np.newaxis]}
    )


def training_output(
    engine: Engine, pixels: Pixels, rule: Rule = ANYWHERE
) -> EngineOutput:
    """Return the output of an engine for up to 400 of the training images.

    Args:
        engine: Engine of the trained networks.
        pixels: Training images, (n, height, width, 3), at least one.
        rule: Rule of the decision.
    """
    return outputs(engine, _affordable(pixels), rule, "training images")


def _affordable(pixels: Pixels) -> Pixels:
    """Return up to 400 images, spread evenly, or fewer large ones."""
    return pixels[:: -(-len(pixels) // n_affordable(MAX_IMAGES, pixels))]
