"""The limit of a machine: the fastest matrix product in each precision.

No network is faster, unless it does fewer multiplications than are counted, as the
native layers do. A lower precision can always be computed in single precision, so its
limit is the higher of both: a processor may have no instructions for it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from efficientad.engines.engine import Precision
from efficientad_lab.benchmark.clock import Timing, consecutive

DeviceType = Literal["cpu", "cuda"]

_SMALLEST: Final = {"cpu": 256, "cuda": 2048}
_LARGEST: Final = {"cpu": 2048, "cuda": 8192}
# A product of this time makes the time to start it negligible.
_LONG_ENOUGH_MS: Final = 10.0
_TRIES: Final = 2

_TORCH_TYPES: Final[dict[Precision, torch.dtype]] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
}


@dataclass(frozen=True, slots=True)
class Peak:
    """The fastest matrix product of a precision on this machine."""

    precision: Precision
    engine: str
    """Engine of the product."""
    n: int
    """Rows and columns of both matrices."""
    timing: Timing

    @property
    def flops_per_second(self) -> float:
        """Multiplications and additions of the fastest product, per second."""
        return 2 * self.n**3 / (self.timing.fastest / 1000)

    def summary(self) -> dict[str, Any]:
        """Return the recorded values."""
        return {
            "precision": self.precision,
            "engine": self.engine,
            "n": self.n,
            "flops_per_second": self.flops_per_second,
            "n_timed": len(self.timing.milliseconds),
        }


class MatrixProduct(NamedTuple):
    """A product of two square matrices, to be timed."""

    precision: Precision
    engine: str
    n: int
    run: Callable[[], object]

    @property
    def name(self) -> str:
        """Name in the timings."""
        return f"matrix product, {self.precision}, {self.engine}"


def wait_for(device: DeviceType) -> Callable[[], None]:
    """Return a function that waits until the device has finished all work."""

    def wait() -> None:
        if device == "cuda" and torch.cuda.is_available():
            torch.cuda.synchronize()

    return wait


def matrix_products(device: DeviceType) -> list[MatrixProduct]:
    """Return products to time, each large enough to take some milliseconds."""
    products = [
        _large_enough(device, precision, "PyTorch", partial(_torch, precision, device))
        for precision in _TORCH_TYPES
    ]
    if device == "cpu":
        products.append(_large_enough(device, "int8", "ONNX Runtime", _onnx_int8))
    return products


def peaks(
    products: Sequence[MatrixProduct], timings: Mapping[str, Timing]
) -> dict[Precision, Peak]:
    """Return the limit of each precision."""
    found = [Peak(p.precision, p.engine, p.n, timings[p.name]) for p in products]
    of_fp32 = [peak for peak in found if peak.precision == "fp32"]
    return {
        precision: max(
            of_fp32 + [peak for peak in found if peak.precision == precision],
            key=lambda peak: peak.flops_per_second,
        )
        for precision in _TORCH_TYPES
    }


@contextmanager
def shared_threads(n_streams: int) -> Iterator[None]:
    """Divide PyTorch's threads among several streams, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // n_streams))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _large_enough(
    device: DeviceType,
    precision: Precision,
    engine: str,
    make: Callable[[int], Callable[[], object]],
) -> MatrixProduct:
    n = _SMALLEST[device]
    while True:
        run = make(n)
        tried = consecutive(run, _TRIES, n_warm_up=1, wait=wait_for(device))
        if tried.fastest >= _LONG_ENOUGH_MS or n == _LARGEST[device]:
            return MatrixProduct(precision, engine, n, run)
        n *= 2


def _torch(precision: Precision, device: DeviceType, n: int) -> Callable[[], object]:
    if precision == "int8":
        numbers = torch.randint(-127, 128, (n, n), dtype=torch.int8, device=device)
        return lambda: torch._int_mm(numbers, numbers)  # noqa: SLF001 - it has no other name
    matrix = torch.randn(n, n, device=device).to(_TORCH_TYPES[precision])

    def product() -> Tensor:
        # A GPU's convolutions may round single precision before they multiply, so the
        # product may do so too.
        settings = torch.backends.cuda.matmul
        before, settings.allow_tf32 = (
            settings.allow_tf32,
            torch.backends.cudnn.allow_tf32,
        )
        try:
            return matrix @ matrix
        finally:
            settings.allow_tf32 = before

    return product


def _onnx_int8(n: int) -> Callable[[], object]:
    """Return a product as in a quantized graph: uint8 by constant int8 weights.

    Weights have 7 bits: without VNNI a processor adds pairs of products in 16 bits.
    """
    rng = np.random.default_rng(0)
    weights = rng.integers(-63, 64, (n, n), dtype=np.int8)
    left = rng.integers(0, 256, (n, n), dtype=np.uint8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["left", "weights"], ["product"])],
        "product",
        [helper.make_tensor_value_info("left", TensorProto.UINT8, [n, n])],
        [helper.make_tensor_value_info("product", TensorProto.INT32, [n, n])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"left": left})
