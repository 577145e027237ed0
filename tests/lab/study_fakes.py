"""Fakes of trained models and of trainings, for the tests of studies and figures."""

from dataclasses import asdict

from efficientad.calibration.normal_images import training_and_validation
from efficientad.model_files.teachers import open_teacher
from efficientad_lab.studies.config import StudyConfig

CONFIG = StudyConfig(sizes=("small",), seeds=(0, 1), steps=4, preset="quick")


class FakeTraining:
    """A fake of `train` that notes its calls, and fails for some categories."""

    def __init__(self, make):
        self.make = make
        self.trained = []
        self.fails_for = {}

    def __call__(self, category, config, *, output, recipe, on_step, interrupts):
        assert callable(on_step)
        assert callable(interrupts)
        self.trained.append((category.name, config.size, config.seed))
        if category.name in self.fails_for:
            raise self.fails_for[category.name]
        images, held_out = training_and_validation(
            category,
            validation=config.validation,
            validation_share=config.validation_share,
            seed=config.seed,
        )
        provenance = {
            "training_images": images.hash_of_name,
            "validation_images": held_out.hash_of_name,
            "config": asdict(config),
            "recipe": asdict(recipe),
            "seed": config.seed,
            "teacher": {"hash": open_teacher(config.size).file_hash},
            "training_seconds": 60.0,
        }
        return self.make(provenance, output)


def run_of(category, au_roc, *, collection="mvtec_ad", seed=0, **changes):
    """Return a recorded run with an image AU-ROC."""
    return {
        "experiment": "reproduce",
        "collection": collection,
        "category": category,
        "variant": "small, quick",
        "seed": seed,
        "settings": {"config": {"size": "small"}},
        "metrics": {"image_au_roc": au_roc, "au_pro": 0.9},
        "seconds": {"train": 600.0},
        "latency_ms": 100.0,
        "machine": "2 cores",
        "versions": {"torch": "2.13.0"},
        "commit": "0123456789abcdef",
        **changes,
    }


def loco_run(logical, structural, **changes):
    """Return a recorded run on a scenario of MVTec LOCO."""
    kinds = {
        "logical_anomalies": {"image_au_roc": logical, "au_spro_0.3": 0.6},
        "structural_anomalies": {"image_au_roc": structural, "au_spro_0.3": 0.8},
    }
    metrics = {"image_au_roc": 0.1, "au_pro": 0.1, "defect_types": kinds}
    changes = {"collection": "mvtec_loco", "metrics": metrics} | changes
    return run_of("juice_bottle", 0.0, **changes)
