"""Accuracy of whole images against tiles; one recorded run for each seed and form.

    python lab/experiments/tiles/draw.py /tmp/small_defects
    python lab/experiments/tiles/run.py /tmp/small_defects --seeds 0 1 2
    python lab/experiments/tiles/run.py ../shared/data/kolektor_sdd --seeds 0 1 2

A finished run is skipped, so the same command can be given again.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, Literal

import efficientad
from efficientad.cli.logs import logging_to_stderr
from efficientad.cli.process import keep_freed_memory
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import file_name, write_run

TILES: Final[tuple[Literal[256] | None, ...]] = (256, None)
RESULTS = Path(__file__).with_name("results")


def measured(
    category: Path, seed: int, tile: Literal[256] | None, work: Path
) -> dict[str, float]:
    """Train and evaluate once, and return what is recorded."""
    config = efficientad.TrainConfig(seed=seed, tile=tile, resume=True)
    name = f"{category.name}_{'tiled' if tile else 'whole'}_seed{seed}.ead"
    start = time.perf_counter()
    predictor = efficientad.train(category, config, output=work / name)
    seconds = time.perf_counter() - start
    found = efficientad.evaluate(predictor, category)
    height, width = predictor.input_size
    regions = found.regions._asdict() if found.regions else {}
    return {
        **found.metrics,
        "n_defects_found": found.n_defects_found,
        "n_defects": found.n_defect,
        "n_normal_flagged": found.n_normal_flagged,
        "n_normal": len(found.scores) - found.n_defect,
        **{f"regions_{name}": count for name, count in regions.items()},
        "input_height": height,
        "input_width": width,
        "train_seconds": round(seconds, 1),
        "predict_seconds": round(found.seconds / len(found.scores), 4),
    }


def main() -> int:
    """Run what is not recorded yet."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("category", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args()
    keep_freed_memory()
    facts = environment()
    for seed in given.seeds:
        for tile in TILES:
            run = {
                "experiment": "tiles",
                "category": given.category.name,
                "variant": "tiled" if tile else "whole",
                "seed": seed,
                "settings": {"tile": tile},
            }
            if (given.results / file_name(run)).exists():
                continue
            with logging_to_stderr():
                metrics = measured(given.category, seed, tile, given.work)
            write_run(run | {"metrics": metrics} | facts, given.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
