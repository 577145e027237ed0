"""EfficientAD: find what is wrong in a picture, having seen only good ones.

    import efficientad

    predictor = efficientad.train("parts/good")
    prediction = predictor.predict("part.png")
    prediction.image_score, prediction.is_anomalous, prediction.anomaly_map

A name that needs torch is loaded when it is first asked for (PEP 562): a line-side
computer reads pictures and settings without torch, and the command line starts quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from efficientad.errors import (
    TRAIN_EXTRA,
    ConfigError,
    DatasetError,
    EfficientADError,
    ExportMismatchError,
    ImageError,
    MissingDependencyError,
    ModelFileError,
    ResultError,
    StorageError,
    TrainingError,
    UndefinedMetricError,
    extra_is_missing,
)

if TYPE_CHECKING:
    from efficientad.calibration.calibrate import calibrate
    from efficientad.calibration.rule_options import RuleOptions
    from efficientad.calibration.threshold import threshold
    from efficientad.decisions.decision import Calibration
    from efficientad.decisions.rule import Region
    from efficientad.demo_parts.demo import demo
    from efficientad.distillation.config import DistillConfig
    from efficientad.distillation.distill import distill
    from efficientad.evaluation.check import check
    from efficientad.evaluation.evaluate import evaluate
    from efficientad.evaluation.results import Evaluation
    from efficientad.exports.export import export
    from efficientad.images.rgb import as_rgb
    from efficientad.inspection.card import card
    from efficientad.inspection.files import predict
    from efficientad.inspection.opening import load, save
    from efficientad.inspection.prediction import Prediction, Predictions
    from efficientad.inspection.predictor import Predictor
    from efficientad.inspection.streams import predictions
    from efficientad.method.detector import Detector
    from efficientad.model_files.teachers import load_teacher
    from efficientad.training.config import TrainConfig
    from efficientad.training.run import train

__version__ = "0.1.0"

__all__ = [
    "Calibration",
    "ConfigError",
    "DatasetError",
    "Detector",
    "DistillConfig",
    "EfficientADError",
    "Evaluation",
    "ExportMismatchError",
    "ImageError",
    "MissingDependencyError",
    "ModelFileError",
    "Prediction",
    "Predictions",
    "Predictor",
    "Region",
    "ResultError",
    "RuleOptions",
    "StorageError",
    "TrainConfig",
    "TrainingError",
    "UndefinedMetricError",
    "as_rgb",
    "calibrate",
    "card",
    "check",
    "demo",
    "distill",
    "evaluate",
    "export",
    "load",
    "load_teacher",
    "predict",
    "predictions",
    "save",
    "threshold",
    "train",
]

_HOME_OF = {
    "Calibration": "decisions.decision",
    "Detector": "method.detector",
    "DistillConfig": "distillation.config",
    "Evaluation": "evaluation.results",
    "Prediction": "inspection.prediction",
    "Predictions": "inspection.prediction",
    "Predictor": "inspection.predictor",
    "Region": "decisions.rule",
    "RuleOptions": "calibration.rule_options",
    "TrainConfig": "training.config",
    "as_rgb": "images.rgb",
    "calibrate": "calibration.calibrate",
    "card": "inspection.card",
    "check": "evaluation.check",
    "demo": "demo_parts.demo",
    "distill": "distillation.distill",
    "evaluate": "evaluation.evaluate",
    "export": "exports.export",
    "load": "inspection.opening",
    "load_teacher": "model_files.teachers",
    "predict": "inspection.files",
    "predictions": "inspection.streams",
    "save": "inspection.opening",
    "threshold": "calibration.threshold",
    "train": "training.run",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module it lives in."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name not in TRAIN_EXTRA:
            raise
        raise extra_is_missing(f"{__name__}.{name}", "train", error) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
