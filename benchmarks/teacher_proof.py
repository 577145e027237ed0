"""Does a better teacher make a better detector? AU-ROC and AU-PRO by teacher.

Trains one detector for each teacher, category and seed, always in the same short way,
and judges it on the test images: with an untrained network as teacher, and with the
files that are given, such as snapshots of a distillation (`distill --snapshots`).

    python benchmarks/teacher_proof.py --data ../shared/data --untrained \
        --teacher "small, 10 %=teacher_at_10.safetensors" \
        --teacher "small, 100 %=src/efficientad/weights/teacher_small.safetensors"

`--distil` first makes teachers of equal small budgets, one for each source network and
channel reduction, and compares these:

    python benchmarks/teacher_proof.py --data ../shared/data --distil out/teachers \
        --experiment teacher_sources \
        --source ../shared/data/source_networks/resnet50.safetensors \
        --source mobilenet-v2 --reduction mean --reduction random --reduction pca

Every run is one file in benchmarks/results/. One that is there already is not done
again, and neither is a teacher that is made already: an interrupted proof goes on. A
run of the same name, but of other settings or another teacher, is refused.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from records import RESULTS, write_run

import efficientad
from efficientad.distillation.config import Reduction
from efficientad.distillation.source_networks import find_source_network
from efficientad.errors import ConfigError, EfficientADError
from efficientad.method.networks import ModelSize, PatchDescriptionNetwork
from efficientad.model_files.teachers import Teacher, open_teacher, save_teacher
from efficientad.storage import file_hash
from efficientad.training.config import TrainConfig
from efficientad.training.devices import choose_device
from efficientad.training.run import recipe_of
from efficientad_lab.studies.records import recorded_file

CATEGORIES = ("mvtec_ad/bottle", "mvtec_ad/screw", "magnetic_tile")
_FEATURES = ".features"


class Candidate(NamedTuple):
    """A teacher file and what its rows are called."""

    variant: str
    path: Path


def untrained(size: ModelSize, folder: Path) -> Candidate:
    """The network as initialized; the detector normalizes whatever it describes."""
    torch.manual_seed(0)
    path = folder / f"untrained_{size}.safetensors"
    save_teacher(PatchDescriptionNetwork(size), {"n_steps": 0}, path)
    return Candidate(f"{size}, untrained", path)


def distilled(options: argparse.Namespace) -> Iterator[Candidate]:
    """A teacher of the same budget from each source by each reduction."""
    for source in options.source:
        for reduction in options.reduction:
            name = f"{Path(source).stem}, {reduction}, {options.distil_steps} steps"
            made_of = f"{name}, {options.size}, {options.distil_images} images"
            made_of += f", {file_hash(find_source_network(source))[:8]}"
            path = options.distil / f"{made_of.replace(', ', '_')}.safetensors"
            if not path.exists():
                _distil(source, reduction, path, options)
            shutil.rmtree(path.with_suffix(_FEATURES), ignore_errors=True)
            yield Candidate(name, path)


def _distil(
    source: str, reduction: Reduction, path: Path, options: argparse.Namespace
) -> None:
    """Make one teacher, and its source features, which are kept only meanwhile."""
    config = efficientad.DistillConfig(
        source=source,
        size=options.size,
        preset="quick",
        steps=options.distil_steps,
        reduction=reduction,
        n_images=options.distil_images,
        n_held_out=max(1, min(100, options.distil_images // 4)),
        feature_cache=path.with_suffix(_FEATURES),
        resume=True,
    )
    efficientad.distill(options.data / "natural_images", config, output=path)


def prove(
    candidate: Candidate, category: Path, seed: int, options: argparse.Namespace
) -> Path:
    """Train, judge and record one detector, unless that is done."""
    run: dict[str, Any] = {
        "experiment": options.experiment,
        "category": category.name,
        "variant": candidate.variant,
        "seed": seed,
    }
    teacher = open_teacher(options.size, candidate.path)
    config = TrainConfig(
        size=options.size,
        preset="quick",
        steps=options.steps,
        seed=seed,
        teacher=candidate.path,
        pretraining_images=options.data / "natural_images",
    )
    run |= {"settings": _settings(config, teacher), "teacher": _facts(teacher)}
    path = recorded_file(run, options.results)
    if path is not None:
        return path
    start = time.monotonic()
    detector = efficientad.train(category, config)
    trained = time.monotonic()
    evaluation = efficientad.evaluate(detector, category)
    end = time.monotonic()
    run |= {
        "metrics": evaluation.metrics,
        "seconds": {
            "train": round(trained - start, 1),
            "evaluate": round(end - trained, 1),
        },
    }
    return write_run(run, options.results)


def _settings(config: TrainConfig, teacher: Teacher) -> dict[str, Any]:
    """What the result depends on, besides images, as JSON knows it."""
    digest = hashlib.sha256()
    for name, value in teacher.network.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    settings = {
        "preset": config.preset,
        "steps": config.steps,
        "size": config.size,
        "recipe": asdict(recipe_of(config, choose_device(config.device))),
        # The same weights make other files: the order of what stands before varies.
        "teacher_weights": digest.hexdigest(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _facts(teacher: Teacher) -> dict[str, Any]:
    """What a run tells of its teacher."""
    kept = ("explained_variance", "n_steps", "source_architecture", "settings")
    facts = {k: teacher.provenance[k] for k in kept if k in teacher.provenance}
    return {"hash": teacher.file_hash} | facts


def _require_distinct(candidates: Sequence[Candidate]) -> None:
    """Refuse to compare nothing, or two teachers under one name."""
    names = [candidate.variant for candidate in candidates]
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"needed teachers of different names, got {', '.join(names) or 'none'}; "
            "give --untrained, --teacher NAME=FILE, or --distil with --source"
        )


def candidate_of(text: str) -> Candidate:
    """Read NAME=FILE."""
    name, separator, path = text.rpartition("=")
    if not (separator and name and path):
        raise argparse.ArgumentTypeError(f"needed NAME=FILE, got {text!r}")
    return Candidate(name, Path(path))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--categories", nargs="+", default=CATEGORIES)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--size", choices=("small", "medium"), default="small")
    parser.add_argument(
        "--steps", type=int, default=1200, help="images each detector is trained on"
    )
    parser.add_argument("--untrained", action="store_true")
    parser.add_argument(
        "--teacher", action="append", default=[], type=candidate_of, metavar="NAME=FILE"
    )
    parser.add_argument("--distil", type=Path, help="folder for teachers to make")
    parser.add_argument("--source", action="append", default=[])
    reductions: tuple[Reduction, ...] = ("mean", "random", "pca")
    parser.add_argument("--reduction", action="append", choices=reductions)
    parser.add_argument("--distil-steps", type=int, default=400)
    parser.add_argument("--distil-images", type=int, default=800)
    parser.add_argument("--experiment", default="teacher_proof")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    options.reduction = options.reduction or ["mean"]
    stems = [Path(source).stem for source in options.source]
    if len(set(stems)) < len(stems):
        parser.error(f"sources need different names, got {', '.join(stems)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is missing; print a line for each run."""
    options = parsed(arguments)
    with tempfile.TemporaryDirectory() as folder:
        try:
            candidates = list(options.teacher)
            if options.distil is not None:
                candidates += distilled(options)
            if options.untrained:
                candidates.insert(0, untrained(options.size, Path(folder)))
            _require_distinct(candidates)
            for seed in options.seeds:  # one seed of everything first
                for category in options.categories:
                    for candidate in candidates:
                        path = prove(candidate, options.data / category, seed, options)
                        print(path, flush=True)
        except EfficientADError as error:
            print(f"teacher_proof: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
