"""The verb `demo`: parts drawn by code, and every step from images to a report."""

import json
from contextlib import suppress
from pathlib import Path

from efficientad.demo_parts import write_category
from efficientad.evaluation.evaluate import evaluate
from efficientad.evaluation.results import Evaluation
from efficientad.settings import Seed, Steps, checks_arguments
from efficientad.storage import write_atomically
from efficientad.training.config import TrainConfig
from efficientad.training.run import train

# The threshold rests on six held-out images, and the demo takes less than five minutes.
_N_TRAIN, _N_TEST_GOOD, _N_PER_DEFECT = 60, 20, 6
_STEPS = 150
_TITLE = "Demo on parts drawn by code"


@checks_arguments
def demo(
    output: Path = Path("demo"), *, steps: Steps | None = None, seed: Seed = 0
) -> Evaluation:
    """Draw parts, train, calibrate, evaluate, and write a report.

    Args:
        output: Folder for `parts`, `part.ead`, `metrics.json` and `report.html`. Parts
            that are already there are used again.
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
    return evaluate(detector, parts, output=output, title=_TITLE, is_dated=False)


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
