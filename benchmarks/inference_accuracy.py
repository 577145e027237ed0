"""How far native layers are from the baseline, on trained detectors and real images.

    python benchmarks/inference_accuracy.py part.ead ../shared/data/mvtec_ad/bottle

Random weights, as `inference_speed.py` has them, make maps of nearly the same value
everywhere; where a trained student has learned to imitate, differences are small and
rounding shows. What it costs on the category's test images is told in points.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from baseline import Baseline, baseline, raw_maps
from inference_speed import record, run

from efficientad.datasets import Sample, open_category
from efficientad.evaluation.evaluate import evaluate
from efficientad.images.rgb import INPUT_SIZE, read_image, resize_image
from efficientad.method.detector import Detector
from efficientad.model_files import detector_file as model_file
from efficientad_lab.benchmark.baseline import BaselinePredictor

LOSSES = ("image_au_roc", "au_pro")


def differences(
    detector: Detector, plain: Baseline, samples: Sequence[Sample]
) -> dict[str, float]:
    """Give the largest differences of any value of both raw maps."""
    of_value, of_largest = 0.0, 0.0
    for sample in samples:
        image = resize_image(read_image(sample.path), INPUT_SIZE, INPUT_SIZE)
        pixels = torch.from_numpy(image[None].copy())
        expected = raw_maps(plain, pixels)
        for found, exact in zip(detector.judged_maps(pixels), expected, strict=True):
            difference = (found - exact).abs()
            of_value = max(of_value, float((difference / exact).max()))
            of_largest = max(of_largest, float(difference.max() / exact.max()))
    return {
        "largest_relative_difference": of_value,
        "largest_difference_of_largest_value": of_largest,
        "n_images": float(len(samples)),
    }


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("category", type=Path)
    parser.add_argument("--every", type=int, default=8, help="nth test image")
    parser.add_argument("--output", type=Path, help="folder of the JSON files")
    given = parser.parse_args()
    detector = model_file.load(given.model, device="cpu")
    plain = baseline(detector)
    samples = open_category(given.category).test[:: given.every]
    before = evaluate(BaselinePredictor(detector), given.category).metrics
    for runtime in detector.runtimes:
        detector.runtime = runtime
        metrics = differences(detector, plain, samples)
        after = evaluate(detector, given.category).metrics
        for name in LOSSES:
            metrics[f"lost_{name}"] = 100 * (before[name] - after[name])
        name = f"{given.category.resolve().name}, {runtime}"
        record(run("inference_accuracy", detector.size, name, metrics), given.output)


if __name__ == "__main__":
    main()
