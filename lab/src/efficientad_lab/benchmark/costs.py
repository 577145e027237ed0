"""Parameters and FLOPs of the plain networks, counted without computing anything."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from efficientad.images.rgb import INPUT_SIZE
from efficientad.method.sizes import DESCRIPTOR_CHANNELS, ModelSize
from efficientad_lab.benchmark.baseline import autoencoder, pdn

NetworkName = Literal["teacher", "student", "autoencoder"]


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One layer of one network, for one image."""

    network: NetworkName
    name: str
    """Operation, for example `conv 4x4, 3 to 128`."""
    output: tuple[int, int, int]
    """Channels, rows and columns of the output."""
    n_parameters: int
    flops: int
    """Operations as PyTorch counts them: two for each multiplication and addition of a
    convolution, none for other layers."""


@dataclass(frozen=True, slots=True)
class NetworkCost:
    """Teacher, student and autoencoder of a size together."""

    size: ModelSize
    layers: tuple[LayerCost, ...]

    @property
    def n_parameters(self) -> int:
        """Number of parameters."""
        return sum(layer.n_parameters for layer in self.layers)

    @property
    def flops(self) -> int:
        """Operations of one image."""
        return sum(layer.flops for layer in self.layers)


@torch.no_grad()
def network_cost(size: ModelSize) -> NetworkCost:
    """Count parameters and FLOPs of every layer, on PyTorch's device without memory."""
    with torch.device("meta"):
        networks = (
            pdn(size, DESCRIPTOR_CHANNELS),
            pdn(size, 2 * DESCRIPTOR_CHANNELS),
            autoencoder(),
        )
        images = torch.empty(1, 3, INPUT_SIZE, INPUT_SIZE)
    layers = []
    for name, network in zip(get_args(NetworkName), networks, strict=True):
        grid = images
        for layer in network.eval():
            with FlopCounterMode(display=False) as counter:
                grid = layer(grid)
            channels, rows, columns = grid.shape[1:]
            layers.append(
                LayerCost(
                    network=name,
                    name=_described(layer),
                    output=(channels, rows, columns),
                    n_parameters=sum(p.numel() for p in layer.parameters()),
                    flops=counter.get_total_flops(),
                )
            )
    return NetworkCost(size, tuple(layers))


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
