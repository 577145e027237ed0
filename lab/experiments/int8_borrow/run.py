"""8-bit exports: this package's own quantization, ONNX Runtime's, and NNCF's.

    python -m lab.experiments.int8_borrow.run part.ead CATEGORY --work DIR

Every variant starts from the same graph in single precision and from the same 32 normal
images. Accuracy is measured on all test images, by the native engine for the reference
and by OpenVINO for the exports; `--onnx-runtime` measures it by ONNX Runtime as well.
Speed is that of one image of 256 x 256, pixels in, maps out, all variants in turn. DIR
keeps exports and measurements: an interrupted run goes on.
"""

import argparse
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import torch
from numpy.typing import NDArray
from onnxruntime import quantization as ort

from efficientad.cli.environment import commit, machine
from efficientad.engines.engine import Precision
from efficientad.engines.graph_outputs import INPUT
from efficientad.engines.onnxruntime import OnnxRuntimeEngine
from efficientad.evaluation.evaluate import evaluate
from efficientad.exports.calibration_images import calibration_images
from efficientad.exports.graph import detector_graph, write
from efficientad.exports.quantization import quantized
from efficientad.images.rgb import INPUT_SIZE, as_rgb, resize_image
from efficientad.inspection.opening import load
from efficientad.inspection.predictor import Predictor
from efficientad.model_files import export_metadata
from efficientad.storage import file_hash
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import write_run
from lab.experiments.deployment.run import begun, measure, runs

EXPERIMENT = "int8_borrow"
N_IMAGES = 32
LAST = ("teacher_minus_student", "student_for_autoencoder", "autoencoder_describe")
NETWORK_OPS = ["Conv", "Relu", "AveragePool", "Concat", "Resize"]

Images = Sequence[NDArray[np.uint8]]
Maker = Callable[[onnx.ModelProto, Images, Path], None]


def of_this_package(model: onnx.ModelProto, images: Images, path: Path) -> None:
    """Equalization, GPTQ, bias correction, noise taken off."""
    write(quantized(model, images), path)


class _Reader(ort.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: Images) -> None:
        self._images = images
        self._remaining: Iterator[NDArray[np.uint8]] = iter(images)

    def __len__(self) -> int:
        return len(self._images)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Read only some of the images."""
        self._remaining = iter(self._images[start_index:end_index])

    def get_next(self) -> dict[str, Any] | None:
        """Return the next image."""
        image = next(self._remaining, None)
        return None if image is None else {INPUT: image[np.newaxis]}


def by_onnx_runtime(
    *in_float: str, method: str = "MinMax", has_7_bit_weights: bool = False
) -> Maker:
    """QDQ, weights with a scale for each output channel.

    The outputs of the last convolutions are never quantized: anomalies would be clipped
    at what normal images reach.

    Args:
        in_float: Convolutions that stay in single precision.
        method: How ranges follow from the values seen.
        has_7_bit_weights: For processors without VNNI.
    """

    def make(model: onnx.ModelProto, images: Images, path: Path) -> None:
        ort.quantize_static(
            model,
            path,
            _Reader(images),
            quant_format=ort.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=has_7_bit_weights,
            activation_type=ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8,
            calibrate_method=ort.CalibrationMethod[method],
            op_types_to_quantize=NETWORK_OPS,
            nodes_to_exclude=list(in_float),
            # Else all activations of all images are held in memory at once.
            extra_options={"CalibStridedMinMax": 2},
        )
        write(_with_float_outputs(onnx.load(path)), path)

    return make


def _with_float_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop QuantizeLinear and DequantizeLinear behind the last convolutions."""
    made = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name not in made or made[name].op_type != "DequantizeLinear":
                continue
            quantize = made.get(made[name].input[0])
            if quantize is not None and quantize.input[0] in LAST:
                node.input[index] = quantize.input[0]
    return model


def by_nncf(*in_float: str) -> Maker:
    """`nncf.quantize` of OpenVINO's model, with its own choice of everything else.

    Args:
        in_float: Convolutions that stay in single precision, beside all that is behind
            the networks.
    """

    def make(model: onnx.ModelProto, images: Images, path: Path) -> None:
        import nncf  # noqa: PLC0415 - in an environment of its own

        found = nncf.quantize(
            openvino.Core().read_model(model.SerializeToString()),
            nncf.Dataset([image[np.newaxis] for image in images]),
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(
                patterns=[f".*{name}.*" for name in in_float],
                types=["MatMul", "Subtract", "Multiply", "Add", "Divide", "ReduceL2"],
                validate=False,
            ),
        )
        found.set_rt_info("", export_metadata.KEY)
        openvino.save_model(found, path, compress_to_fp16=False)

    return make


FIRST = ("teacher_0", "student_0", "autoencoder_encoder_0")
MAKERS: Mapping[str, tuple[str, Maker]] = {
    "fp32": (".onnx", lambda model, _, path: write(model, path)),
    "ours": (".onnx", of_this_package),
    "ORT": (".onnx", by_onnx_runtime()),
    "ORT, first float": (".onnx", by_onnx_runtime(*FIRST)),
    "ORT, first float, 7 bits": (
        ".onnx",
        by_onnx_runtime(*FIRST, has_7_bit_weights=True),
    ),
    "ORT, first and last float": (".onnx", by_onnx_runtime(*FIRST, *LAST)),
    "ORT, first float, percentile": (
        ".onnx",
        by_onnx_runtime(*FIRST, method="Percentile"),
    ),
    "NNCF": (".xml", by_nncf()),
    "NNCF, first float": (".xml", by_nncf(*FIRST)),
}


def exported(
    detector: Predictor, images: Images, work: Path, name: str, suffix: str
) -> Path:
    """Make one variant, unless that was done before."""
    path = work / f"{name.replace(', ', '_').replace(' ', '_')}{suffix}"
    if not path.exists():
        print("making", name, flush=True)
        weights, size = detector.weights, detector.size
        assert weights is not None
        assert size is not None
        calibration = detector.calibration
        model = detector_graph(weights, size, calibration.scales, calibration.terms)
        staged = path.with_name(f"staged{suffix}")
        MAKERS[name][1](model, images, staged)
        precision: Precision = "fp32" if name == "fp32" else "int8"
        described = export_metadata.Metadata(
            size=size,
            precision=precision,
            calibration=calibration,
            provenance=dict(detector.provenance),
        )
        export_metadata.write(staged, described)
        for file in export_metadata.files_of(staged):
            file.rename(path.with_suffix(file.suffix))
    return path


def main() -> None:
    """Measure and record one product."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("category", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--onnx-runtime", action="store_true")
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    given.work.mkdir(parents=True, exist_ok=True)
    identity = {
        "detector": file_hash(given.model),
        "category": str(given.category.resolve()),
        "commit": commit(),
        "machine": machine(),
    }
    state_file = given.work / "state.json"
    begun(state_file, identity)
    n_threads = torch.get_num_threads()
    detector = load(given.model, device="cpu", engine="native", n_threads=n_threads)
    names = calibration_images(given.category, detector.provenance, N_IMAGES)
    images = [resize_image(as_rgb(name), INPUT_SIZE, INPUT_SIZE) for name in names]
    predictors = {"native": detector}
    for name, (suffix, _) in MAKERS.items():
        path = exported(detector, images, given.work, name, suffix)
        for engine in ("onnxruntime", "openvino"):
            if engine == "onnxruntime" and suffix != ".onnx":
                continue
            predictors[f"{name}, {engine}"] = load(
                path, engine=engine, n_threads=n_threads
            )

    def accuracy(predictor: Predictor) -> Mapping[str, float]:
        is_skipped = isinstance(predictor.engine, OnnxRuntimeEngine)
        if is_skipped and not given.onnx_runtime:
            return {}
        return evaluate(predictor, given.category).metrics

    state = measure(predictors, accuracy, state_file, given.repeats, identity)
    common = {
        "experiment": EXPERIMENT,
        "category": given.category.resolve().name,
        "seed": detector.provenance["config"]["seed"],
        "settings": {
            "size": detector.size,
            "n_images": len(images),
            "n_threads": n_threads,
            "niceness": os.nice(0),
        },
    }
    results = Path(__file__).parent / "results"
    for run in runs(state, {}, common):
        print(write_run(run | environment(), results))


if __name__ == "__main__":
    main()
