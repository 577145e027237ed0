"""Verbs that judge with a detector and carry it elsewhere; `cli` runs them."""

from pathlib import Path
from typing import Final, Literal

from efficientad.engines.names import Device, EngineChoice

OK: Final = 0
SOME_FAILED: Final = 1


def predict(
    model: Path,
    paths: tuple[Path, ...],
    /,
    *,
    output: Path,
    heatmaps: bool = True,
    maps: bool = False,
    device: Device = "auto",
    engine: EngineChoice = "auto",
    streams: int = 1,
) -> int:
    """Judge images: score, p-value, decision, heatmap.

    Exit code 1 if a file could not be judged; the others are done all the same.

    Args:
        model: The detector file, or an exported one.
        paths: Images, and folders of images.
        output: Folder for predictions.csv, predictions.jsonl and heatmaps.
        heatmaps: Write a picture of each image with its maps.
        maps: Write each combined map as a float32 TIFF at the image's own size.
        device: Where the networks run.
        engine: Engine that computes the maps. auto: native layers on the CPU, else
            PyTorch; for an exported file the engine it is made for. native_bf16: faster
            for the medium size, rounded.
        streams: Images judged at the same time; more than one for exported files only.
    """
    from efficientad.inspection.files import predict as predict_files
    from efficientad.inspection.opening import load

    predictor = load(model, device=device, engine=engine, n_streams=streams)
    summary = predict_files(
        predictor,
        paths,
        output,
        has_heatmaps=heatmaps,
        has_maps=maps,
        n_streams=streams,
    )
    print(
        f"{summary.n_images} images judged, {summary.n_anomalous} anomalous, "
        f"{summary.n_failed} failed; see {output / 'predictions.csv'}"
    )
    return SOME_FAILED if summary.n_failed else OK


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
        model: The detector file, or an exported one.
        category: Category folder in MVTec AD's layout, with test and ground_truth.
        output: Folder for the results.
        device: Where the networks run.
        engine: Engine that computes the maps. auto: native layers on the CPU, else
            PyTorch; for an exported file the engine it is made for. native_bf16: faster
            for the medium size, rounded.
    """
    from efficientad.evaluation.evaluate import evaluate as evaluate_category
    from efficientad.inspection.opening import load

    evaluation = evaluate_category(
        load(model, device=device, engine=engine), category, output=output
    )
    for name, value in evaluation.metrics.items():
        print(f"{name:24} {value:.4f}")
    print(f"see {output / 'report.html'}")
    return OK


def export(
    model: Path,
    /,
    *,
    output: Path,
    format: Literal["onnx", "openvino"] | None = None,  # noqa: A002 - as it is called
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32",
    images: Path | None = None,
    verify: Path | None = None,
    max_loss: float = 0.2,
) -> int:
    """Write a detector as one graph that needs no PyTorch.

    The file is compared with PyTorch and refused where it differs.

    Args:
        model: The detector file.
        output: The file to write: part.onnx, or part.xml for OpenVINO.
        format: What the file is for. None: as the ending says.
        precision: fp16: weights in 16 bits. bf16: computed so by OpenVINO, where the
            processor can. int8: convolutions in 8 bits.
        images: Folder of normal images to compare on, beside artificial ones; int8
            measures the ranges of values on them. None: those of --verify, or those the
            detector was calibrated with, where they still are what they were.
        verify: Labelled category folder to measure the loss of accuracy on.
        max_loss: Points of image AU-ROC, and of AU-PRO or AU-sPRO, that may be lost
            there.
    """
    from efficientad.exports.export import export as export_detector
    from efficientad.exports.export import require_format
    from efficientad.inspection.opening import load, require_detector_file

    require_detector_file(model)
    require_format(output, format)
    report = export_detector(
        load(model, device="cpu"),
        output,
        precision=precision,
        images=images,
        verify=verify,
        max_loss=max_loss,
    )
    print(f"wrote {output}")
    for line in report.lines():
        print(line)
    return OK


def threshold(
    model: Path,
    /,
    *,
    at: float | None = None,
    false_alarm_budget: float | None = None,
    images: Path | None = None,
    output: Path | None = None,
) -> int:
    """Show how a detector or exported file decides, or change it without a new export.

    Args:
        model: The detector file, or an exported one.
        at: Threshold set by hand. None: from the normal scores and the budget.
        false_alarm_budget: Share of normal images that may be flagged. None: as it was.
        images: Folder of normal images that were not trained on; their scores by this
            file replace those that p-values and threshold come from.
        output: The file to write. None: the same.
    """
    from efficientad.inspection.threshold import threshold as read_or_change

    decision = read_or_change(
        model, output, at=at, false_alarm_budget=false_alarm_budget, images=images
    )
    if (at, false_alarm_budget, images) != (None, None, None):
        print(f"wrote {output or model}")
    print(f"threshold {decision.threshold:.4g}")
    print(decision.statement())
    return OK
