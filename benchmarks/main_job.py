"""The main job on real images, recorded: train, calibrate, evaluate; one JSON a run.

    python benchmarks/main_job.py ../shared/data/mvtec_ad/bottle --seeds 0 1 2
    python benchmarks/main_job.py … --experiment quick_preset --variant "random start" \
        --set student_start=random

A run whose file exists is skipped, and an interrupted training goes on from its
checkpoint, so the same command can be given again. Test images are scored after
training and calibration, once. `--set` changes a number of the preset's recipe, for
the comparisons that justify it.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import efficientad
from efficientad.judgement.evaluation import evaluate
from efficientad.training.config import (
    RECIPES,
    Preset,
    QuickRecipe,
    Recipe,
    TrainConfig,
)
from efficientad.training.student import train

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
MIB_PER_KIB = 1 / 1024


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """Give the recipe with `name=value` changes, in itself or in its quick part."""
    for change in changes:
        name, _, text = change.partition("=")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        if name in {f.name for f in fields(QuickRecipe)} and recipe.quick is not None:
            recipe = replace(recipe, quick=replace(recipe.quick, **{name: value}))
        else:
            recipe = replace(recipe, **{name: value})
    return recipe


def run(category: Path, config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Train and judge once; give what is recorded."""
    started = time.monotonic()
    detector = train(category, config, output=folder / "part.ead")
    trained = time.monotonic()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MIB_PER_KIB
    evaluation = evaluate(detector, category, output=folder)
    return {
        "settings": {
            "config": {k: str(v) for k, v in asdict(config).items()},
            "recipe": detector.provenance["recipe"],
            "teacher": detector.provenance["teacher"]["hash"],
        },
        "metrics": {
            **evaluation.metrics,
            "defect_types": dict(evaluation.metrics_by_defect_type),
        },
        "threshold": evaluation.threshold,
        "n_normal_flagged": evaluation.n_normal_flagged,
        "n_defects_found": evaluation.n_defects_found,
        "seconds": {
            # The steps' time goes on where a resumed training left off.
            "train": detector.provenance["training_seconds"],
            "this_process": round(trained - started, 1),
            "evaluate": round(time.monotonic() - trained, 1),
        },
        "peak_memory_mib": {"train": round(memory)},
    }


def surroundings() -> dict[str, Any]:
    """Say where and with what a run was made."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607 - git of the PATH
        check=True,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    ).stdout.strip()
    packages = ("torch", "numpy")
    n_threads = torch.get_num_threads()
    return {
        "machine": f"{processor()}, {n_threads} of {os.cpu_count()} cores",
        "load": [round(value, 2) for value in os.getloadavg()],
        "versions": {
            "python": platform.python_version(),
            "efficientad": efficientad.__version__,
            **{name: metadata.version(name) for name in packages},
        },
        "commit": commit,
    }


def processor() -> str:
    """Name the processor as the system does."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    """Run every seed that is not recorded yet."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("category", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--preset", choices=list(RECIPES), default="quick")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--pretraining-images", type=Path)
    parser.add_argument("--without-penalty", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], dest="changes")
    parser.add_argument("--experiment", default="main_job")
    parser.add_argument("--variant", default="small, quick")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args()
    preset: Preset = given.preset
    RECIPES[preset] = changed(RECIPES[preset], given.changes)
    where = surroundings()
    variant = "_".join(given.variant.replace(",", " ").split()).lower()
    for seed in given.seeds:
        name = f"{given.experiment}_{given.category.name}_{variant}_seed{seed}"
        target = RESULTS / f"{name}.json"
        if target.exists():
            continue
        config = TrainConfig(
            preset=preset,
            steps=given.steps,
            teacher=given.teacher,
            pretraining_images=given.pretraining_images,
            has_pretraining_penalty=not given.without_penalty,
            seed=seed,
            resume=True,
        )
        record = {
            "experiment": given.experiment,
            "category": given.category.name,
            "variant": given.variant,
            "seed": seed,
            **run(given.category, config, given.work / name),
            **where,
        }
        target.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
