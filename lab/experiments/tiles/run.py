"""Accuracy of whole images against tiles; one recorded run for each seed and form.

    python lab/experiments/tiles/draw.py /tmp/small_defects
    python lab/experiments/tiles/run.py /tmp/small_defects --seeds 0 1 2
    python lab/experiments/tiles/run.py ../shared/data/kolektor_sdd --seeds 0 1 2

A finished run is skipped, so the same command can be given again.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final, Literal

import efficientad
from efficientad.cli.process import keep_freed_memory, logging_to_stderr
from efficientad.images.rgb import INPUT_SIZE
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import file_name, write_run
from efficientad_lab.studies.trained_once import trained_once

TILES: Final[tuple[Literal[256, "never"], ...]] = (256, "never")
RESULTS = Path(__file__).with_name("results")


def measured(
    category: Path, seed: int, tile: Literal[256, "never"], work: Path
) -> dict[str, object]:
    """Train and evaluate once, and return what is recorded."""
    config = efficientad.TrainConfig(seed=seed, tile=tile, resume=True)
    form = "tiled" if tile == INPUT_SIZE else "whole"
    name = f"{category.name}_{form}_seed{seed}.ead"
    predictor, found, fields = trained_once(category, category, config, work / name)
    counts = found.regions._asdict() if found.regions else {}
    height, width = predictor.preparation.size
    fields["metrics"] |= {
        **{f"regions_{name}": count for name, count in counts.items()},
        "input_height": height,
        "input_width": width,
    }
    return fields


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
                "variant": "tiled" if tile == INPUT_SIZE else "whole",
                "seed": seed,
                "settings": {"tile": tile},
            }
            if (given.results / file_name(run)).exists():
                continue
            with logging_to_stderr():
                found = measured(given.category, seed, tile, given.work)
            write_run(run | found | facts, given.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
