"""Does data loading starve the distillation? Share of its time spent waiting for data.

Source features are kept on disk, as in a long run on a CPU: a step is then as short as
it gets. Pictures are decoded and features read while the steps run; their files have
just been read or written, so they are in the system's memory.

    python benchmarks/distill_waiting.py --images ../shared/data/natural_images \
        --source ../shared/data/source_networks/resnet50.safetensors
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from records import RESULTS, write_run

import efficientad
from efficientad.errors import EfficientADError


def measure(
    images: Sequence[Path], config: efficientad.DistillConfig
) -> dict[str, Any]:
    """Keep the features by a run of one step, then measure a run of all steps."""
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "teacher.safetensors"
        kept = replace(config, feature_cache=Path(name) / "features")
        efficientad.distill(images, replace(kept, steps=1), output=output)
        efficientad.distill(images, kept, output=output)
        log = output.with_name(f"{output.name}.jsonl").read_text()
    last = json.loads(log.splitlines()[-1])
    return {
        "metrics": {"waiting_share": last["seconds_waited_for_data"] / last["seconds"]},
        "seconds": {
            "steps": last["seconds"],
            "waiting": last["seconds_waited_for_data"],
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--n-images", type=int, default=100)
    parser.add_argument("--n-held-out", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = vars(parser.parse_args(arguments))
    images, results = options.pop("images"), options.pop("results")
    try:
        config = efficientad.DistillConfig(
            preset="quick", checkpoint_every=options["steps"], **options
        )
        run: dict[str, Any] = {
            "experiment": "distill_waiting",
            "category": "natural_images",
            "variant": f"quick, kept features, {config.steps} steps",
            "seed": 0,
            "settings": options | {"source": Path(config.source).name},
            **measure(images, config),
        }
    except EfficientADError as error:
        print(f"distill_waiting: {error}", file=sys.stderr)
        return 2
    print(write_run(run, results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
