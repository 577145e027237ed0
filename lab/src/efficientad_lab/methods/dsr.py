"""DSR: dual subspace re-projection (Zavrtanik et al., ECCV 2022).

A vector-quantized autoencoder learns the appearance of natural images. Then an object
part learns the product: one network for each level turns vectors, some of them replaced
by wrong entries of the codebook, back into normal ones, and a decoder of its own makes
an image of these. A detector compares this image with the one that the first
autoencoder makes of the same vectors, and learns where they were wrong. Last, a second
detector learns sharper masks on images with smudges.

    image ──> vectors ──┬──> general decoder ────────────────────────┐
                        └──> back to normal ──> product's decoder ───┴──> detector

    loss   focal loss of the detector + |vectors turned back - normal vectors|^2
           + 10 (image of the product's decoder - image)^2
    map    probability of a defect by the second detector
    score  the largest mean over 21 x 21 pixels of the first detector's probability

The authors' autoencoder has learned from ImageNet. Here one is trained on the natural
images that the user gives, and the widths of the detectors are a setting.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from efficientad.method.sizes import IMAGENET_MEAN, IMAGENET_STD
from efficientad.settings import Range
from efficientad_lab.methods.fake_defects import (
    Masks,
    masks,
    smudged,
    with_wrong_entries,
)
from efficientad_lab.methods.method import (
    Draw,
    Inputs,
    Maps,
    Method,
    MethodSettings,
    NormalPixels,
    Output,
    Phase,
    maximum,
    on_grid,
)
from efficientad_lab.methods.natural import natural_pixels
from efficientad_lab.methods.stages import Grid, Stages
from efficientad_lab.methods.unet import UNet
from efficientad_lab.methods.vector_quantization import (
    N_CHANNELS,
    N_ENTRIES,
    Levels,
    QuantizedAutoencoder,
    decoder,
)

_SCORE_WINDOW: Final = 21
_FOCUS: Final = 2.0
_IMAGE_WEIGHT: Final = 10.0
_RATE: Final = 2e-4
# Steps and images of each step that the authors prescribe, the share of the time, and
# the share of the steps after which the rate is a tenth.
_PRESCRIBED: Final = {
    "autoencoder": (200_000, 32, 0.4, 1.0),
    "object part": (100_000, 8, 0.5, 0.8),
    "second detector": (20_000, 8, 0.1, 1.0),
}


@dataclass(frozen=True, kw_only=True)
class DualSubspaceSettings(MethodSettings):
    """Settings of DSR; the defaults are those of its authors."""

    base: Annotated[int, Range(1, 256)] = 64
    """Channels of both detectors at full size."""
    n_entries: Annotated[int, Range(32, 65_536)] = N_ENTRIES
    """Entries of each codebook."""
    step_share: Annotated[float, Range(1e-6, 1)] = 1.0
    """Share of the prescribed steps."""
    natural_images: str | None = None
    """Folder or tar that the autoencoder learns from."""
    n_natural: Annotated[int, Range(1, 100_000)] = 2000


class _BackToNormal(nn.Module):
    """An encoder and decoder without shortcuts, for the vectors of one level."""

    def __init__(self) -> None:
        super().__init__()
        widths = [N_CHANNELS * 2**level for level in range(3)]
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers.append(nn.Conv2d(n_in, n_out, 4, stride=2, padding=1))
            layers += [nn.InstanceNorm2d(n_out), nn.ReLU()]
        for n_in, n_out in pairwise(widths[::-1]):
            layers.append(nn.ConvTranspose2d(n_in, n_out, 4, stride=2, padding=1))
            layers += [nn.InstanceNorm2d(n_out), nn.ReLU()]
        layers.append(nn.Conv2d(N_CHANNELS, N_CHANNELS, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, vectors: Grid) -> Grid:
        """Return vectors like those of normal images."""
        found: Tensor = self.layers(vectors)
        return found


class DualSubspace(Method):
    """Finds what the general and the product's own autoencoder show differently."""

    Settings = DualSubspaceSettings
    n_backbones = 0

    def __init__(
        self, stages: Sequence[Stages], settings: DualSubspaceSettings
    ) -> None:
        super().__init__(stages, settings)
        self.general = QuantizedAutoencoder(settings.n_entries)
        self.low_to_normal, self.high_to_normal = _BackToNormal(), _BackToNormal()
        self.own_decoder = decoder()
        widths = [factor * settings.base for factor in (1, 2, 4, 4)]
        self.detector = UNet(6, 2, widths, is_bilinear=True)
        self.second = UNet(8, 2, widths, is_bilinear=True)

    def title(self) -> str:
        """Return the name in tables, with what was replaced."""
        return f"DSR, own autoencoder, base {self.settings.base}"

    def phases(self, pixels: NormalPixels) -> Iterator[Phase]:
        """Yield the trainings of the autoencoder, the object part, the second detector.

        Raises:
            ConfigError: If there are no natural images.
        """
        own = self.settings
        natural = natural_pixels(own.natural_images, own.n_natural, "dsr")
        object_part = (
            self.low_to_normal,
            self.high_to_normal,
            self.own_decoder,
            self.detector,
        )
        plan = (
            ("autoencoder", (self.general,), natural, self._general_loss),
            ("object part", object_part, pixels, self._object_loss),
            ("second detector", (self.second,), pixels, self._second_loss),
        )
        for name, modules, inputs, loss in plan:
            n_steps, batch_size, share, late = _PRESCRIBED[name]
            trained = [p for module in modules for p in module.parameters()]
            yield Phase(
                name=name,
                optimizer=torch.optim.Adam(trained, lr=_RATE),
                inputs=inputs,
                loss=loss,
                n_epochs=own.step_share * n_steps * batch_size / len(inputs),
                batch_size=batch_size,
                share=share,
                late=late,
            )
            for module in modules:
                module.requires_grad_(requires_grad=False)

    def output(self, images: Inputs) -> Output:
        """Return the second detector's map; the score is by the first one."""
        shown, own = self._shown(self.general(_colors(images)))
        low = self.detector(torch.cat([shown, own], 1)).softmax(1)
        fine: Maps = self._by_second(shown, own, low)[:, 1]
        windows = functional.avg_pool2d(
            low[:, 1:], _SCORE_WINDOW, stride=1, padding=_SCORE_WINDOW // 2
        )
        grid = on_grid(functional.avg_pool2d(fine, 2))
        return Output({"anomaly": grid}, {"score": maximum(windows[:, 0])})

    def _shown(self, levels: Levels) -> tuple[Grid, Grid]:
        """Return the general image of vectors, and that of the product's decoder."""
        return self.general.decoded(levels), self._own(self._to_normal(levels))

    def _own(self, normal: Levels) -> Grid:
        """Return the image that the product's decoder makes of normal vectors."""
        quantized = Levels(
            self.general.low.quantized(normal.low),
            self.general.high.quantized(normal.high),
        )
        own: Tensor = self.own_decoder(self.general.joined(quantized))
        return own

    def _to_normal(self, levels: Levels) -> Levels:
        return Levels(self.low_to_normal(levels.low), self.high_to_normal(levels.high))

    def _by_second(self, shown: Grid, own: Grid, low: Grid) -> Grid:
        """Return the second detector's probabilities."""
        found: Tensor = self.second(torch.cat([shown, own, low], 1))
        return found.softmax(1)

    def _general_loss(self, batch: NormalPixels, draw: Draw) -> Tensor:  # noqa: ARG002 - nothing is drawn
        return self.general.loss(_colors(self.inputs(batch)))

    def _object_loss(self, batch: NormalPixels, draw: Draw) -> Tensor:
        generator = draw.generator
        images = _turned(_colors(self.inputs(batch)), generator)
        mask = masks(len(images), images.shape[-1], generator)
        with torch.no_grad():
            right = self.general(images)
            # Wrong are the low level, the high one or both.
            kinds = torch.randint(3, (len(images), 1, 1, 1), generator=generator)
            wrong = Levels(
                with_wrong_entries(
                    right.low, self.general.low.entries, mask * (kinds != 1), generator
                ),
                with_wrong_entries(
                    right.high,
                    self.general.high.entries,
                    mask * (kinds != 0),
                    generator,
                ),
            )
        normal = self._to_normal(wrong)
        own = self._own(normal)
        seen = torch.cat([self.general.decoded(wrong), own], 1).detach()
        found = self.detector(seen).softmax(1)
        return (
            focal_loss(found, mask)
            + functional.mse_loss(normal.low, right.low)
            + functional.mse_loss(normal.high, right.high)
            + _IMAGE_WEIGHT * functional.mse_loss(own, images)
        )

    def _second_loss(self, batch: NormalPixels, draw: Draw) -> Tensor:
        images = _colors(self.inputs(batch))
        mask = masks(len(images), images.shape[-1], draw.generator)
        self.detector.eval()  # only the second one learns
        with torch.no_grad():
            shown, own = self._shown(
                self.general(smudged(images, mask, draw.generator))
            )
            low = self.detector(torch.cat([shown, own], 1)).softmax(1)
        return focal_loss(self._by_second(shown, own, low), mask)


def focal_loss(probabilities: Grid, mask: Masks) -> Tensor:
    """Return the mean of -(1 - p)^2 log p, with p of the right one of two classes.

    Args:
        probabilities: Those of no defect and of a defect, (batch, 2, rows, columns).
        mask: 1 where a defect is.
    """
    right = torch.where(mask > 0, probabilities[:, 1:], probabilities[:, :1])
    right = right.clamp(min=1e-6)
    return (-((1 - right) ** _FOCUS) * right.log()).mean()


def _colors(images: Inputs) -> Grid:
    """Return ImageNet-normalized images with values from 0 to 1."""
    shape = (1, 3, 1, 1)
    std, mean = torch.tensor(IMAGENET_STD), torch.tensor(IMAGENET_MEAN)
    return images * std.view(shape) + mean.view(shape)


def _turned(images: Grid, generator: torch.Generator) -> Grid:
    """Return images turned by random quarters."""
    quarters = torch.randint(4, (len(images),), generator=generator).tolist()
    turned = [image.rot90(k, (1, 2)) for image, k in zip(images, quarters, strict=True)]
    return torch.stack(turned)
