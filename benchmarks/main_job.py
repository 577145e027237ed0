"""The main job on real images, recorded: train, calibrate, evaluate; one JSON a run.

    python benchmarks/main_job.py ../shared/data/mvtec_ad/bottle --seeds 0 1 2
    python benchmarks/main_job.py … --experiment quick_preset --variant "random start" \
        --set student_start=random

As `efficientad reproduce`, whose machinery it uses, for the experiments whose tables
stand in the README and in docs/. A run whose file exists is skipped, and an interrupted
one goes on, so the same command can be given again. `--set` changes a number of the
preset's recipe, for the comparisons that justify it.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

from records import RESULTS

from efficientad.datasets import open_category
from efficientad.errors import ConfigError, EfficientADError
from efficientad.method.networks import ModelSize
from efficientad.training.config import RECIPES, QuickRecipe, Recipe, TrainConfig
from efficientad.training.devices import choose_device
from efficientad.training.run import recipe_of
from efficientad_lab.studies.jobs import Job, Judging, Place, do


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """Give the recipe with `name=value` changes, in itself or in its quick part."""
    quick_names = {field.name for field in fields(QuickRecipe)}
    for change in changes:
        name, _, text = change.partition("=")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        if name in quick_names and recipe.quick is not None:
            recipe = replace(recipe, quick=replace(recipe.quick, **{name: value}))
        elif name in {field.name for field in fields(Recipe)}:
            recipe = replace(recipe, **{name: value})
        else:
            raise ConfigError(
                f"needed NAME=VALUE with a name of the recipe, got {change}; see "
                "Recipe and QuickRecipe"
            )
    return recipe


def jobs(given: argparse.Namespace) -> Iterator[Job]:
    """One job a seed."""
    for seed in given.seeds:
        config = TrainConfig(
            size=given.size,
            preset=given.preset,
            steps=given.steps,
            teacher=given.teacher,
            pretraining_images=given.pretraining_images,
            has_pretraining_penalty=not given.without_penalty,
            seed=seed,
            resume=True,
        )
        recipe = recipe_of(config, choose_device(config.device))
        yield Job(
            experiment=given.experiment,
            category=open_category(given.category),
            config=config,
            recipe=changed(recipe, given.changes),
            variant=given.variant,
            judgings=(Judging(variant=given.variant),),
        )


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options."""
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
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    given.variant = given.variant or f"{given.size}, {given.preset}"
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every seed that is not recorded yet."""
    given = parsed(arguments)
    code = 0
    try:
        for job in jobs(given):
            error = do(job, Place(given.results, given.work))
            if error is not None:
                print(f"main_job: seed {job.config.seed}: {error}", file=sys.stderr)
                code = 1
    except EfficientADError as error:
        print(f"main_job: {error}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())
