"""Fake models that a station opens in its own process: little to import."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.fake_engines import BrightnessEngine, brightness_predictor

from efficientad.engines.engine import EngineOutput
from efficientad.inspection.predictor import Predictor

NORMAL, ANOMALOUS, SLOW, DEADLY, ENDLESS = 60, 200, 249, 251, 253
"""Brightness of images; the last three delay, end or stop the process that predicts."""


class DangerousEngine(BrightnessEngine):
    """Its score is the brightness; some kill it, as a fault in native code would."""

    def run(self, pixels: Any) -> EngineOutput:
        """Compute two constant maps of each image."""
        match round(float(pixels.mean())):
            case level if level == DEADLY:
                os.kill(os.getpid(), signal.SIGKILL)
            case level if level == SLOW:
                time.sleep(2)
            case level if level == ENDLESS:
                time.sleep(60)
        output: EngineOutput = super().run(pixels)
        return output


def deadly_once(path: Path, config: Any) -> Predictor:
    """Kill the process that opens the model, but only the first one."""
    mark = path.with_name("opened")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return dangerous(path, config)


def held(path: Path, config: Any) -> Predictor:
    """Open the fake model; from the second time on, once a file `go` is beside it."""
    mark = path.with_name("opened")
    while mark.exists() and not path.with_name("go").exists():
        time.sleep(0.05)
    mark.touch()
    return dangerous(path, config)


def dangerous(_path: Path, _config: Any) -> Predictor:
    """Open the fake model; its threshold is 0.5, half of the brightest image."""
    predictor: Predictor = brightness_predictor()
    return replace(predictor, engine=DangerousEngine())
