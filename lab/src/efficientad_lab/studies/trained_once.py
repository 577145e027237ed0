"""One training and its evaluation, as an experiment records them."""

from pathlib import Path
from typing import Any

from efficientad.evaluation.evaluate import evaluate
from efficientad.evaluation.results import Evaluation
from efficientad.inspection.predictor import Predictor
from efficientad.training.config import TrainConfig
from efficientad.training.run import train


def trained_once(
    trained: Path, shown: Path, config: TrainConfig, output: Path
) -> tuple[Predictor, Evaluation, dict[str, Any]]:
    """Train, evaluate, and return both with the fields of a recorded run.

    Args:
        trained: Category whose normal images are trained on.
        shown: Category whose test images are predicted.
        config: Settings of the training.
        output: Detector file to write.
    """
    predictor = train(trained, config, output=output)
    found = evaluate(predictor, shown)
    fields = {
        "n_defects_found": found.n_defects_found,
        "n_defect": found.n_defect,
        "n_normal_flagged": found.n_normal_flagged,
        "n_normal": len(found.scores) - found.n_defect,
        "seconds": {"train": predictor.provenance["training_seconds"]},
        "metrics": dict(found.metrics),
    }
    return predictor, found, fields
