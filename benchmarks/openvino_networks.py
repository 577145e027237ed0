"""The plain networks, unchanged, on OpenVINO: what a ready engine makes of them.

The graph is converted from the baseline itself: nothing folded, shared or fused by
this project. 8 bits come from NNCF's post-training quantization as it is, with random
pixels to measure ranges on: good for speed, not for maps. NNCF is no part of the
project's environment: `pip install nncf` beside it, or these rows are left out.
"""

from collections.abc import Callable
from typing import Any

import torch
from baseline import Baseline, raw_maps
from torch import Tensor, nn

from efficientad.method.maps import RawMaps

_N_CALIBRATION = 8


class _Plain(nn.Module):
    """The baseline as one module, as a converter wants it."""

    def __init__(self, networks: Baseline) -> None:
        super().__init__()
        self.networks = networks
        self.parts = nn.ModuleList(networks[:3])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        local_map, global_map = raw_maps(self.networks, pixels)
        return local_map, global_map


def openvino_ways(
    networks: Baseline, pixels: Tensor, threads: int
) -> dict[str, Callable[[Tensor], RawMaps]]:
    """Compile the networks for as many threads; empty without OpenVINO.

    Args:
        networks: The baseline.
        pixels: Of the shape that will be judged.
        threads: Of each call.
    """
    try:
        import openvino  # noqa: PLC0415 - the rows are left out without it
    except ModuleNotFoundError:
        return {}
    model = openvino.convert_model(_Plain(networks).eval(), example_input=pixels)
    model.reshape(list(pixels.shape))
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        # Else several processes would bind their threads to the same core.
        "ENABLE_CPU_PINNING": False,
    }

    def compiled(model: Any, precision: str) -> Callable[[Tensor], RawMaps]:
        hint = {"INFERENCE_PRECISION_HINT": precision}
        request = openvino.compile_model(
            model, "CPU", settings | hint
        ).create_infer_request()

        def judge(pixels: Tensor) -> RawMaps:
            found = request.infer([pixels.numpy()])
            return RawMaps(*(torch.from_numpy(found[i].copy()) for i in range(2)))

        return judge

    ways = {
        "OpenVINO fp32": compiled(model, "f32"),
        "OpenVINO bf16": compiled(model, "bf16"),
    }
    rounded = _in_8_bits(model, tuple(pixels.shape))
    if rounded is not None:
        ways["OpenVINO int8"] = compiled(rounded, "f32")
    return ways


def _in_8_bits(model: Any, shape: tuple[int, ...]) -> Any:
    """Quantize by NNCF, everything it takes; None without it."""
    try:
        import nncf  # noqa: PLC0415
    except ModuleNotFoundError:
        return None
    generator = torch.Generator().manual_seed(1)
    images = [
        torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).numpy()
        for _ in range(_N_CALIBRATION)
    ]
    return nncf.quantize(
        model.clone(), nncf.Dataset(images), subset_size=_N_CALIBRATION
    )
