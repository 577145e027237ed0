"""One of the paper's other systems on one category, fitted, evaluated and recorded.

    python lab/experiments/methods/run.py patchcore ../shared/data/mvtec_ad/bottle \
        --backbones ../shared/data/source_networks/resnet50.safetensors --work DIR

A tenth of the normal training images is held out for the calibration. Trainings end
after the prescribed epochs, or when the budget of time is over. The same command again
continues a killed run, and skips one that is recorded.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from efficientad.calibration.normal_images import training_and_validation
from efficientad.datasets import Category, open_category
from efficientad.errors import ConfigError, EfficientADError
from efficientad.evaluation.evaluate import evaluate, require_both_kinds
from efficientad.images.rgb import INPUT_SIZE, read_image
from efficientad.inspection.predictor import Predictor
from efficientad.storage import file_hash
from efficientad_lab.benchmark.clock import consecutive
from efficientad_lab.benchmark.memory import own_peak_mib
from efficientad_lab.environment import environment
from efficientad_lab.methods.all_methods import METHODS
from efficientad_lab.methods.fitting import Clock, FitConfig, Fitted, fit
from efficientad_lab.methods.method import Method, MethodSettings
from efficientad_lab.methods.predictors import calibrated, save_method
from efficientad_lab.methods.stages import Stages, open_stages
from efficientad_lab.studies.records import Run, recorded_file, run_name, write_run

RESULTS = Path(__file__).with_name("results")
_HELD_OUT: Final = 0.1
_N_WARM_UP, _N_CALLS, _BATCH, _N_BATCHES = 2, 20, 8, 3


def method_of(options: argparse.Namespace) -> Method:
    """Return the new method that the options ask for.

    Raises:
        ConfigError: If a setting or the number of backbones is not the method's.
        MissingDependencyError: If the package of a backbone is not installed.
        ModelFileError: If a backbone cannot be used.
    """
    kind = METHODS[options.method]
    settings = _settings(kind, options.set, options.seed)
    if len(options.backbones) != kind.n_backbones:
        raise ConfigError(
            f"{options.method} needs {kind.n_backbones} backbones, got "
            f"{len(options.backbones)}; give as many with --backbones"
        )
    torch.manual_seed(options.seed)
    stages = [open_stages(name, settings.strides) for name in options.backbones]
    return kind(stages, settings)


def measured(method: Method, category: Category, options: argparse.Namespace) -> Run:
    """Fit, calibrate, save, evaluate and time a method; return fields of its run.

    Raises:
        EfficientADError: If the images or the training are of no use.
    """
    folder = options.work / _name(method, category, options)
    training, held_out = training_and_validation(
        category, validation=None, validation_share=_HELD_OUT, seed=options.seed
    )
    settings = asdict(method.settings)
    identity = {
        "method": options.method,
        "settings": settings,
        "backbones": _backbone_hashes(method),
        "images": hashlib.sha256("".join(training.hashes).encode()).hexdigest(),
        "seed": options.seed,
    }
    config = FitConfig(
        seed=options.seed,
        minutes=options.minutes,
        checkpoint=folder / "checkpoint.safetensors",
        identity=identity,
    )
    folder.mkdir(parents=True, exist_ok=True)
    fitted = fit(method, torch.from_numpy(training.pixels), config)
    provenance = {
        "training_images": training.hash_of_name,
        "validation_images": held_out.hash_of_name,
        "seed": options.seed,
        "training_seconds": fitted.seconds,
        "phases": [phase.summary() for phase in fitted.phases],
    }
    predictor = calibrated(method, held_out.pixels, provenance)
    save_method(predictor, folder / "method.safetensors")
    clock = Clock()
    evaluation = evaluate(predictor, category, output=folder)
    costs = _costs(method, predictor, category)
    if options.busy:  # wall times would be those of the other work
        del costs["milliseconds"], costs["images_per_second"]
    n_normal = len(evaluation.scores) - evaluation.n_defect
    return {
        "metrics": {
            **evaluation.metrics,
            "defect_types": {
                kind: dict(metrics)
                for kind, metrics in evaluation.metrics_by_defect_type.items()
            },
            **_epochs(fitted),
            "fit_processor_seconds": fitted.processor_seconds,
            **costs,
        },
        "seconds": {
            "train": round(fitted.seconds, 1),
            "evaluate": round(clock.seconds()[0], 1),
        },
        "interrupted": options.busy,
        "phases": [phase.summary() for phase in fitted.phases],
        "n_defects_found": evaluation.n_defects_found,
        "n_defect": evaluation.n_defect,
        "n_normal_flagged": evaluation.n_normal_flagged,
        "n_normal": n_normal,
        "n_threads": torch.get_num_threads(),
    }


def _costs(
    method: Method, predictor: Predictor, category: Category
) -> dict[str, float]:
    """Return times of one decoded image and of batches, sizes and peak memory."""
    image = read_image(category.test[0].path)
    clock = Clock()
    one = consecutive(lambda: predictor.predict(image), _N_CALLS, n_warm_up=_N_WARM_UP)
    processor = clock.seconds()[1] / (_N_CALLS + _N_WARM_UP)
    batch = consecutive(lambda: predictor.predict_batch([image] * _BATCH), _N_BATCHES)
    pixels = torch.zeros(1, INPUT_SIZE, INPUT_SIZE, 3, dtype=torch.uint8)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        method.output(method.inputs(pixels))
    numbers = [*method.parameters(), *method.buffers()]
    return {
        "milliseconds": one.median,
        "processor_milliseconds": 1000 * processor,
        "images_per_second": 1000 * _BATCH / batch.median,
        "millions_of_numbers": sum(tensor.numel() for tensor in numbers) / 1e6,
        "gflop": counter.get_total_flops() / 1e9,
        "peak_memory_mib": own_peak_mib(),
    }


def _epochs(fitted: Fitted) -> dict[str, float]:
    """Return the epochs of the last training, if there is one."""
    if not fitted.phases:
        return {}
    last = fitted.phases[-1]
    return {"epochs": last.epochs, "epochs_prescribed": last.epochs_prescribed}


def _settings(kind: type[Method], given: Sequence[str], seed: int) -> MethodSettings:
    """Return the settings of a method out of NAME=VALUE, values in JSON."""
    known = {field.name for field in fields(kind.Settings)}
    values: dict[str, Any] = {"seed": seed}
    for pair in given:
        name, _, text = pair.partition("=")
        if name not in known - {"seed"}:
            raise ConfigError(
                f"--set needs one of {', '.join(sorted(known - {'seed'}))}, got "
                f"{name}; give NAME=VALUE"
            )
        try:
            values[name] = json.loads(text)
        except ValueError:
            raise ConfigError(
                f"--set {name} needs a value in JSON, got {text!r}; write a text in "
                "double quotes"
            ) from None
    return kind.Settings(**values)


def _command(options: argparse.Namespace) -> str:
    """Return the command without folders of this machine."""
    words = ["run.py", options.method, str(options.category)]
    for name in ("backbones", "set"):
        given = getattr(options, name)
        words += [f"--{name}", *given] if given else []
    words += ["--seed", str(options.seed)]
    words += [] if options.minutes is None else ["--minutes", str(options.minutes)]
    return " ".join(words)


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Return a value as it comes back from a file."""
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain


def _backbone_hashes(method: Method) -> list[str]:
    backbones = [one for one in method.backbones if isinstance(one, Stages)]
    return [file_hash(one.weights.path) for one in backbones]


def _identity(
    method: Method, category: Category, options: argparse.Namespace
) -> dict[str, Any]:
    return {
        "experiment": "methods",
        "collection": category.collection,
        "category": category.name,
        "variant": method.title(),
        "seed": options.seed,
    }


def _name(method: Method, category: Category, options: argparse.Namespace) -> str:
    return run_name(_identity(method, category, options))


def record(options: argparse.Namespace) -> Path:
    """Fit, evaluate and record a method, unless that is recorded.

    Raises:
        EfficientADError: If the input is bad; nothing is recorded then.
    """
    category = open_category(options.category)
    require_both_kinds(category, otherwise="leave it out")
    method = method_of(options)
    run: Run = {
        **_identity(method, category, options),
        "settings": _plain(
            {
                **asdict(method.settings),
                "minutes": options.minutes,
                "backbones": _backbone_hashes(method),
            }
        ),
        "command": _command(options),
    }
    path = recorded_file(run, options.results)
    if path is not None:
        return path
    run |= measured(method, category, options)
    return write_run(run | environment(), options.results)


def main(arguments: Sequence[str] | None = None) -> int:
    """Record one run; the exit code is 2 where the input is bad."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("category", type=Path, help="folder of a category")
    parser.add_argument("--backbones", nargs="*", default=[], help="files or names")
    parser.add_argument("--set", nargs="*", default=[], help="settings, NAME=VALUE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="budget of the fit")
    parser.add_argument("--work", type=Path, required=True, help="for checkpoints")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--busy", action="store_true", help="other work runs here too")
    options = parser.parse_args(arguments)
    try:
        print(record(options), flush=True)
    except EfficientADError as error:
        print(f"methods: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
