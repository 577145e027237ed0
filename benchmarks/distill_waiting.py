"""Does data loading starve the distillation? Share of its time spent waiting for data.

Source features are kept on disk, as in a long run on a CPU: a step is then as short as
it gets. Pictures are decoded and features read while the steps run; their files have
just been read or written, so they are in the system's memory.

    python benchmarks/distill_waiting.py --images ../shared/data/natural_images \
        --source ../shared/data/source_networks/resnet50.safetensors

With `--computed-features` the source network runs in each step, as on a GPU, and every
picture is decoded when its step is near, as among more pictures than memory holds.
`--preset paper` takes 16 whole images a step.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from records import RESULTS, write_run

import efficientad
from efficientad.distillation import material as distillation_material
from efficientad.errors import EfficientADError


def measure(
    images: Sequence[Path], config: efficientad.DistillConfig, *, keeps_features: bool
) -> dict[str, Any]:
    """Measure a run of all steps; what is kept is made by a run of one step before."""
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "teacher.safetensors"
        if keeps_features:
            config = replace(config, feature_cache=Path(name) / "features")
            efficientad.distill(images, replace(config, steps=1), output=output)
        keeps_nothing = mock.patch.object(distillation_material, "KEPT_PIXELS_BYTES", 0)
        with nullcontext() if keeps_features else keeps_nothing:
            efficientad.distill(images, config, output=output)
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
    parser.add_argument("--preset", choices=("quick", "paper"), default="quick")
    parser.add_argument("--computed-features", action="store_true")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--n-images", type=int, default=100)
    parser.add_argument("--n-held-out", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = vars(parser.parse_args(arguments))
    images, results = options.pop("images"), options.pop("results")
    keeps_features = not options.pop("computed_features")
    kind = "kept" if keeps_features else "computed"
    try:
        config = efficientad.DistillConfig(checkpoint_every=options["steps"], **options)
        run: dict[str, Any] = {
            "experiment": "distill_waiting",
            "category": "natural_images",
            "variant": f"{config.preset}, {kind} features, {config.steps} steps",
            "seed": 0,
            "settings": options | {"source": Path(config.source).name},
            **measure(images, config, keeps_features=keeps_features),
        }
    except EfficientADError as error:
        print(f"distill_waiting: {error}", file=sys.stderr)
        return 2
    print(write_run(run, results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
