"""EfficientAD: find what is wrong in a picture, having seen only good ones.

    import efficientad

    detector = efficientad.train("parts/good")
    prediction = detector.predict("part.png")
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
    NotCalibratedError,
    ResultError,
    StorageError,
    TrainingError,
    UndefinedMetricError,
    train_extra_is_missing,
)

if TYPE_CHECKING:
    from efficientad.deployment.benchmark import benchmark
    from efficientad.deployment.decision_file import change_decision, read_decision
    from efficientad.deployment.export import export
    from efficientad.deployment.prediction import predict_files
    from efficientad.deployment.runtimes import load_predictor
    from efficientad.deployment.streams import predictions
    from efficientad.figures.config import FigureConfig
    from efficientad.figures.drawing import draw_figures
    from efficientad.judgement.data_check import check_data
    from efficientad.judgement.demo import run_demo
    from efficientad.judgement.evaluation import Evaluation, evaluate
    from efficientad.measurement.config import BenchmarkConfig
    from efficientad.method.decision import Calibration, Prediction
    from efficientad.method.detector import Detector
    from efficientad.method.predictor import Predictor
    from efficientad.reproduction.ablation import ablate
    from efficientad.reproduction.config import StudyConfig
    from efficientad.reproduction.reproduce import reproduce
    from efficientad.training.config import DistillConfig, TrainConfig
    from efficientad.training.distillation import distill
    from efficientad.training.model_file import load, recalibrate, save
    from efficientad.training.student import train
    from efficientad.training.teachers import load_teacher

__version__ = "0.1.0"

__all__ = [
    "BenchmarkConfig",
    "Calibration",
    "ConfigError",
    "DatasetError",
    "Detector",
    "DistillConfig",
    "EfficientADError",
    "Evaluation",
    "ExportMismatchError",
    "FigureConfig",
    "ImageError",
    "MissingDependencyError",
    "ModelFileError",
    "NotCalibratedError",
    "Prediction",
    "Predictor",
    "ResultError",
    "StorageError",
    "StudyConfig",
    "TrainConfig",
    "TrainingError",
    "UndefinedMetricError",
    "ablate",
    "benchmark",
    "change_decision",
    "check_data",
    "distill",
    "draw_figures",
    "evaluate",
    "export",
    "load",
    "load_predictor",
    "load_teacher",
    "predict_files",
    "predictions",
    "read_decision",
    "recalibrate",
    "reproduce",
    "run_demo",
    "save",
    "train",
]

_HOME_OF = {
    "BenchmarkConfig": "measurement.config",
    "Calibration": "method.decision",
    "Detector": "method.detector",
    "DistillConfig": "training.config",
    "Evaluation": "judgement.evaluation",
    "FigureConfig": "figures.config",
    "Prediction": "method.decision",
    "Predictor": "method.predictor",
    "StudyConfig": "reproduction.config",
    "TrainConfig": "training.config",
    "ablate": "reproduction.ablation",
    "benchmark": "deployment.benchmark",
    "change_decision": "deployment.decision_file",
    "check_data": "judgement.data_check",
    "distill": "training.distillation",
    "draw_figures": "figures.drawing",
    "evaluate": "judgement.evaluation",
    "export": "deployment.export",
    "load": "training.model_file",
    "load_predictor": "deployment.runtimes",
    "load_teacher": "training.teachers",
    "predict_files": "deployment.prediction",
    "predictions": "deployment.streams",
    "read_decision": "deployment.decision_file",
    "recalibrate": "training.model_file",
    "reproduce": "reproduction.reproduce",
    "run_demo": "judgement.demo",
    "save": "training.model_file",
    "train": "training.student",
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
        raise train_extra_is_missing(f"{__name__}.{name}", error) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
