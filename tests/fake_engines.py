"""An engine without networks, for tests of what stands behind the grids."""

from typing import Literal

import numpy as np

from efficientad.decisions.decision import Calibration
from efficientad.engines.engine import EngineOutput, Precision
from efficientad.inspection.predictor import Predictor
from efficientad.method.maps import MapScale


class BrightnessEngine:
    """Its maps are the brightness of the image, from 0 to 1, everywhere the same."""

    is_concurrent = True
    precision: Precision = "fp32"
    device: Literal["cpu"] = "cpu"

    def run(self, pixels):
        """Compute two constant maps of each image."""
        brightness = pixels.mean((1, 2, 3), dtype=np.float32) / np.float32(255)
        grids = np.broadcast_to(brightness[:, None, None], (len(pixels), 56, 56)).copy()
        return EngineOutput({"local": grids, "global": grids})


def brightness_predictor(**provenance):
    """Return a predictor whose score is the brightness; it was trained on no image."""
    as_it_is = dict.fromkeys(("local", "global"), MapScale(0.0, 0.1))
    return Predictor(
        engine=BrightnessEngine(),
        calibration=Calibration(as_it_is, normal_scores=(0.5,)),
        provenance={"training_images": {}, **provenance},
        size="small",
    )
