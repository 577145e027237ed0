"""Decisions with and without alignment, on parts that lie anywhere.

    python lab/experiments/alignment/run.py ../shared/data/mvtec_ad/screw --seeds 0
    python lab/experiments/alignment/run.py demo/parts --seeds 0 --moved

`--moved` turns each test image by up to 10 degrees and moves it by up to 5 % of its
side; training images stay. A finished run is skipped.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import efficientad
from efficientad.cli.logs import logging_to_stderr
from efficientad.cli.process import keep_freed_memory
from efficientad.images.rgb import read_image, read_mask
from efficientad.method.pose import Pose
from efficientad.method.rule import WHITE
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import file_name, write_run

RESULTS = Path(__file__).with_name("results")
DEGREES, SHIFT = 10.0, 0.05


def move_test_images(category: Path, folder: Path) -> Path:
    """Write a category whose test images and masks are moved, and return it."""
    target = folder / f"{category.name}_moved"
    shutil.copytree(category, target)
    rng = np.random.default_rng(0)
    for path in sorted((target / "test").rglob("*.*")):
        angle, right, down = rng.uniform(-1, 1, 3) * (DEGREES, SHIFT, SHIFT)
        # A pose moves back what lies so.
        pose = Pose(float(angle), float(right), float(down))
        Image.fromarray(pose.aligned(read_image(path))).save(path)
        defect_type = path.parent.name
        mask = target / "ground_truth" / defect_type / f"{path.stem}_mask.png"
        if mask.exists():
            gray = read_mask(mask).astype(np.uint8) * 255
            moved = pose.aligned(np.repeat(gray[..., np.newaxis], 3, 2))
            Image.fromarray(((moved[..., 0] >= WHITE) * 255).astype(np.uint8)).save(
                mask
            )
    return target


def measured(
    category: Path, shown: Path, seed: int, work: Path, *, align: bool
) -> dict[str, float]:
    """Train and evaluate once, and return what is recorded."""
    config = efficientad.TrainConfig(seed=seed, align=align, resume=True)
    name = f"{category.name}_{'aligned' if align else 'as_they_lie'}_seed{seed}.ead"
    start = time.perf_counter()
    predictor = efficientad.train(category, config, output=work / name)
    seconds = time.perf_counter() - start
    found = efficientad.evaluate(predictor, shown)
    alarms = predictor.calibration.session_alarms().values()
    return {
        **found.metrics,
        "n_defects_found": found.n_defects_found,
        "n_defects": found.n_defect,
        "n_normal_flagged": found.n_normal_flagged,
        "n_normal": len(found.scores) - found.n_defect,
        "second_session_alarms": round(sum(alarms) / max(1, len(alarms)), 4),
        "train_seconds": round(seconds, 1),
    }


def main() -> int:
    """Run what is not recorded yet."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("category", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--moved", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args()
    keep_freed_memory()
    facts = environment()
    with tempfile.TemporaryDirectory() as folder:
        shown: Path = given.category
        if given.moved:
            shown = move_test_images(given.category, Path(folder))
        for seed in given.seeds:
            for align in (True, False):
                run = {
                    "experiment": "alignment",
                    "category": shown.name,
                    "variant": "aligned" if align else "as they lie",
                    "seed": seed,
                    "settings": {"align": align},
                }
                if (given.results / file_name(run)).exists():
                    continue
                with logging_to_stderr():
                    metrics = measured(
                        given.category, shown, seed, given.work, align=align
                    )
                write_run(run | {"metrics": metrics} | facts, given.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
