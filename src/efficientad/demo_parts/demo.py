"""The verb `demo`: parts drawn by code, and every step from images to a report."""

import json
from contextlib import suppress
from pathlib import Path

from efficientad.calibration.calibrate import calibrate
from efficientad.calibration.rule_options import RuleOptions
from efficientad.demo_parts import write_category
from efficientad.evaluation.evaluate import evaluate
from efficientad.evaluation.results import Evaluation
from efficientad.inspection.opening import save
from efficientad.inspection.predictor import Predictor
from efficientad.settings import Seed, Steps, checks_arguments
from efficientad.storage import write_atomically
from efficientad.training.config import TrainConfig
from efficientad.training.run import train

# The threshold rests on six held-out images, and the demo takes less than five minutes.
_N_TRAIN, _N_TEST_GOOD, _N_PER_DEFECT = 60, 20, 6
_STEPS = 150
_TITLE = "Demo on parts drawn by code"

# The plate wherever it lies, and what its descriptors see around it.
_PLATE = [[0.04, 0.12], [0.96, 0.12], [0.96, 0.88], [0.04, 0.88]]
_MIN_AREA = 20


@checks_arguments
def demo(
    output: Path = Path("demo"), *, steps: Steps | None = None, seed: Seed = 0
) -> Evaluation:
    """Draw parts, train, calibrate, evaluate, and write a report.

    Args:
        output: Folder for `parts`, `part.ead`, `metrics.json` and `report.html`. Parts
            that are already there are used again. The folder `region` in it has the
            same with a region of interest and a least area.
        steps: Optimizer steps of the training. None: a number that fits into five
            minutes on two cores.
        seed: Seed of parts and training.

    Raises:
        DatasetError: If `parts` holds something else, such as parts of another seed.
        StorageError: If a result cannot be written.
    """
    steps = _STEPS if steps is None else steps
    config = TrainConfig(preset="quick", steps=steps, seed=seed, resume=True)
    parts = output / "parts"
    _draw_parts(parts, seed)
    detector = train(parts, config, output=output / "part.ead")
    _evaluate_in_region(detector, parts, output / "region")
    return evaluate(detector, parts, output=output, title=_TITLE, is_dated=False)


def _evaluate_in_region(detector: Predictor, parts: Path, output: Path) -> None:
    region = output / "region.json"
    region.parent.mkdir(exist_ok=True)
    polygons = json.dumps({"unit": "shares", "polygons": [_PLATE]})
    write_atomically(region, polygons.encode())
    held_out = list(detector.provenance["validation_images"])
    rule = RuleOptions(region=region, min_area=_MIN_AREA)
    limited = calibrate(detector, held_out, rule=rule)
    save(limited, output / "part.ead")
    title = f"{_TITLE}: defects of {_MIN_AREA} pixels or more on the plate"
    evaluate(limited, parts, output=output, title=title, is_dated=False)


def _draw_parts(folder: Path, seed: int) -> None:
    counts = {
        "n_train": _N_TRAIN,
        "n_test_good": _N_TEST_GOOD,
        "n_per_defect": _N_PER_DEFECT,
        "seed": seed,
    }
    record = folder / "drawn.json"
    with suppress(OSError, ValueError):
        if json.loads(record.read_text(encoding="utf-8")) == counts:
            return
    write_category(folder, **counts)
    write_atomically(record, json.dumps(counts).encode())
