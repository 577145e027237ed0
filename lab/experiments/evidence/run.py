"""Other evidence for the image score, side by side, on the same networks.

    python -m lab.experiments.evidence.run part.ead=../shared/data/mvtec_ad/screw …

The networks and the combined maps of each detector stay. A form is a score of its own,
or a distance of Mahalanobis that is added to the highest pixel of the map, with the
same deviation on held-out normal images. Nothing is fitted to test images.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq
from scipy.ndimage import gaussian_filter
from torch.nn import functional

from efficientad.calibration.composition import fit_composition
from efficientad.calibration.normal_images import read_normal_images
from efficientad.datasets import open_category
from efficientad.decisions.decision import Calibration
from efficientad.engines.pytorch import PyTorchEngine
from efficientad.evaluation.evaluate import held_out_au_roc, image_metrics
from efficientad.inspection.opening import load
from efficientad.inspection.predictor import Predictor
from efficientad.method.inputs import normalize_images
from efficientad.method.maps import combine_maps, normalize_maps
from efficientad.storage import file_hash
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import write_run

RESULTS: Final = Path(__file__).with_name("results")
_MOST: Final = {"train": 100, "test": 200}
"""Images of a kind that are looked at, evenly chosen."""
_BUDGET: Final = 0.05
_N_WORDS: Final = 64
_N_PROJECTIONS: Final = 64
_N_BINS: Final = 8
_TRIMMED: Final = 0.1

Array = NDArray[Any]


class Looks(NamedTuple):
    """What the networks see in images."""

    maps: Array
    """Combined maps, (n, 56, 56)."""
    cells: dict[str, Array]
    """Mean descriptors of 4 x 4 cells by network, (n, channels, 4, 4)."""
    deviations: dict[str, Array]
    """Deviation of each channel over the image by network, (n, channels)."""
    samples: Array
    """Student's descriptors at every fourth place, (n, 196, channels)."""


class Seen(NamedTuple):
    """The images of a product."""

    train: Looks
    held_out: Looks
    test: Looks
    is_defect: Array
    calibration: Calibration


@torch.inference_mode()
def looks(predictor: Predictor, paths: Sequence[str], most: int | None = None) -> Looks:
    """Return what the networks of a detector see in some of the images."""
    detector = predictor.detector
    assert detector is not None
    engine, scales = PyTorchEngine(detector), predictor.calibration.scales
    chosen = paths[:: -(-len(paths) // most)] if most else paths
    found: list[Looks] = []
    for pixels in read_normal_images(chosen, predictor.preparation).pixels:
        grids = engine.run(pixels[np.newaxis]).grids
        images = normalize_images(torch.from_numpy(pixels[np.newaxis]))
        teacher = detector.describe(images)
        networks = {
            "student": detector.student(images)[:, : teacher.shape[1]],
            "teacher": teacher,
        }
        student = networks["student"][:, :, 2::4, 2::4]
        found.append(
            Looks(
                combine_maps(normalize_maps(grids, scales)),
                {k: functional.avg_pool2d(d, 14).numpy() for k, d in networks.items()},
                {k: d.std((2, 3)).numpy() for k, d in networks.items()},
                student.flatten(2).transpose(1, 2).numpy().astype(np.float16),
            )
        )
    return Looks(
        np.concatenate([f.maps for f in found]),
        {k: np.concatenate([f.cells[k] for f in found]) for k in found[0].cells},
        {k: np.concatenate([f.deviations[k] for f in found]) for k in found[0].cells},
        np.concatenate([f.samples for f in found]),
    )


# Maps: functions of the training images' looks, and of others', to image scores.


def highest(_train: Looks, other: Looks) -> Array:
    """Return the highest pixel of each map, the paper's score."""
    return _highest(other.maps)


def blurred(_train: Looks, other: Looks) -> Array:
    """Return the highest pixel after a Gaussian of one cell."""
    return _highest(gaussian_filter(other.maps, (0, 1, 1)))


def top_mean(_train: Looks, other: Looks) -> Array:
    """Return the mean of the highest 0.5 % of each map."""
    ordered = np.sort(other.maps.reshape(len(other.maps), -1))
    return np.asarray(ordered[:, -ordered.shape[1] // 200 :].mean(1))


def by_place(train: Looks, other: Looks, trimmed: float = 0.0) -> Array:
    """Return the highest pixel where each place has its own mean and deviation.

    The deviation lies half-way between that of the place and that of all places.
    """
    cut = round(trimmed * len(train.maps))
    kept = np.sort(train.maps, 0)[cut : len(train.maps) - cut]
    mean, deviation = (gaussian_filter(f(kept, 0), 1) for f in (np.mean, np.std))
    shrunk = (deviation + np.sqrt(np.square(deviation).mean())) / 2
    return _highest((other.maps - mean) / shrunk)


def trimmed_by_place(train: Looks, other: Looks) -> Array:
    """Return that of `by_place` without a tenth of the values at each end."""
    return by_place(train, other, _TRIMMED)


def _highest(maps: Array) -> Array:
    highest: Array = maps.max((1, 2))
    return highest


# Vectors of images, whose Gaussian on training images is fitted.


def structure(_train: Looks, other: Looks) -> Array:
    """Return deviation, mean of the top 1 % and total variation of each map."""
    maps = other.maps
    ordered = np.sort(maps.reshape(len(maps), -1))
    variation = sum(np.abs(np.diff(maps, axis=axis)).mean((1, 2)) for axis in (1, 2))
    top = ordered[:, -ordered.shape[1] // 100 :].mean(1)
    return np.stack([ordered.std(1), top, variation], 1)


def of_cells(side: int, *networks: str, has_deviation: bool = False) -> "Vectors":
    """Return a function to mean descriptors of side x side cells.

    Several cells are relative to their mean, as in detectors.
    """

    def vectors(_train: Looks, other: Looks) -> Array:
        parts = []
        for network in networks:
            cells = other.cells[network]
            n, n_channels = cells.shape[:2]
            pooled = cells.reshape(n, n_channels, side, 4 // side, side, 4 // side)
            means = pooled.mean((3, 5))
            if side > 1:
                means = means - means.mean((2, 3), keepdims=True)
            parts.append(means.reshape(n, -1))
            parts += [other.deviations[network]] if has_deviation else []
        return np.concatenate(parts, 1)

    return vectors


def words(train: Looks, other: Looks) -> Array:
    """Return the square roots of how often each of 64 visual words occurs."""
    flat = train.samples.reshape(-1, train.samples.shape[2]).astype(np.float32)
    book, _ = kmeans2(flat[::4], _N_WORDS, minit="++", rng=0)
    counts = [
        np.bincount(vq(image.astype(np.float32), book)[0], minlength=_N_WORDS)
        for image in other.samples
    ]
    return np.asarray(np.sqrt(np.array(counts) / other.samples.shape[1]))


def projections(train: Looks, other: Looks) -> Array:
    """Return how descriptors are distributed along 64 random directions (SINBAD)."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(train.samples.shape[2], _N_PROJECTIONS))
    own = (train.samples.astype(np.float32) @ directions).reshape(-1, _N_PROJECTIONS)
    edges = np.quantile(own, np.arange(1, _N_BINS) / _N_BINS, axis=0)
    values = other.samples.astype(np.float32) @ directions
    shares = (values[:, :, np.newaxis] < edges).mean(1)
    return np.asarray(shares.reshape(len(shares), -1))


Vectors = Callable[[Looks, Looks], Array]

SCORES: Final[dict[str, Vectors]] = {
    "highest pixel": highest,
    "highest pixel, blurred": blurred,
    "mean of the top 0.5 %": top_mean,
    "scale by place": by_place,
    "scale by place, trimmed": trimmed_by_place,
}
TERMS: Final[dict[str, Vectors]] = {
    "structure of the map": structure,
    "mean, student": of_cells(1, "student"),
    "mean, teacher": of_cells(1, "teacher"),
    "mean, both": of_cells(1, "student", "teacher"),
    "mean and deviation, student": of_cells(1, "student", has_deviation=True),
    "2 x 2 cells, student": of_cells(2, "student"),
    "4 x 4 cells, student": of_cells(4, "student"),
    "4 x 4 cells, teacher": of_cells(4, "teacher"),
    "4 x 4 cells, both": of_cells(4, "student", "teacher"),
    "64 visual words": words,
    "random projections": projections,
}


def scores(form: str, seen: Seen) -> tuple[Array, Array]:
    """Return the scores of held-out and of test images by a form of evidence."""
    others = seen.held_out, seen.test
    if form in SCORES:
        held_out, test = (SCORES[form](seen.train, other) for other in others)
        return held_out, test
    vectors = TERMS[form]
    normal = vectors(seen.train, seen.train).astype(np.float32)
    nothing = np.empty((0, normal.shape[1]), np.float32), np.empty(0, np.intp)
    gaussian, _ = fit_composition(normal, *nothing)
    found = [
        gaussian.distances(vectors(seen.train, other).astype(np.float32))
        for other in others
    ]
    pixels = [highest(seen.train, other) for other in others]
    slope = pixels[0].std() / found[0].std()
    held_out, test = (p + slope * d for p, d in zip(pixels, found, strict=True))
    return held_out, test


def measured(form: str, seen: Seen) -> dict[str, float]:
    """Return both AU-ROCs, and the shares of found defects and of false alarms."""
    held_out, test = scores(form, seen)
    calibration = replace(
        seen.calibration,
        normal_scores=tuple(sorted(held_out.tolist())),
        training_scores=(),
        threshold_rule="estimate",
        second_session={},
        false_alarm_budget=_BUDGET,
    )
    flagged = test > calibration.threshold
    defects = test[seen.is_defect]
    return {
        "image_au_roc": image_metrics(test, seen.is_defect)["image_au_roc"],
        "image_au_roc_held_out": held_out_au_roc(defects, calibration.normal_scores),
        "share_found": float(flagged[seen.is_defect].mean()),
        "share_of_false_alarms": float(flagged[~seen.is_defect].mean()),
    }


def seen_by(model: Path, folder: Path) -> Seen:
    """Look at the images of a product."""
    predictor, category = (
        load(model, device="cpu", engine="pytorch"),
        open_category(folder),
    )
    step = -(-len(category.test) // _MOST["test"])
    test = category.test[::step]
    provenance = predictor.provenance
    return Seen(
        looks(predictor, list(provenance["training_images"]), _MOST["train"]),
        looks(predictor, list(provenance["validation_images"])),
        looks(predictor, [str(sample.path) for sample in test]),
        np.array([sample.is_defect for sample in test]),
        predictor.calibration,
    )


def main() -> None:
    """Measure all forms on all products, and record a run for each form."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("products", nargs="+", metavar="MODEL=CATEGORY")
    given = parser.parse_args()
    found: dict[str, dict[str, dict[str, float]]] = {f: {} for f in (*SCORES, *TERMS)}
    detectors = {}
    for product in given.products:
        model, folder = map(Path, product.split("="))
        seen = seen_by(model, folder)
        detectors[folder.name] = file_hash(model)
        for form, products in found.items():
            products[folder.name] = measured(form, seen)
            print(folder.name, form, products[folder.name], flush=True)
    facts = environment()
    for form, products in found.items():
        names = next(iter(products.values()))
        run = {
            "experiment": "evidence",
            "category": f"mean of {len(products)} products",
            "variant": form if form in SCORES else f"highest pixel + {form}",
            "seed": 0,
            "settings": {"detectors": detectors, **_MOST},
            "metrics": {
                name: float(np.mean([m[name] for m in products.values()]))
                for name in names
            },
            "products": products,
        }
        print(write_run(run | facts, RESULTS))


if __name__ == "__main__":
    main()
