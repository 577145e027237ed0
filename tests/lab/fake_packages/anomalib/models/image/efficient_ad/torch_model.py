"""Computes what anomalib's module of this name does, with its names, and no more.

For tests of what hands weights and images to it. That it does compute the same is
tested where anomalib itself is installed.
"""

import enum
import itertools
import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as there

sys.stdout.write("said by a library")  # must not get between the answers
sys.stdout.flush()


class EfficientAdModelSize(enum.StrEnum):
    """Names of the sizes."""

    M = "medium"
    S = "small"


class _Network(nn.Module):
    """A patch description network, of convolutions `conv1` and so on."""

    def __init__(self, size: EfficientAdModelSize, n: int) -> None:
        super().__init__()
        layers = [(3, 128, 4), (128, 256, 4), (256, 256, 3), (256, n, 4)]
        if size == EfficientAdModelSize.M:
            layers = [(3, 256, 4), (256, 512, 4), (512, 512, 1), (512, 512, 3)]
            layers += [(512, n, 4), (n, n, 1)]
        self.n_layers = len(layers)
        for i, layer in enumerate(layers, 1):
            setattr(self, f"conv{i}", nn.Conv2d(*layer))

    def forward(self, images: Tensor) -> Tensor:
        x = _normalized(images)
        for i in range(1, self.n_layers + 1):
            x = getattr(self, f"conv{i}")(x)
            x = x if i == self.n_layers else F.relu(x)
            x = F.avg_pool2d(x, 2) if i < 3 else x
        return x


class _Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 32, 64, 64, 64)
        self.encoder = nn.ModuleDict(
            {
                f"enconv{i}": nn.Conv2d(*pair, 4, 2, 1)
                for i, pair in enumerate(itertools.pairwise(widths), 1)
            }
            | {"enconv6": nn.Conv2d(64, 64, 8)}
        )
        self.decoder = nn.ModuleDict(
            {f"deconv{i}": nn.Conv2d(64, 64, 4, 1, 2) for i in range(1, 7)}
            | {"deconv7": nn.Conv2d(64, 64, 3, 1, 1)}
            | {"deconv8": nn.Conv2d(64, 384, 3, 1, 1)}
        )

    def forward(self, images: Tensor) -> Tensor:
        x = _normalized(images)
        for name, layer in self.encoder.items():
            x = layer(x) if name == "enconv6" else F.relu(layer(x))
        sides = (3, 8, 15, 32, 63, 127, 56, 56)
        for side, (name, layer) in zip(sides, self.decoder.items(), strict=True):
            x = F.interpolate(x, size=(side, side), mode="bilinear")
            x = layer(x) if name == "deconv8" else F.relu(layer(x))
        return x


class _Found:
    def __init__(self, anomaly_map: Tensor) -> None:
        self.anomaly_map = anomaly_map


class EfficientAdModel(nn.Module):
    """All three networks, channel statistics and quantiles."""

    def __init__(self, model_size: EfficientAdModelSize) -> None:
        super().__init__()
        self.teacher = _Network(model_size, 384)
        self.student = _Network(model_size, 768)
        self.ae = _Autoencoder()
        channels = {name: torch.zeros(1, 384, 1, 1) for name in ("mean", "std")}
        self.mean_std = nn.ParameterDict(channels)
        names = ("qa_st", "qb_st", "qa_ae", "qb_ae")
        self.quantiles = nn.ParameterDict({name: torch.tensor(0.0) for name in names})

    def forward(self, images: Tensor) -> _Found:
        mean, std = self.mean_std["mean"], self.mean_std["std"]
        teacher = (self.teacher(images) - mean) / std
        student = self.student(images)
        differences = (teacher - student[:, :384], self.ae(images) - student[:, 384:])
        maps = []
        for kind, difference in zip(("st", "ae"), differences, strict=True):
            raw = F.pad(difference.square().mean(1, keepdim=True), (4, 4, 4, 4))
            enlarged = F.interpolate(raw, size=images.shape[-2:], mode="bilinear")
            low = self.quantiles[f"qa_{kind}"]
            maps.append(0.1 * (enlarged - low) / (self.quantiles[f"qb_{kind}"] - low))
        return _Found((maps[0] + maps[1]) / 2)


def _normalized(images: Tensor) -> Tensor:
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    return (images - mean) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
