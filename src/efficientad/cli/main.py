"""The command line: one verb a library function.

    efficientad train | calibrate | predict | evaluate | check | export | threshold |
                demo | distill | doctor

The lab adds `benchmark`, `reproduce`, `ablate` and `figures` by entry points.

Errors raised on purpose become one line on stderr and exit code 2; other errors keep
their traceback. Heavy packages are imported by the verb that needs them.
"""

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from io import TextIOWrapper
from pathlib import Path
from typing import Final

from efficientad.cli.inspection import evaluate, export, predict, threshold
from efficientad.cli.logs import logging_to_stderr
from efficientad.cli.options import bound
from efficientad.distillation.config import DistillConfig
from efficientad.engines.names import Device
from efficientad.errors import (
    TRAIN_EXTRA,
    ConfigError,
    EfficientADError,
    MissingDependencyError,
    train_extra_is_missing,
)
from efficientad.training.config import TrainConfig

OK, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def train(images: Path, /, *, output: Path, config: TrainConfig) -> int:
    """Train and calibrate a detector on normal images.

    Args:
        images: Folder of normal images, or a category folder in MVTec AD's layout.
        output: The detector file to write, for example part.ead.
        config: Settings.
    """
    from efficientad.cli.interruption import held_back_interrupt
    from efficientad.training.run import train as train_detector

    print(f"settings: {config}", file=sys.stderr)
    calibration = train_detector(
        images, config, output=output, interrupts=held_back_interrupt
    ).calibration
    print(f"detector {output}")
    print(f"threshold {calibration.threshold:.4g}")
    print(calibration.statement())
    return OK


def calibrate(
    model: Path,
    images: Path,
    /,
    *,
    output: Path,
    false_alarm_budget: float = 0.01,
    threshold: float | None = None,
    device: Device = "auto",
) -> int:
    """Calibrate a detector anew on other normal images.

    Args:
        model: The detector file.
        images: Folder of normal images that were not trained on.
        output: The detector file to write; may be the same.
        false_alarm_budget: Share of normal images that may be flagged.
        threshold: Decision threshold to set by hand. None: from the images.
        device: Where the networks run.
    """
    from efficientad.inspection.opening import load, save
    from efficientad.storage import require_writable
    from efficientad.training.calibration import calibrate as calibrate_model

    require_writable(output)
    predictor = calibrate_model(
        load(model, device=device),
        images,
        false_alarm_budget=false_alarm_budget,
        threshold=threshold,
    )
    save(predictor, output)
    print(f"wrote {output}")
    print(f"threshold {predictor.calibration.threshold:.4g}")
    print(predictor.calibration.statement())
    return OK


def check(
    data: Path, /, *, model: Path | None = None, output: Path | None = None
) -> int:
    """List what is wrong with a data set before hours are spent on it.

    Exit code 1 if something would make results meaningless or end a training.

    Args:
        data: A category folder, a folder of categories, a folder of normal images, or a
            CSV or JSON list.
        model: Detector file, to find normal images that are unlike all others, too.
        output: JSON file to write with all findings. None: they are only printed.
    """
    from efficientad.evaluation.check import check as check_data

    checks = check_data(data, model=model, output=output)
    for checked in checks:
        numbers = ", ".join(f"{n} {split}" for split, n in checked.n_images.items())
        n, plural = len(checked.findings), "" if len(checked.findings) == 1 else "s"
        print(f"{checked.category}: {numbers or 'no'} images, {n} finding{plural}")
        for finding in checked.findings:
            print(f"  {finding.severity}: {finding.message}")
    return SOME_FAILED if any(checked.has_errors for checked in checks) else OK


def demo(
    *, output: Path = Path("demo"), steps: int | None = None, seed: int = 0
) -> int:
    """Draw parts, train, calibrate, evaluate, and write a report; nothing is needed.

    Args:
        output: Folder for parts, detector and report.
        steps: Optimizer steps. None: as many as fit into five minutes on two cores.
        seed: Of parts and training; the same seed gives the same result.
    """
    from efficientad.demo_parts.demo import demo as run_demo

    evaluation = run_demo(output, steps=steps, seed=seed)
    for name, value in evaluation.metrics.items():
        print(f"{name:24} {value:.4f}")
    print(f"open {output / 'report.html'}")
    return OK


def distill(
    images: tuple[Path, ...],
    /,
    *,
    output: Path,
    config: DistillConfig,
) -> int:
    """Make a teacher out of a deep source network and natural images.

    Args:
        images: Folders and uncompressed tars of natural images.
        output: The teacher file to write, for example teacher.safetensors.
        config: Settings.
    """
    from efficientad.cli.environment import commit, machine
    from efficientad.cli.interruption import held_back_interrupt
    from efficientad.distillation.distill import distill as distill_teacher

    print(f"settings: {config}", file=sys.stderr)
    explained = distill_teacher(
        images,
        config,
        output=output,
        provenance={"commit": commit(), "hardware": machine()},
        interrupts=held_back_interrupt,
    )
    print(f"wrote {output}")
    print(f"held-out explained variance {explained.overall:.4f}")
    return OK


def doctor() -> int:
    """Show what this installation can use: versions, kernels, devices, teachers."""
    from efficientad.cli.doctor import findings

    for name, value in findings().items():
        print(f"{name:24} {value}")
    return OK


_VERBS: Final[dict[str, Callable[..., int]]] = {
    "demo": demo,
    "train": train,
    "calibrate": calibrate,
    "predict": predict,
    "evaluate": evaluate,
    "check": check,
    "export": export,
    "threshold": threshold,
    "distill": distill,
    "doctor": doctor,
}


_LAB_VERBS: Final = {
    "benchmark": "Measure speed, memory and cost of every engine.",
    "reproduce": "Train and evaluate all scenarios: the paper's Tables 1 and 2.",
    "ablate": "Measure what each part of the method is worth.",
    "figures": "Draw the paper's figures from recorded runs.",
}
_LAB_GROUP: Final = "efficientad.verbs"

_TRAINING_VERBS: Final = {"train", "demo", "distill", "reproduce", "ablate"}

_REMEDIES: Final = {
    **dict.fromkeys(("train", "distill"), "; --resume goes on"),
    **dict.fromkeys(("reproduce", "ablate"), "; the same command goes on"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name. None: those of the process.

    Returns:
        The exit code: 0, 1 if some images could not be judged, 2 for bad input.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may be no UTF-8
    verb, *options = arguments or [""]
    if verb in {"-h", "--help"}:
        print(_overview())
        return OK
    try:
        call = bound(_function_of(verb), verb, options)
        if call is None:
            return OK
        if verb in _TRAINING_VERBS:
            from efficientad.kernels.native import keep_freed_memory

            keep_freed_memory()
        with logging_to_stderr():
            return call()
    except KeyboardInterrupt:
        remedy = _REMEDIES.get(verb, "")
        print(f"efficientad: interrupted{remedy}", file=sys.stderr)
        return INTERRUPTED
    except (EfficientADError, PermissionError, ModuleNotFoundError) as error:
        sentence = _refusal(error, verb)
        if sentence is None:
            raise
        print(f"efficientad: {sentence}", file=sys.stderr)
        return BAD_INPUT


def _function_of(verb: str) -> Callable[..., int]:
    """Return the function of a verb, of this package or of the lab.

    Raises:
        ConfigError: If there is no such verb.
        MissingDependencyError: If it is the lab's, and the lab is not installed.
    """
    if verb in _VERBS:
        return _VERBS[verb]
    found: dict[str, EntryPoint] = {e.name: e for e in entry_points(group=_LAB_GROUP)}
    if verb in found:
        function: Callable[..., int] = found[verb].load()
        return function
    if verb in _LAB_VERBS:
        raise MissingDependencyError(
            f"{verb} is a verb of the lab, which is not installed; run: pip install "
            "./lab in the source tree"
        )
    got = f"got {verb}" if verb else "got nothing"
    raise ConfigError(
        f"needed one of {', '.join([*_VERBS, *_LAB_VERBS])}, {got}; see "
        "efficientad --help"
    )


def _refusal(error: Exception, verb: str) -> str | None:
    """Say what is wrong with the input; None where it is not the input's fault."""
    if isinstance(error, EfficientADError):
        return str(error)
    if isinstance(error, PermissionError) and error.filename is not None:
        # Of a folder on the way, anywhere.
        return (
            f"cannot enter or read {error.filename} ({error.strerror}); check its "
            "permissions"
        )
    if isinstance(error, ModuleNotFoundError) and error.name in TRAIN_EXTRA:
        return str(train_extra_is_missing(verb, error))
    return None


def _overview() -> str:
    """Give the help without reading the options of each verb, which takes a while."""
    lines = [
        "usage: efficientad VERB ...",
        "",
        "Find what is wrong in a picture, having seen only good ones.",
        "",
    ]
    for name, verb in _VERBS.items():
        first_line = (verb.__doc__ or "").partition("\n")[0]
        lines.append(f"  {name:10} {first_line}")
    lines += ["", "In the lab (pip install ./lab):", ""]
    lines += [f"  {name:10} {sentence}" for name, sentence in _LAB_VERBS.items()]
    return "\n".join([*lines, "", "efficientad VERB --help lists its options."])
