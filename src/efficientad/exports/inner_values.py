"""Inner values of a graph on given images, by ONNX Runtime."""

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from efficientad.engines.graph_outputs import INPUT
from efficientad.images.rgb import RGBImage

if TYPE_CHECKING:
    import onnx


def inner_values(
    model: "onnx.ModelProto", names: Sequence[str], images: Sequence[RGBImage]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield any values of a detector's graph for one image after the other, by name.

    They have no axis of the batch; of a convolution they are (channels, rows, columns).
    """
    import onnx  # noqa: PLC0415 - only an export needs it
    import onnxruntime  # noqa: PLC0415

    giving = copy.deepcopy(model)
    del giving.graph.output[:]
    giving.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        giving.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for image in images:
        values = session.run(list(names), {INPUT: image[np.newaxis]})
        yield {name: value[0] for name, value in zip(names, values, strict=True)}
