"""The verbs of the command line: parameters are options, docstrings are help.

Each verb returns an exit code and imports the heavy packages that it needs.
"""

import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from efficientad.calibration.rule_options import ANYWHERE, RuleOptions
from efficientad.cli import ANOMALOUS, OK, SOME_FAILED, UNSURE, printing
from efficientad.decisions.budget import DEFAULT_BUDGET
from efficientad.distillation.config import DistillConfig, recipe_of
from efficientad.engines.names import Device, EngineChoice
from efficientad.executors.config import PartsConfig
from efficientad.training.config import TrainConfig


def demo(
    *, output: Path = Path("demo"), steps: int | None = None, seed: int = 0
) -> int:
    """Draw parts, train, calibrate, evaluate and write a report. Needs no data.

    Args:
        output: Folder for parts, detector and report.
        steps: Optimizer steps. None: as many as fit into five minutes on two cores.
        seed: Seed of parts and training. The same seed gives the same result.
    """
    from efficientad.demo_parts.demo import demo as run_demo

    evaluation = run_demo(output, steps=steps, seed=seed)
    printing.print_lines(
        *printing.evaluation_lines(evaluation),
        f"open {output / 'report.html'}",
        f"{output / 'region' / 'report.html'} shows a region of interest and a least "
        "area of defects; missing and swapped parts show in whole images",
    )
    return OK


def train(images: Path, /, *, output: Path, config: TrainConfig) -> int:
    """Train and calibrate a detector on normal images.

    Args:
        images: Folder of normal images, a category folder, or a list of images as CSV,
            JSON list or manifest.
        output: Detector file to write, for example part.ead.
        config: Settings of the training.
    """
    from efficientad.cli.process import held_back_interrupt
    from efficientad.training import run

    printing.print_lines(*printing.training_lines(config), on_stderr=True)
    predictor = run.train(images, config, output=output, interrupts=held_back_interrupt)
    printing.print_lines(
        f"wrote {output}", *printing.decision_lines(predictor.calibration)
    )
    return OK


def calibrate(
    model: Path,
    images: Path,
    /,
    *,
    output: Path,
    false_alarm_budget: float = DEFAULT_BUDGET,
    unsure_budget: float | None = None,
    rule: RuleOptions = ANYWHERE,
    threshold: float | None = None,
    force: bool = False,
    device: Device = "auto",
) -> int:
    """Calibrate a detector again, on other normal images.

    Args:
        model: Detector file.
        images: Folder of normal images that were not used for training.
        output: Detector file to write. It may be the same file.
        false_alarm_budget: Share of normal images that may be flagged, at most 0.5.
        unsure_budget: Share of normal images that may be flagged or unsure. None: none
            is unsure.
        rule: Region of interest and least area of a defect. Default: as before; a
            white picture is the whole image.
        threshold: Decision threshold set by hand. None: from the images.
        force: Write a threshold, too, that flags most normal images, or that no image
            may reach.
        device: Device of the networks. auto: CUDA where there is one.
    """
    from efficientad.calibration.calibrate import calibrate as calibrate_model
    from efficientad.inspection.opening import load, require_detector_name, save
    from efficientad.storage import require_writable

    require_detector_name(output)
    require_writable(output)
    predictor = calibrate_model(
        load(model, device=device),
        images,
        false_alarm_budget=false_alarm_budget,
        unsure_budget=unsure_budget,
        rule=None if rule.is_plain else rule,
        threshold=threshold,
        force=force,
    )
    save(predictor, output)
    printing.print_lines(
        f"wrote {output}", *printing.decision_lines(predictor.calibration)
    )
    return OK


def predict(
    model: Path,
    paths: tuple[str, ...],
    /,
    *,
    output: str | None = None,
    json: Literal["-"] | None = None,
    heatmaps: bool = True,
    maps: bool = False,
    device: Device = "auto",
    engine: EngineChoice = "auto",
    streams: int = 1,
    config: PartsConfig,
    decision_exit_code: bool = False,
) -> int:
    """Predict scores, p-values, decisions and heatmaps of images.

    The exit code is 1 if the prediction of some image failed. The others are written.
    As Parquet, the same command again predicts what is missing.

    Args:
        model: Detector file or exported file.
        paths: Images, folders of images and patterns; - reads their names from standard
            input, one a line. For Parquet also tar files of images, URLs, and text
            files with a path or URL in each line.
        output: Folder for predictions.csv, predictions.jsonl and heatmaps, or folder or
            URL for Parquet parts. None: nothing is written.
        json: -: print a JSON object for each image, one a line, on standard output,
            and the summary on standard error; not with Parquet.
        heatmaps: Write a picture of each image with its maps; not with Parquet.
        maps: Write each combined map as a float32 TIFF of the image's size; with
            Parquet as a column with one value for each descriptor.
        device: Device of the networks. auto: CUDA where there is one.
        engine: Engine that computes the maps. auto: native layers on the CPU, PyTorch
            on a GPU, and for an exported file the engine that it was made for.
            native_bf16: faster for the medium size, but rounded.
        streams: Images predicted at the same time, not with Parquet. pytorch takes only
            one.
        decision_exit_code: Exit with 3 if an image is anomalous, and with 4 if one is
            unsure and none is anomalous.
        config: Form of the results, and where they are computed.
    """
    from efficientad.cli.process import names_from_input
    from efficientad.inspection.files import json_line
    from efficientad.inspection.files import predict as predict_files
    from efficientad.inspection.opening import load

    named = [p for path in paths for p in names_from_input(path)]
    if config.writes_parts:
        from efficientad.cli.parts import predict_parts

        options = {"device": device, "engine": engine, "has_maps": maps}
        refused = {"--json": json, "--streams": streams > 1}
        summary = predict_parts(model, named, output, config, options, refused)
        place = output
    else:
        summary = predict_files(
            load(model, device=device, engine=engine, n_streams=streams),
            named,
            output,
            has_heatmaps=heatmaps,
            has_maps=maps,
            n_streams=streams,
            on_row=(lambda row: print(json_line(row), flush=True)) if json else None,
        )
        place = output and str(Path(output) / "predictions.csv")
    with redirect_stdout(sys.stderr if json else sys.stdout):
        printing.print_lines(*printing.prediction_lines(summary, place))
    if summary.n_failed or not decision_exit_code:
        return SOME_FAILED if summary.n_failed else OK
    if summary.n_anomalous:
        return ANOMALOUS
    return UNSURE if summary.n_unsure else OK


def evaluate(
    model: Path,
    category: Path,
    /,
    *,
    output: Path,
    device: Device = "auto",
    engine: EngineChoice = "auto",
) -> int:
    """Measure a detector on labelled test images: metrics.json and report.html.

    Args:
        model: Detector file or exported file.
        category: Category folder with labelled test images, as in MVTec AD, or a list
            of images as CSV, JSON list or manifest.
        output: Folder for the results.
        device: Device of the networks. auto: CUDA where there is one.
        engine: Engine that computes the maps. auto: native layers on the CPU, PyTorch
            on a GPU, and for an exported file the engine that it was made for.
            native_bf16: faster for the medium size, but rounded.
    """
    from efficientad.evaluation.evaluate import evaluate as evaluate_category
    from efficientad.inspection.opening import load

    predictor = load(model, device=device, engine=engine)
    evaluation = evaluate_category(predictor, category, output=output)
    printing.print_lines(
        *printing.evaluation_lines(evaluation), f"see {output / 'report.html'}"
    )
    return OK


def check(
    data: Path,
    /,
    *,
    model: Path | None = None,
    robustness: bool = False,
    output: Path | None = None,
) -> int:
    """List what is wrong with a data set, before hours are spent on it.

    The exit code is 1 if a finding would make results meaningless or stop a training.

    Args:
        data: Category folder, folder of categories, folder of normal images, or CSV or
            JSON list.
        model: Detector file that finds normal images unlike all others.
        robustness: Show only the false alarms of a model file, given in place of a data
            set, after changes of light, focus and position as between two sessions.
        output: JSON file to write with all findings. None: they are only printed.
    """
    from efficientad.evaluation.check import check as check_data

    if robustness:
        printing.print_lines(*printing.robustness_lines(data, model, output))
        return OK
    checks = check_data(data, model=model, output=output)
    for checked in checks:
        numbers = ", ".join(f"{n} {split}" for split, n in checked.n_images.items())
        n, plural = len(checked.findings), "" if len(checked.findings) == 1 else "s"
        printing.print_lines(
            f"{checked.category}: {numbers or 'no'} images, {n} finding{plural}"
        )
        for finding in checked.findings:
            printing.print_lines(f"  {finding.severity}: {finding.message}")
    return SOME_FAILED if any(checked.has_errors for checked in checks) else OK


def export(
    model: Path,
    /,
    *,
    output: Path,
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32",
    images: Path | None = None,
    verify: Path | None = None,
    max_loss: float = 0.2,
) -> int:
    """Write a detector as one graph that runs without PyTorch, or for C.

    The graph is compared with PyTorch and refused if its results differ.

    Args:
        model: Detector file.
        output: File to write: part.onnx, part.xml for OpenVINO, or part.native for the
            C interface.
        precision: fp16: weights in 16 bits. bf16: computed in bfloat16 by OpenVINO,
            where the processor can. int8: convolutions in 8 bits.
        images: Folder of normal images for the comparison and the ranges of int8. None:
            those of --verify, otherwise those the detector was calibrated with, if they
            are unchanged.
        verify: Labelled category folder that the loss of accuracy is measured on.
        max_loss: Largest loss of image AU-ROC and of AU-PRO or AU-sPRO, in points.
    """
    from efficientad.exports.export import export as export_detector
    from efficientad.inspection.opening import load, require_detector_file

    require_detector_file(model)
    report = export_detector(
        load(model, device="cpu"),
        output,
        precision=precision,
        images=images,
        verify=verify,
        max_loss=max_loss,
    )
    printing.print_lines(f"wrote {output}", *report.lines())
    return OK


def threshold(
    model: Path,
    /,
    *,
    at: float | None = None,
    false_alarm_budget: float | None = None,
    unsure_budget: float | None = None,
    rule: RuleOptions = ANYWHERE,
    images: Path | None = None,
    defects: Path | None = None,
    output: Path | None = None,
    force: bool = False,
) -> int:
    """Show or change the decision threshold of a detector or exported file.

    Args:
        model: Detector file or exported file.
        at: Threshold set by hand. None: from the normal scores and the budget.
        false_alarm_budget: Share of normal images that may be flagged. None: unchanged.
        unsure_budget: Share of normal images that may be flagged or unsure. 0: none is
            unsure. None: unchanged.
        rule: Region of interest and least area of a defect; needs --images. A white
            region stands for the whole image. Default: unchanged.
        images: Folder of normal images that were not used for training. Their scores
            replace those that p-values and threshold are computed from.
        defects: Folder of some known defects: shows what each budget would find of
            them. It changes nothing.
        output: File to write. None: the same file.
        force: Write a threshold, too, that flags most normal images, or that no image
            may reach.
    """
    from efficientad.calibration.known_defects import expectations
    from efficientad.calibration.threshold import threshold as read_or_change

    given_rule = None if rule.is_plain else rule
    calibration = read_or_change(
        model,
        output,
        at=at,
        false_alarm_budget=false_alarm_budget,
        unsure_budget=unsure_budget,
        rule=given_rule,
        images=images,
        force=force,
    )
    changes = (at, false_alarm_budget, unsure_budget, given_rule, images)
    if any(change is not None for change in changes):
        printing.print_lines(f"wrote {output or model}")
    printing.print_lines(*printing.decision_lines(calibration))
    if defects is not None:
        printing.print_lines(*expectations(output or model, defects))
    return OK


def card(model: Path, /, *, metrics: Path | None = None) -> int:
    """Print the model card of a detector or exported file in Markdown.

    Args:
        model: Detector file or exported file.
        metrics: The metrics.json that evaluate wrote for it. None: no metrics.
    """
    from efficientad.inspection.card import card as card_of

    print(card_of(model, metrics=metrics), end="")
    return OK


def distill(images: tuple[Path, ...], /, *, output: Path, config: DistillConfig) -> int:
    """Distill a teacher from a source network and natural images.

    Args:
        images: Folders and uncompressed tar files of natural images.
        output: Teacher file to write, for example teacher.safetensors.
        config: Settings of the distillation.
    """
    from efficientad.cli.environment import commit, machine
    from efficientad.cli.process import held_back_interrupt
    from efficientad.distillation.distill import distill as distill_teacher
    from efficientad.engines.pytorch import choose_device

    became = asdict(recipe_of(config)) | {"device": choose_device(config.device)}
    printing.print_lines(*printing.settings_lines(config, became), on_stderr=True)
    explained = distill_teacher(
        images,
        config,
        output=output,
        provenance={"commit": commit(), "hardware": machine()},
        interrupts=held_back_interrupt,
    )
    variance = f"held-out explained variance {explained.overall:.4f}"
    printing.print_lines(f"wrote {output}", variance)
    return OK


def doctor() -> int:
    """Show what this installation can use: versions, kernels, devices, teachers."""
    from efficientad.cli.environment import findings

    printing.print_lines(*(f"{name:24} {found}" for name, found in findings().items()))
    return OK
