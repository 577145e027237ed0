"""Other implementations on the same images, judged by the same metrics.

    make peers DATA=../shared/data

Each peer trains in a process and environment of its own on the normal training images
(a tenth held out), about as long as this project's preset `quick` was given, on the
same processor. It writes 256 x 256 maps; they are resized to the images and judged
here. No peer sees a test image before.

What the peers would download is replaced by files: ResNet-18 by torchvision's out of a
package, other backbones by the given ResNet-50, EfficientAd's teacher by this
project's, its ImageNette by natural images. What cannot be replaced, or fails, is
recorded with the reason and does not stop the others; a failure is tried again by the
next call, a finished run is skipped.
"""

import argparse
import io
import json
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from efficientad.datasets import Category, Sample, open_category
from efficientad.errors import EfficientADError
from efficientad.evaluation.evaluate import image_metrics
from efficientad.evaluation.pixel_results import MetricValues, measure_pixels
from efficientad.images.rgb import INPUT_SIZE, read_image, resize_image
from efficientad.method.inputs import normalize_images
from efficientad.model_files.teachers import load_teacher, shipped_teacher_path
from efficientad.storage import atomic_folder
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import (
    FAILURE,
    Run,
    recorded_file,
    write_run,
)

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
CATEGORIES = ("mvtec_ad/bottle", "mvtec_ad/screw", "magnetic_tile")
EXPERIMENT = "peers"
OWN = "this project"
HELD_OUT_EVERY = 10
N_NATURAL = 1000
LONGEST_REASON = 300


class Peer(NamedTuple):
    """One implementation."""

    name: str
    remark: str
    can_run: bool = True


PEERS = (
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


def prepare(category: Category, folder: Path) -> Path:
    """Lay the training images out as links: trained on, and held out."""
    images = folder / "images"
    shutil.rmtree(images, ignore_errors=True)
    for index, sample in enumerate(category.train):
        part = "held_out" if index % HELD_OUT_EVERY == 0 else "trained"
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
        for index, member in enumerate(members[:N_NATURAL]):
            content = archive.extractfile(member)
            packed = io.BytesIO() if content is None else io.BytesIO(content.read())
            (unpacked / f"{index:04}.jpg").write_bytes(packed.getvalue())
    return target.parent


def teacher_probe(image: Path, folder: Path) -> Path:
    """What the shipped teacher makes of an image; another one must say the same."""
    path = folder / "teacher_probe.npz"
    pixels = resize_image(read_image(image), INPUT_SIZE, INPUT_SIZE)
    between = pixels.astype(np.float32).transpose(2, 0, 1)[None] / 255
    with torch.inference_mode():
        normalized = normalize_images(torch.from_numpy(pixels[None]))
        descriptors = load_teacher("small")(normalized).numpy()
    np.savez(path, image=between, descriptors=descriptors)
    return path


def judged(category: Category, folder: Path) -> MetricValues:
    """Judge the maps a worker wrote, each at its image's own size."""
    maps = np.load(folder / "maps.npy", mmap_mode="r")
    scores = np.load(folder / "scores.npy")
    small = dict(zip(category.test, maps, strict=True))

    def map_of(sample: Sample) -> NDArray[np.float32]:
        height, width = read_image(sample.path).shape[:2]
        return _resized(small[sample], height, width)

    is_defect = np.array([sample.is_defect for sample in category.test])
    pixels = measure_pixels(category, map_of).overall.values
    return image_metrics(scores, is_defect) | pixels


def _resized(
    small: NDArray[np.float32], height: int, width: int
) -> NDArray[np.float32]:
    given = torch.from_numpy(np.array(small))[None, None]
    resized = functional.interpolate(given, (height, width), mode="bilinear")
    result: NDArray[np.float32] = resized[0, 0].numpy()
    return result


def compare(peer: Peer, root: Path, options: argparse.Namespace) -> Path:
    """Run one peer on one category, unless that is recorded."""
    category = open_category(root)
    run: Run = {
        "experiment": EXPERIMENT,
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
        run |= _measured(peer, category, options)
    return write_run(run | environment(), options.results)


def _measured(peer: Peer, category: Category, options: argparse.Namespace) -> Run:
    folder = options.work / f"{category.name}_{peer.name}".replace(" ", "_").lower()
    folder.mkdir(parents=True, exist_ok=True)
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
    (folder / "task.json").write_text(json.dumps(task, indent=1))
    started = time.monotonic()
    failure = _worked(peer, folder, options)
    if failure is not None:
        print(f"{peer.name} on {category.name}: {failure}", file=sys.stderr)
        return {FAILURE: failure}
    facts: dict[str, Any] = json.loads((folder / "facts.json").read_text())
    spent = facts.pop("train_seconds")
    shown = ("milliseconds", "images_per_second", "millions_of_numbers")
    measured = {name: facts.pop(name) for name in (*shown, "peak_memory_mib")}
    try:
        metrics = judged(category, folder) | measured
    except EfficientADError as error:
        return {FAILURE: f"its maps cannot be judged: {error}"}
    return {
        "metrics": metrics,
        "seconds": {
            "train": round(spent, 1),
            "all": round(time.monotonic() - started, 1),
        },
        "peer": facts,
    }


def _worked(peer: Peer, folder: Path, options: argparse.Namespace) -> str | None:
    """Let a worker do the task of a folder; the reason, if it does not."""
    is_own = peer.name == OWN
    python = sys.executable if is_own else str(options.python)
    worker = HERE / ("own_worker.py" if is_own else "anomalib_worker.py")
    for name in ("maps.npy", "scores.npy", "facts.json"):
        (folder / name).unlink(missing_ok=True)
    log_path = folder / "log.txt"
    try:
        with log_path.open("w") as log:
            finished = subprocess.run(  # noqa: S603 - a worker of this folder
                [python, str(worker), str(folder / "task.json")],
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=options.limit,
            )
    except subprocess.TimeoutExpired:
        return f"not done after {options.limit:.0f} s"
    except OSError as error:
        return f"its python cannot be run ({error}); make peers builds it"
    if finished.returncode == 0:
        return None
    lines = [line for line in log_path.read_text().splitlines() if line.strip()]
    last = lines[-1].strip()[:LONGEST_REASON] if lines else "without a word"
    return f"its process ended with {finished.returncode}: {last}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not recorded yet, one peer after the other."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--python", type=Path, required=True, help="the peers' python")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--categories", nargs="+", default=CATEGORIES)
    names = [peer.name for peer in PEERS]
    parser.add_argument("--peers", nargs="+", choices=names, default=names)
    parser.add_argument("--budget", type=float, default=200, help="seconds to train")
    parser.add_argument("--limit", type=float, default=1500, help="seconds for a run")
    parser.add_argument("--memory-gib", type=float, default=12, help="for a run")
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
        print(f"compare: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
