"""The command line: one verb a library function.

    efficientad demo | train | calibrate | predict | evaluate | check | export |
                threshold | benchmark | reproduce | ablate | figures | distill | doctor

Errors raised on purpose become one line on stderr and exit code 2; other errors keep
their traceback. Heavy packages are imported by the verb that needs them.
"""

import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Final

from efficientad.cli_deployment import benchmark, evaluate, export, predict, threshold
from efficientad.cli_options import bound
from efficientad.errors import TRAIN_EXTRA, EfficientADError, train_extra_is_missing
from efficientad.figures.config import FigureConfig
from efficientad.reproduction.config import PaperTable, StudyConfig
from efficientad.training.config import Device, DistillConfig, TrainConfig

if TYPE_CHECKING:
    from efficientad.reproduction.jobs import Job

_OK, _SOME_FAILED, _BAD_INPUT, _INTERRUPTED = 0, 1, 2, 130


def train(images: Path, /, *, output: Path, config: TrainConfig) -> int:
    """Train and calibrate a detector on normal images.

    Args:
        images: Folder of normal images, or a category folder in MVTec AD's layout.
        output: The detector file to write, for example part.ead.
        config: Settings.
    """
    from efficientad.training.student import train as train_detector

    print(f"settings: {config}", file=sys.stderr)
    detector = train_detector(images, config, output=output)
    assert detector.calibration is not None
    print(f"detector {output}")
    print(f"threshold {detector.calibration.threshold:.4g}")
    print(detector.calibration.statement())
    return _OK


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
    from efficientad.storage import require_writable
    from efficientad.training.model_file import load, recalibrate, save

    require_writable(output)
    detector = recalibrate(
        load(model, device=device), images, false_alarm_budget, threshold
    )
    save(detector, output)
    assert detector.calibration is not None
    print(f"wrote {output}")
    print(f"threshold {detector.calibration.threshold:.4g}")
    print(detector.calibration.statement())
    return _OK


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
    from efficientad.judgement.data_check import check_data

    checks = check_data(data, model=model, output=output)
    for checked in checks:
        numbers = ", ".join(f"{n} {split}" for split, n in checked.n_images.items())
        n, plural = len(checked.findings), "" if len(checked.findings) == 1 else "s"
        print(f"{checked.name}: {numbers or 'no'} images, {n} finding{plural}")
        for finding in checked.findings:
            print(f"  {finding.severity}: {finding.message}")
    return _SOME_FAILED if any(checked.has_errors for checked in checks) else _OK


def demo(
    *, output: Path = Path("demo"), steps: int | None = None, seed: int = 0
) -> int:
    """Draw parts, train, calibrate, evaluate, and write a report; nothing is needed.

    Args:
        output: Folder for parts, detector and report.
        steps: Images to train on. None: what fits into five minutes on two cores.
        seed: Of parts and training; the same seed gives the same result.
    """
    from efficientad.judgement.demo import run_demo

    evaluation = run_demo(output, steps=steps, seed=seed)
    for name, value in evaluation.metrics.items():
        print(f"{name:24} {value:.4f}")
    print(f"open {output / 'report.html'}")
    return _OK


def reproduce(roots: tuple[Path, ...], /, *, output: Path, config: StudyConfig) -> int:
    """Train and judge all scenarios by sizes and seeds: the paper's Tables 1 and 2.

    Finished runs are skipped and a killed one goes on: give the same command again.
    Exit code 1 if a run failed, 2 if by bad input; the others are done all the same.

    Args:
        roots: Category folders, collections of them, or folders of collections.
        output: Folder for a JSON file a run, reproduce.md and reproduce.html.
        config: Settings.
    """
    from efficientad.reproduction.reproduce import EXPERIMENT
    from efficientad.reproduction.reproduce import reproduce as reproduce_scenarios

    print(f"settings: {config}", file=sys.stderr)
    failures = reproduce_scenarios(roots, output, config, on_done=_tell_done)
    print(f"see {output / EXPERIMENT}.html")
    return _code_of(failures)


def ablate(
    roots: tuple[Path, ...],
    /,
    *,
    output: Path,
    tables: tuple[PaperTable, ...] = (3, 4, 5),
    config: StudyConfig,
) -> int:
    """Measure what each part of the method is worth: the paper's Tables 3, 4 and 5.

    Finished runs are skipped and a killed one goes on: give the same command again.
    Exit code 1 if a run failed, 2 if by bad input; the others are done all the same.

    Args:
        roots: Category folders, collections of them, or folders of collections.
        output: Folder for a JSON file a run, ablation.md and ablation.html.
        tables: Numbers of the paper's tables.
        config: Settings.
    """
    from efficientad.reproduction.ablation import EXPERIMENT
    from efficientad.reproduction.ablation import ablate as ablate_scenarios

    print(f"settings: {config}", file=sys.stderr)
    failures = ablate_scenarios(
        roots, output, config, tables=tables, on_done=_tell_done
    )
    print(f"see {output / EXPERIMENT}.html")
    return _code_of(failures)


def figures(results: Path, /, *, config: FigureConfig) -> int:
    """Draw the paper's figures from one's own runs, as PDF and PNG.

    Exit code 1 if a figure lacks its runs; the others are drawn all the same.

    Args:
        results: Folder of recorded runs, as reproduce writes it.
        config: Settings.
    """
    from efficientad.figures.drawing import draw_figures

    drawn, missing = draw_figures(results, config)
    for path in drawn:
        print(f"wrote {path}")
    for reason in missing:
        print(f"efficientad: {reason}", file=sys.stderr)
    return _SOME_FAILED if missing else _OK


def _tell_done(job: "Job", error: Exception | None) -> None:
    """Print how a job ended."""
    name = f"{job.category.name}, {job.variant}, seed {job.config.seed}"
    if error is None:
        print(f"{name}: recorded", flush=True)
    else:
        reason = f"{type(error).__name__}: {error}"
        print(f"efficientad: {name} failed: {reason}", file=sys.stderr, flush=True)


def _code_of(failures: Sequence[Exception]) -> int:
    if any(isinstance(error, EfficientADError) for error in failures):
        return _BAD_INPUT
    return _SOME_FAILED if failures else _OK


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
    from efficientad.measurement.surroundings import commit, machine
    from efficientad.training.distillation import distill as distill_teacher

    print(f"settings: {config}", file=sys.stderr)
    made_with = {"commit": commit(), "hardware": machine()}
    explained = distill_teacher(images, config, output=output, provenance=made_with)
    print(f"wrote {output}")
    print(f"held-out explained variance {explained.overall:.4f}")
    return _OK


def doctor() -> int:
    """Show what this installation can use: versions, kernels, devices, teachers."""
    from efficientad.training.doctor import findings

    for name, value in findings().items():
        print(f"{name:24} {value}")
    return _OK


_VERBS: Final[dict[str, Callable[..., int]]] = {
    "demo": demo,
    "train": train,
    "calibrate": calibrate,
    "predict": predict,
    "evaluate": evaluate,
    "check": check,
    "export": export,
    "threshold": threshold,
    "reproduce": reproduce,
    "ablate": ablate,
    "figures": figures,
    "benchmark": benchmark,
    "distill": distill,
    "doctor": doctor,
}


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
        return _OK
    if verb not in _VERBS:
        got = f"got {verb}" if verb else "got nothing"
        print(
            f"efficientad: needed one of {', '.join(_VERBS)}, {got}; see "
            "efficientad --help",
            file=sys.stderr,
        )
        return _BAD_INPUT
    try:
        call = bound(_VERBS[verb], verb, options)
        return _OK if call is None else call()
    except KeyboardInterrupt:
        remedy = _REMEDIES.get(verb, "")
        print(f"efficientad: interrupted{remedy}", file=sys.stderr)
        return _INTERRUPTED
    except (EfficientADError, PermissionError, ModuleNotFoundError) as error:
        sentence = _refusal(error, verb)
        if sentence is None:
            raise
        print(f"efficientad: {sentence}", file=sys.stderr)
        return _BAD_INPUT


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
    return "\n".join([*lines, "", "efficientad VERB --help tells the rest."])
