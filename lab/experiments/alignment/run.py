"""Decisions with and without alignment, on parts that lie anywhere.

    python lab/experiments/alignment/run.py ../shared/data/mvtec_ad/screw --seeds 0
    python lab/experiments/alignment/run.py demo/parts --seeds 0 --moved

`--moved` draws other test parts of the demo, turned by up to 10 degrees and moved by up
to 5 % of the image's side. A finished run is skipped.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

import efficientad
from efficientad.cli.process import keep_freed_memory, logging_to_stderr
from efficientad.demo_parts import category
from efficientad.engines.names import AlignChoice
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import file_name, write_run
from efficientad_lab.studies.trained_once import trained_once

RESULTS = Path(__file__).with_name("results")
SHIFT, TURN = 12.8, float(np.deg2rad(10))


def draw_moved(folder: Path) -> Path:
    """Draw test parts of the demo that lie further apart, and return their category."""
    before = category._MAX_SHIFT, category._MAX_TURN  # noqa: SLF001
    category._MAX_SHIFT, category._MAX_TURN = SHIFT, TURN  # type: ignore[misc]  # noqa: SLF001
    target = folder / "demo_parts_moved"
    category.write_category(target, n_train=1, n_test_good=20, n_per_defect=6, seed=1)
    category._MAX_SHIFT, category._MAX_TURN = before  # type: ignore[misc]  # noqa: SLF001
    return target


def measured(
    trained: Path, shown: Path, seed: int, work: Path, *, align: bool
) -> dict[str, object]:
    """Train and evaluate once, and return what is recorded."""
    choice: AlignChoice = "always" if align else "never"
    config = efficientad.TrainConfig(seed=seed, align=choice, resume=True)
    name = f"{trained.name}_{'aligned' if align else 'as_they_lie'}_seed{seed}.ead"
    predictor, _, fields = trained_once(trained, shown, config, work / name)
    alarms = predictor.calibration.session_alarms().values()
    fields["metrics"]["session_alarms"] = sum(alarms) / max(1, len(alarms))
    return fields


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
            shown = draw_moved(Path(folder))
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
                    found = measured(
                        given.category, shown, seed, given.work, align=align
                    )
                write_run(run | found | facts, given.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
