"""What leaving channels out of one trained detector changes, recorded.

    efficientad train DATA --output part.ead --local-channels 384 --global-channels 384
    python benchmarks/few_channels.py part.ead DATA

The detector is trained in all channels. Each row keeps some of the axes, as the end of
a training does it, is calibrated on the images that were held out, and judged on the
test images.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from records import RESULTS, write_run

from efficientad.datasets import Category, open_category
from efficientad.errors import ConfigError, EfficientADError
from efficientad.evaluation.evaluate import evaluate
from efficientad.method.detector import Detector
from efficientad.model_files.detector_file import load, recalibrate
from efficientad.training.config import ALL_CHANNELS
from efficientad.training.normal_images import training_and_validation
from efficientad.training.principal_axes import along_axes, images_for_axes

EXPERIMENT: Final = "few_channels"
METRICS: Final = ("image_au_roc", "au_pro")
CHANNELS: Final = ((384, 384), (192, 64), (128, 64), (64, 64), (64, 32), (32, 32))
"""Of the local and the global map."""


def rows(whole: Detector, category: Category) -> Iterator[dict[str, Any]]:
    """Judge the detector with ever fewer channels."""
    made = whole.provenance
    seed = int(made["config"]["seed"])
    training, held_out = training_and_validation(
        category,
        validation=None,
        validation_share=float(made["config"]["validation_share"]),
        seed=seed,
    )
    if set(training.hashes) != set(made["training_images"].values()):
        raise ConfigError(f"the detector was not trained on {category.root}")
    for n_local, n_global in CHANNELS:
        detector = whole
        if (n_local, n_global) != CHANNELS[0]:
            kinds = images_for_axes(training.pixels, None, seed, whole.device)
            detector = along_axes(whole, kinds, n_local, n_global)
        detector.provenance = made
        recalibrate(detector, list(held_out.pixels))
        metrics = evaluate(detector, category).metrics
        yield {
            "experiment": EXPERIMENT,
            "category": category.name,
            "variant": f"{whole.size}, {n_local} and {n_global} channels",
            "seed": seed,
            "settings": {"local_channels": n_local, "global_channels": n_global},
            "metrics": {name: metrics[name] for name in METRICS},
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("category", type=Path)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    try:
        whole = load(given.model, device="cpu")
        n_channels = whole.teacher.n_channels
        if n_channels != ALL_CHANNELS:
            raise ConfigError(
                f"needed a detector of all {ALL_CHANNELS} channels, {given.model} has "
                f"{n_channels}; train with --local-channels {ALL_CHANNELS} "
                f"--global-channels {ALL_CHANNELS}"
            )
        for run in rows(whole, open_category(given.category)):
            print(write_run(run, given.output), run["metrics"], flush=True)
    except EfficientADError as error:
        print(f"few_channels: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
