"""Other implementations on the same images, evaluated by the same metrics.

    make peers DATA=../shared/data

Each peer trains in a process of its own on the normal training images (a tenth held
out), about as long as preset `quick` of this project, on the same processor. Its maps
of 256 x 256 are resized to the images and evaluated. No peer sees a test image before.

A peer that cannot run, or fails, is recorded with the reason and does not stop the
others. A failure is tried again by the next call; a finished run is skipped.
"""

import argparse
import io
import shutil
import statistics
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

import efficientad
from efficientad.datasets import Category, Sample, open_category
from efficientad.errors import EfficientADError
from efficientad.evaluation.evaluate import image_metrics
from efficientad.evaluation.pixel_results import MetricValues, measure_pixels
from efficientad.images.rgb import INPUT_SIZE, RGBImage, read_image, resize_image
from efficientad.method.inputs import normalize_images
from efficientad.method.placement import place_map
from efficientad.model_files.teachers import load_teacher, shipped_teacher_path
from efficientad.storage import atomic_folder
from efficientad_lab.anomalib.engine import AnomalibEngine
from efficientad_lab.benchmark.memory import own_peak_mib
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import FAILURE, Run, recorded_file, write_run

RESULTS = Path(__file__).with_name("results")
CATEGORIES: Final = ("mvtec_ad/bottle", "mvtec_ad/screw", "magnetic_tile")
OWN: Final = "this project"
_HELD_OUT_EVERY: Final = 10
_N_NATURAL: Final = 1000
_N_BATCHES, _BATCH = 3, 8

Maps = NDArray[np.float32]
Predict = Callable[[list[RGBImage]], tuple[Maps, Maps]]
"""Function from images to their maps, (n, 256, 256), and scores, (n,)."""


class Peer(NamedTuple):
    """One implementation."""

    name: str
    remark: str
    can_run: bool = True


PEERS: Final = (
    Peer(OWN, "small, preset quick"),
    Peer(
        "EfficientAd",
        "small; this project's teacher, 1000 natural images for ImageNette",
    ),
    Peer("PatchCore", "1 % coreset; ResNet-50 for Wide ResNet-50-2"),
    Peer("STFPM", "ResNet-18"),
    Peer("SuperSimpleNet", "ResNet-50 for Wide ResNet-50-2"),
    Peer("FastFlow", "ResNet-18"),
    Peer(
        "DSR",
        "not run: its vector-quantized autoencoder is trained on ImageNet, and its "
        "weights are only to be downloaded from where no registry is",
        can_run=False,
    ),
)


class Measured(NamedTuple):
    """Predictions of a peer for all test images, and its costs."""

    maps: Maps
    scores: Maps
    facts: dict[str, Any]


def prepare(category: Category, folder: Path) -> Path:
    """Lay the training images out as links: trained on, and held out."""
    images = folder / "images"
    shutil.rmtree(images, ignore_errors=True)
    for index, sample in enumerate(category.train):
        part = "held_out" if index % _HELD_OUT_EVERY == 0 else "trained"
        link = images / part / f"{index:05}{sample.path.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(sample.path.resolve())
    return images


def natural_images(data: Path, folder: Path) -> Path:
    """Unpack some natural images, as a class folder torchvision can read."""
    target = folder / "natural" / "images"
    if target.is_dir():
        return target.parent
    tar = min((data / "natural_images").glob("*.tar"))
    with atomic_folder(target) as unpacked, tarfile.open(tar) as archive:
        members = [member for member in archive if member.isfile()]
        for index, member in enumerate(members[:_N_NATURAL]):
            content = archive.extractfile(member)
            packed = io.BytesIO() if content is None else io.BytesIO(content.read())
            (unpacked / f"{index:04}.jpg").write_bytes(packed.getvalue())
    return target.parent


def teacher_probe(image: Path, folder: Path) -> Path:
    """Write the shipped teacher's descriptors of an image, to compare them with."""
    path = folder / "teacher_probe.npz"
    pixels = resize_image(read_image(image), INPUT_SIZE, INPUT_SIZE)
    between = pixels.astype(np.float32).transpose(2, 0, 1)[None] / 255
    with torch.inference_mode():
        normalized = normalize_images(torch.from_numpy(pixels[None]))
        descriptors = load_teacher("small")(normalized).numpy()
    np.savez(path, image=between, descriptors=descriptors)
    return path


def predict_all(predict: Predict, paths: Sequence[str]) -> Measured:
    """Predict images one by one, then some batches; return the times as facts."""
    maps, scores, seconds = [], [], []
    for path in paths:
        image = read_image(Path(path))
        start = time.perf_counter()
        (anomaly_map,), (score,) = predict([image])
        seconds.append(time.perf_counter() - start)
        maps.append(anomaly_map)
        scores.append(score)
    rates = []
    for _ in range(_N_BATCHES):
        start = time.perf_counter()
        predict([image] * _BATCH)
        rates.append(_BATCH / (time.perf_counter() - start))
    facts = {
        "milliseconds": 1000 * statistics.median(seconds),
        "images_per_second": statistics.median(rates),
    }
    return Measured(np.stack(maps), np.array(scores), facts)


def measure_anomalib(task: Mapping[str, Any], python: Path, limit: float) -> Measured:
    """Train a model of anomalib in its environment, and predict the test images."""
    engine = AnomalibEngine(python, {"training": dict(task)}, limit_seconds=limit)

    def predict(images: list[RGBImage]) -> tuple[Maps, Maps]:
        pixels = [resize_image(image, INPUT_SIZE, INPUT_SIZE) for image in images]
        output = engine.run(np.stack(pixels))
        return output.grids["anomaly"], output.values["score"][:, 0]

    found = predict_all(predict, task["test"])
    facts = {k: v for k, v in engine.facts.items() if k != "outputs"}
    memory = {"peak_memory_mib": engine.peak_mib()}
    return found._replace(facts=facts | found.facts | memory)


def measure_own(task: Mapping[str, Any]) -> Measured:
    """Train this project's detector in this process, and predict the test images."""
    torch.set_num_threads(task["threads"])
    images = Path(task["images"])
    config = efficientad.TrainConfig(
        preset="quick", seed=task["seed"], validation=images / "held_out"
    )
    start = time.perf_counter()
    predictor = efficientad.train(images / "trained", config)
    seconds = time.perf_counter() - start

    def predict(images: list[RGBImage]) -> tuple[Maps, Maps]:
        found = predictor.predict_batch(images)
        maps = [place_map(p.combined_grid, INPUT_SIZE, INPUT_SIZE) for p in found]
        return np.stack(maps), np.array([p.image_score for p in found], np.float32)

    found = predict_all(predict, task["test"])
    assert predictor.detector is not None
    n_numbers = sum(p.numel() for p in predictor.detector.parameters())
    recipe = predictor.provenance["recipe"]
    return found._replace(
        facts=found.facts
        | {
            "train_seconds": seconds,
            "steps": recipe["steps"] * recipe["batch_size"],  # images, as recorded
            "batch": recipe["batch_size"],
            "millions_of_numbers": n_numbers / 1e6,
            "peak_memory_mib": own_peak_mib(),
            "versions": {"torch": torch.__version__},
        }
    )


def metrics_of(category: Category, found: Measured) -> MetricValues:
    """Evaluate the maps of a peer, each at its image's own size."""
    paths = [sample.path for sample in category.test]
    small = dict(zip(paths, found.maps, strict=True))

    def map_of(sample: Sample) -> Maps:
        size = read_image(sample.path).shape[:2]
        given = torch.from_numpy(small[sample.path])[None, None]
        resized = functional.interpolate(given, size, mode="bilinear")
        anomaly_map: Maps = resized[0, 0].numpy()
        return anomaly_map

    is_defect = np.array([sample.is_defect for sample in category.test])
    pixels = measure_pixels(category, map_of).overall.values
    return image_metrics(found.scores, is_defect) | pixels


def compare(peer: Peer, root: Path, options: argparse.Namespace) -> Path:
    """Run one peer on one category, unless that is recorded."""
    category = open_category(root)
    run: Run = {
        "experiment": "peers",
        "collection": category.collection,
        "category": category.name,
        "variant": peer.name,
        "seed": options.seed,
        "remark": peer.remark,
        "settings": {"budget_seconds": options.budget, "coreset": options.coreset},
        "metrics": {},
    }
    path = recorded_file(run, options.results)
    if path is not None:
        return path
    if peer.can_run:
        try:
            run |= measured(peer, category, options)
        except (EfficientADError, MemoryError, OSError, RuntimeError) as error:
            run[FAILURE] = f"{type(error).__name__}: {error}"
            print(f"{peer.name} on {category.name}: {error}", file=sys.stderr)
    return write_run(run | environment(), options.results)


def measured(peer: Peer, category: Category, options: argparse.Namespace) -> Run:
    """Train and evaluate a peer; return the fields of its run."""
    task = {
        "peer": peer.name,
        "images": str(prepare(category, options.work / category.name)),
        "test": [str(sample.path.resolve()) for sample in category.test],
        "natural": str(natural_images(options.data, options.work)),
        "backbone": str(options.data / "source_networks" / "resnet50.safetensors"),
        "teacher": str(shipped_teacher_path("small")),
        "probe": str(teacher_probe(category.train[0].path, options.work)),
        "budget_seconds": options.budget,
        "coreset": options.coreset,
        "seed": options.seed,
        "memory_gib": options.memory_gib,
        "threads": torch.get_num_threads(),
    }
    start = time.monotonic()
    if peer.name == OWN:  # in a process of its own, whose memory is measured
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            found = process.submit(measure_own, task).result()
    else:
        found = measure_anomalib(task, options.python, options.limit)
    facts = found.facts
    seconds = {"train": facts.pop("train_seconds"), "all": time.monotonic() - start}
    shown = ("milliseconds", "images_per_second", "millions_of_numbers")
    costs = {name: facts.pop(name) for name in (*shown, "peak_memory_mib")}
    return {
        "metrics": metrics_of(category, found) | costs,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "peer": facts,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not recorded yet, one peer after the other."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--python", type=Path, required=True, help="anomalib's Python")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--categories", nargs="+", default=CATEGORIES)
    names = [peer.name for peer in PEERS]
    parser.add_argument("--peers", nargs="+", choices=names, default=names)
    parser.add_argument("--budget", type=float, default=200, help="seconds to train")
    parser.add_argument("--limit", type=float, default=1500, help="seconds to be ready")
    parser.add_argument("--memory-gib", type=float, default=12, help="for a training")
    parser.add_argument("--coreset", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    options.data, options.work = options.data.resolve(), options.work.resolve()
    try:
        for category in options.categories:
            for peer in PEERS:
                if peer.name in options.peers:
                    print(compare(peer, options.data / category, options), flush=True)
    except EfficientADError as error:
        print(f"peers: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
