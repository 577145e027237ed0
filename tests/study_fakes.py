"""What stands for trainings in the tests of reproduction, ablation and figures."""

from dataclasses import asdict

import numpy as np
from torch import nn

from efficientad.images import as_rgb
from efficientad.method.decision import Prediction
from efficientad.method.detector import Detector
from efficientad.reproduction.config import StudyConfig
from efficientad.training.teachers import open_teacher

CONFIG = StudyConfig(sizes=("small",), seeds=(0, 1), steps=4, preset="quick")


class FakeDetector(Detector):
    """Its score is the brightness, so that each image has one; it has no networks."""

    def __init__(self, provenance):
        nn.Module.__init__(self)
        self.calibration = None
        self.provenance = provenance

    def predict(self, image):
        rgb = as_rgb(image)
        score = float(rgb.mean() / 255)
        grid = np.full((56, 56), score, np.float32)
        return Prediction(score, 0.5, 0.5, *rgb.shape[:2], grid, grid)

    def predict_batch(self, images):
        return [self.predict(image) for image in images]


class FakeTraining:
    """Stands for `train`: notes what it is asked for, and fails where told."""

    def __init__(self, make):
        self.make = make
        self.trained = []
        self.fails_for = {}

    def __call__(self, category, config, *, output, recipe, on_step):
        assert callable(on_step)
        self.trained.append((category.name, config.size, config.seed))
        if category.name in self.fails_for:
            raise self.fails_for[category.name]
        provenance = {
            "config": asdict(config),
            "recipe": asdict(recipe),
            "seed": config.seed,
            "teacher": {"hash": open_teacher(config.size).file_hash},
            "training_seconds": 60.0,
        }
        return self.make(provenance, output)
