"""Train, calibrate and evaluate on real images; one recorded run for each seed.

    python lab/experiments/main_job/run.py ../shared/data/mvtec_ad/bottle --seeds 0 1 2
    python lab/experiments/main_job/run.py … --experiment quick_preset \
        --variant "student starts at random" --set student_start=random

It works as `efficientad reproduce` does, for the experiments whose tables stand in the
README and in docs/. A finished run is skipped and an interrupted one continues, so the
same command can be given again. `--set` changes a number of the preset's recipe.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

from efficientad.cli.process import keep_freed_memory, logging_to_stderr
from efficientad.datasets import open_category
from efficientad.engines.pytorch import choose_device
from efficientad.errors import ConfigError, EfficientADError
from efficientad.method.sizes import ModelSize
from efficientad.training.config import Recipe, TrainConfig
from efficientad.training.run import RECIPES, recipe_of
from efficientad_lab.studies.jobs import Job, Place, PlannedEvaluation, do

EXPERIMENTS = Path(__file__).resolve().parents[1]


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """Return the recipe with `name=value` changes.

    Raises:
        ConfigError: If a name is not one of the recipe.
    """
    names = {field.name for field in fields(recipe)}
    for change in changes:
        name, _, text = change.partition("=")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        if name not in names:
            raise ConfigError(
                f"needed NAME=VALUE with a name of the recipe, got {change}; see "
                "Recipe and QuickRecipe"
            )
        recipe = replace(recipe, **{name: value})
    return recipe


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    """Return one job for each seed."""
    for seed in options.seeds:
        config = TrainConfig(
            size=options.size,
            preset=options.preset,
            steps=options.steps,
            teacher=options.teacher,
            pretraining_images=options.pretraining_images,
            has_pretraining_penalty=not options.without_penalty,
            seed=seed,
            resume=True,
        )
        recipe = recipe_of(config, choose_device(config.device))
        yield Job(
            experiment=options.experiment,
            category=open_category(options.category),
            config=config,
            recipe=changed(recipe, options.changes),
            variant=options.variant,
            evaluations=(PlannedEvaluation(variant=options.variant),),
        )


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("category", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", choices=get_args(ModelSize), default="small")
    parser.add_argument("--preset", choices=list(RECIPES), default="quick")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--pretraining-images", type=Path)
    parser.add_argument("--without-penalty", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], dest="changes")
    parser.add_argument("--experiment", default="main_job")
    parser.add_argument("--variant", help="default: size and preset")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--results", type=Path, help="default: of the experiment")
    options = parser.parse_args(arguments)
    options.variant = options.variant or f"{options.size}, {options.preset}"
    options.results = options.results or EXPERIMENTS / options.experiment / "results"
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every seed that is not recorded yet."""
    options = parsed(arguments)
    code = 0
    keep_freed_memory()
    try:
        for job in jobs(options):
            with logging_to_stderr():
                error = do(job, Place(options.results, options.work))
            if error is not None:
                print(f"main_job: seed {job.config.seed}: {error}", file=sys.stderr)
                code = 1
    except EfficientADError as error:
        print(f"main_job: {error}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())
