"""Costs of every layer of the plain networks: parameters, FLOPs, time.

Parameters and FLOPs are counted on PyTorch's device without memory (`meta`). Layers are
timed in the order of a real pass, each on the output of the previous one.
"""

import time
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from efficientad.images.rgb import INPUT_SIZE
from efficientad.method.sizes import DESCRIPTOR_CHANNELS, ModelSize
from efficientad_lab.benchmark.baseline import Baseline, autoencoder, pdn
from efficientad_lab.benchmark.clock import Timing
from efficientad_lab.benchmark.costs import LayerCost

_Network = Literal["teacher", "student", "autoencoder"]
_IMAGE = (1, 3, INPUT_SIZE, INPUT_SIZE)


@torch.no_grad()
def layer_costs(size: ModelSize) -> list[LayerCost]:
    """Return parameters and FLOPs of every layer, teacher first, autoencoder last.

    Args:
        size: The paper's S or M.
    """
    with torch.device("meta"):
        networks = (
            pdn(size, DESCRIPTOR_CHANNELS),
            pdn(size, 2 * DESCRIPTOR_CHANNELS),
            autoencoder(),
        )
        images = torch.empty(_IMAGE)
    costs = []
    for name, network in zip(get_args(_Network), networks, strict=True):
        grid = images
        for layer in network.eval():
            with FlopCounterMode(display=False) as counter:
                grid = layer(grid)
            channels, rows, columns = grid.shape[1:]
            costs.append(
                LayerCost(
                    network=name,
                    name=_described(layer),
                    output=(channels, rows, columns),
                    n_parameters=sum(p.numel() for p in layer.parameters()),
                    flops=counter.get_total_flops(),
                )
            )
    return costs


@torch.inference_mode()
def layer_timings(
    networks: Baseline, repeats: int, *, wait: Callable[[], object] = lambda: None
) -> list[Timing]:
    """Return the timing of every layer, in the order of `layer_costs`.

    Args:
        networks: Networks on the device and in the precision to measure.
        repeats: Number of timed passes, at least 1; one untimed pass comes first.
        wait: Function that waits for the device.
    """
    images = torch.zeros(_IMAGE).to(networks.mean.device, networks.mean.dtype)
    passes = [
        [t for network in networks[:3] for t in _one_pass(network, images, wait)]
        for _ in range(1 + repeats)
    ]
    return [Timing(times) for times in zip(*passes[1:], strict=True)]


def _one_pass(
    network: nn.Sequential, images: Tensor, wait: Callable[[], object]
) -> list[float]:
    times, grid = [], images
    for layer in network:
        wait()
        start = time.perf_counter()
        grid = layer(grid)
        wait()
        times.append(1000 * (time.perf_counter() - start))
    return times


def _described(layer: nn.Module) -> str:
    if isinstance(layer, nn.Conv2d):
        side, stride = layer.kernel_size[0], layer.stride[0]
        text = f"conv {side}x{side}, {layer.in_channels} to {layer.out_channels}"
        return text if stride == 1 else f"{text}, stride {stride}"
    if isinstance(layer, nn.Upsample):
        assert isinstance(layer.size, tuple)
        return f"bilinear to {layer.size[0]}x{layer.size[1]}"
    return {"ReLU": "ReLU", "AvgPool2d": "average of 2x2", "Dropout": "dropout"}[
        type(layer).__name__
    ]
