"""The interface of all methods: fit on normal images, then raw grids and scores.

A `Method` says how it prepares itself, which trainings it has and what it computes for
an image. Everything else is the same for all: `fitting` runs the trainings, and the
product's calibration, `Predictor`, evaluation and report do the rest.

Images are the product's 256 x 256 pixels, resized to the input size of the method. All
maps come on one grid that covers the image evenly.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from efficientad.calibration.fit import Fit
from efficientad.engines.engine import EngineOutput, Pixels, Precision
from efficientad.images.rgb import INPUT_SIZE
from efficientad.method.inputs import normalize_images
from efficientad.method.maps import fit_quantiles
from efficientad.method.placement import FIRST_CENTER
from efficientad.method.sizes import PATCH_STRIDE
from efficientad.settings import Range, Seed, check_fields
from efficientad.training.channel_statistics import ChannelMoments
from efficientad_lab.methods.stages import Stages

NormalPixels = UInt8[Tensor, "batch 256 256 3"]
"""Normal training images, RGB."""
Inputs = Float[Tensor, "batch 3 _ _"]
"""Images of the method's input size, ImageNet-normalized."""
Maps = Float[Tensor, "batch _ _"]
"""(batch, rows, columns)."""
Scores = Float[Tensor, " batch"]
InputSize = Annotated[int, Range(32, 1024, 32)]
"""Height and width of a method's input, pixels."""
Stride = Annotated[int, Range(4, 32, 4)]
"""Stride of a stage of a backbone."""

MAP_SIZE: Final = 512
"""Side of the input that a grid of the product with as many cells would belong to."""
GRID_SIZE: Final = (MAP_SIZE - 2 * FIRST_CENTER) // PATCH_STRIDE
"""Rows and columns of all grids, which have a value for 2 x 2 of the 256 x 256 pixels.
The product draws such a grid on the image, without a border of 3 %."""
SMOOTHING: Final = 4.0
"""Standard deviation of the Gaussian that smooths maps, pixels of the input."""
BACKBONES: Final = "backbones."
"""Part of the names of frozen tensors."""
_BATCH: Final = 8


class Output(NamedTuple):
    """Output of a method for a batch."""

    maps: Mapping[str, Maps]
    """Raw maps by name, all of `GRID_SIZE`."""
    scores: Mapping[str, Scores]
    """Image scores by name. Empty: the score is the maximum of the combined map."""


class Draw(NamedTuple):
    """Random numbers of a step, and its place in the training."""

    generator: torch.Generator
    progress: float
    """Share of the training that is done, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One training of a method, with its prescribed length."""

    name: str
    optimizer: Adam
    inputs: Tensor
    """Inputs of the images; the first axis is that of images."""
    loss: Callable[[Tensor, Draw], Tensor]
    """Function from a batch of inputs to its loss."""
    n_epochs: float
    """Number of passes over the images that the authors prescribe."""
    batch_size: int
    share: float = 1.0
    """Share of the time, if that is limited."""
    late: float = 1.0
    """Share of the training after which the learning rate is a tenth."""


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """Settings that every method has."""

    strides: Sequence[Stride] = ()
    """Strides of the stages of a backbone, ascending."""
    input_size: InputSize = INPUT_SIZE
    """Height and width of the input, pixels."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Reject values outside of their ranges."""
        check_fields(self)


class Method(nn.Module, ABC):
    """A system that learns from normal images.

    Args:
        stages: Backbones, frozen, as many as `n_backbones`.
        settings: Settings of the method.
    """

    Settings: ClassVar[type[MethodSettings]]
    n_backbones: ClassVar[int] = 1
    fit_scale: Fit = staticmethod(fit_quantiles)
    """Function that fits the scale of a raw map to held-out normal images."""

    def __init__(self, stages: Sequence[Stages], settings: Any) -> None:
        super().__init__()
        self.backbones = nn.ModuleList(stages)
        self.settings = settings

    @property
    def stages(self) -> Stages:
        """The first backbone."""
        stages = self.backbones[0]
        assert isinstance(stages, Stages)
        return stages

    @abstractmethod
    def title(self) -> str:
        """Return the name in tables, with what was replaced."""

    def prepare(self, pixels: NormalPixels) -> None:
        """Compute what needs no training, such as statistics or a memory bank."""

    def phases(self, pixels: NormalPixels) -> Iterator[Phase]:  # noqa: ARG002 - some train nothing
        """Yield the trainings; each begins when the one before has ended."""
        return iter(())

    @abstractmethod
    def output(self, images: Inputs) -> Output:
        """Return raw maps and image scores of a batch."""

    def fitted_state(self) -> dict[str, Tensor]:
        """Return all tensors but those of the frozen backbones."""
        state: dict[str, Tensor] = self.state_dict()
        return {k: v for k, v in state.items() if BACKBONES not in k}

    def inputs(self, pixels: NormalPixels) -> Inputs:
        """Return pixels as the method sees them."""
        return resized(normalize_images(pixels), self.settings.input_size)

    @torch.inference_mode()
    def cached(
        self, pixels: NormalPixels, compute: Callable[[Inputs], Tensor]
    ) -> Tensor:
        """Return what a frozen function computes of all images, in half precision."""
        found = None
        for start in range(0, len(pixels), _BATCH):
            part = compute(self.inputs(pixels[start : start + _BATCH])).half()
            if found is None:
                found = torch.empty((len(pixels), *part.shape[1:]), dtype=part.dtype)
            found[start : start + len(part)] = part
        assert found is not None
        return found

    @torch.no_grad()
    def channel_statistics(
        self, pixels: NormalPixels, compute: Callable[[Inputs], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of each channel over all images, (1, n, 1, 1)."""
        moments = ChannelMoments()
        for image in torch.split(pixels, 1):
            moments.add(compute(self.inputs(image)).transpose(0, 1).flatten(1).T)
        mean, deviation = (each[:, None, None] for each in moments.mean_and_std())
        return mean[None], deviation[None].clamp(min=1e-6)


class MethodEngine:
    """Runs a fitted method by PyTorch on the CPU.

    Args:
        method: Method, put into evaluation mode.
    """

    is_concurrent = False
    precision: Precision = "fp32"
    device: Literal["cpu"] = "cpu"

    def __init__(self, method: Method) -> None:
        self.method = method.eval()

    @torch.inference_mode()
    def run(self, pixels: Pixels) -> EngineOutput:
        """Compute raw maps and scores of a batch, (n, 256, 256, 3)."""
        output = self.method.output(self.method.inputs(torch.from_numpy(pixels)))
        return EngineOutput(
            {name: maps.numpy() for name, maps in output.maps.items()},
            {name: score[:, None].numpy() for name, score in output.scores.items()},
        )


def resized(
    images: Float[Tensor, "batch channels _ _"], size: int
) -> Float[Tensor, "batch channels _ _"]:
    """Return images of another size, averaged to shrink them."""
    if images.shape[-1] == size:
        return images
    return functional.interpolate(images, (size, size), mode="bilinear", antialias=True)


def enlarged(maps: Maps, size: int) -> Maps:
    """Return maps interpolated linearly to (batch, size, size)."""
    found = functional.interpolate(maps[:, None], (size, size), mode="bilinear")
    return found[:, 0]


def on_grid(maps: Maps) -> Maps:
    """Return maps that cover the image evenly as grids of the product.

    Maps are interpolated linearly at the places where the product draws the values of
    a grid of `GRID_SIZE`.
    """
    centers = torch.arange(GRID_SIZE) * PATCH_STRIDE + FIRST_CENTER + 0.5
    places = 2 * centers / MAP_SIZE - 1  # -1 and 1 are the borders of the image
    rows, columns = torch.meshgrid(places, places, indexing="ij")
    points = torch.stack([columns, rows], dim=-1).expand(len(maps), -1, -1, -1)
    found = functional.grid_sample(
        maps[:, None], points, padding_mode="border", align_corners=False
    )
    return found[:, 0].contiguous()


def smoothed(maps: Maps, deviation: float = SMOOTHING) -> Maps:
    """Return maps after a Gaussian of some pixels, reflected at the border."""
    radius = round(4 * deviation)
    steps = torch.arange(-radius, radius + 1, dtype=maps.dtype)
    weights = torch.exp(-(steps**2) / (2 * deviation**2))
    weights = weights / weights.sum()
    padded = functional.pad(maps[:, None], (radius,) * 4, mode="reflect")
    rows = functional.conv2d(padded, weights.view(1, 1, -1, 1))
    return functional.conv2d(rows, weights.view(1, 1, 1, -1))[:, 0]


def maximum(maps: Maps) -> Scores:
    """Return the maximum of each map."""
    return maps.amax((-2, -1))
