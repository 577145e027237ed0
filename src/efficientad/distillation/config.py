"""Settings of distillation: typed, frozen, with the paper's values.

No torch here, so that the command line starts at once.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Final, Literal

from efficientad.engines.names import Device
from efficientad.errors import ConfigError
from efficientad.method.sizes import ModelSize
from efficientad.settings import BatchSize, Range, Seed, Share, Steps, check_fields
from efficientad.training.config import OptimizerName, RateSchedule

DistillPreset = Literal["paper", "quick"]
Reduction = Literal["mean", "random", "pca"]

# Multiples of the coarse stage's stride on twice the size, and more.
ImageSize = Annotated[int, Range(64, 2048, 16)]
Count = Annotated[int, Range(1, 1_000_000_000)]


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """Settings of a distillation. `None` means: as the preset says."""

    source: str
    """Source network: a weights file, or a name such as `mobilenet-v2`."""

    size: ModelSize = "small"
    """The patch description network to make."""

    preset: DistillPreset = "paper"
    """`paper`: 60 000 steps of 16 whole images, padded, Adam at a constant 1e-4.
    `quick`: windows of 8 images a step, batch normalization while distilling, Muon
    with warm-up and cosine; for hours on a CPU, with `feature_cache`."""

    steps: Steps | None = None
    """Optimizer steps, from 1 to ten million."""

    minutes: Annotated[float, Range(1e-3, 1_000_000)] | None = None
    """Time for the steps, in minutes, from 0.001 to a million. The learning rate
    follows the time; neither `steps` nor `snapshots` may be given then. None: all
    steps."""

    start_from: Path | None = None
    """Teacher file whose weights the network starts with. None: random weights."""

    batch_size: BatchSize | None = None
    """Images a step, from 1 to 1024."""

    learning_rate: Annotated[float, Range(1e-9, 100)] | None = None
    """Highest learning rate, from 1e-9 to 100."""

    rate_schedule: RateSchedule | None = None
    """`constant`, `drop` to a tenth for the last 5 %, or `cosine` with warm-up."""

    optimizer: OptimizerName | None = None
    """`adam` as in the paper, or `muon`."""

    stride_in_first_convolution: bool | None = None
    """Whether the bottlenecks of a ResNet stride in their first 1x1 convolution, as in
    Caffe's and Keras' weights, or in the 3x3, as in torchvision's. None: as the file's
    metadata say, otherwise as in torchvision's."""

    reduction: Reduction = "mean"
    """How source features become 384 channels: the paper's mean over neighboring
    channels, a random orthogonal projection, or whitened principal components."""

    n_images: Count | None = None
    """Images to use, at least 1, drawn by the seed. None: all."""

    n_held_out: Count = 100
    """Images never trained on, for the explained variance, at least 1."""

    image_size: ImageSize = 256
    """Side of the images in pixels as the teacher sees them, a multiple of 16 from 64
    to 2048. The source network sees them twice as large."""

    grayscale_share: Annotated[float, Range(0, 1)] = 0.1
    """Share of the images that both networks see in gray, in [0, 1]."""

    feature_cache: Path | None = None
    """Folder for source features (3 MiB an image). None: computed every time."""

    device: Device = "auto"
    """Device of the networks. `auto` takes CUDA where there is one."""

    mixed_precision: bool = False
    """Use bfloat16 for the convolutions. Only a gain where the hardware has it."""

    checkpoint_every: Steps = 200
    """Steps between checkpoints and measurements on held-out images, at least 1."""

    snapshots: tuple[Share, ...] = ()
    """Shares of the training, in (0, 1), after which the teacher so far is saved, for
    example as `teacher_at_30.safetensors` after 0.3."""

    seed: Seed = 0
    """Seed of every random draw, from 0 to 2**64 - 1."""

    resume: bool = False
    """Go on from the checkpoint beside the output file, if there is one."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.minutes is not None and (self.steps is not None or self.snapshots):
            raise ConfigError(
                f"minutes ({self.minutes:g}) exclude steps and snapshots, which count "
                "steps; leave out the one or the others"
            )
        if len(set(self.snapshots)) < len(self.snapshots):
            raise ConfigError(
                f"snapshots must be different shares, got {self.snapshots}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillRecipe:
    """The numbers of a distillation. The defaults are the paper's."""

    steps: int = 60_000
    batch_size: int = 16
    learning_rate: float = 1e-4
    rate_schedule: RateSchedule = "constant"
    optimizer: OptimizerName = "adam"
    weight_decay: float = 1e-5
    has_batch_norm: bool = False
    window_cells: int | None = None
    """Descriptors along the side of a random window. None: whole images, padded."""


DISTILL_RECIPES: Final[dict[DistillPreset, DistillRecipe]] = {
    "paper": DistillRecipe(),
    "quick": DistillRecipe(
        steps=2_500,
        batch_size=8,
        learning_rate=0.02,
        rate_schedule="cosine",
        optimizer="muon",
        has_batch_norm=True,
        window_cells=24,
    ),
}


def recipe_of(config: DistillConfig) -> DistillRecipe:
    """Return the preset's numbers, with what the config sets itself."""
    given = {
        field.name: value
        for field in fields(DistillRecipe)
        if (value := getattr(config, field.name, None)) is not None
    }
    return replace(DISTILL_RECIPES[config.preset], **given)
