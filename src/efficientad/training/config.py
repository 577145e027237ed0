"""Settings of training: typed, frozen, with the paper's values.

No torch here, so that the command line starts at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from efficientad.calibration.rule_options import ANYWHERE, RuleOptions
from efficientad.decisions.budget import DEFAULT_BUDGET, require_order
from efficientad.engines.names import AlignChoice, Device, TileChoice
from efficientad.images.levels import Levels, require_levels
from efficientad.method.sizes import DESCRIPTOR_CHANNELS, ModelSize
from efficientad.settings import (
    BatchSize,
    Budget,
    Range,
    Seed,
    Share,
    Steps,
    check_fields,
)

Preset = Literal["paper", "quick"]
RateSchedule = Literal["drop", "cosine", "constant"]
OptimizerName = Literal["adam", "muon"]
Channels = Annotated[int, Range(32, DESCRIPTOR_CHANNELS, 32)]
"""Channels that native layers can work on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Settings of a training. `None` means: as the preset says."""

    size: ModelSize = "small"
    """The paper's EfficientAD-S or EfficientAD-M."""

    preset: Preset | None = None
    """`paper`: Algorithm 1 to the letter. `quick`: minutes on a CPU. None: `paper`
    where an accelerator is used, `quick` otherwise."""

    steps: Steps | None = None
    """Optimizer steps, from 1 to ten million. None: as the preset says; `train` shows
    the number."""

    batch_size: BatchSize | None = None
    """Images a step, from 1 to 1024. None: as the preset says."""

    teacher: Path | None = None
    """File of the teacher. None: the shipped one of this size."""

    pretraining_images: Path | None = None
    """Folder or tar of natural images for the pretraining penalty. None: textures
    and scenes drawn by code."""

    has_pretraining_penalty: bool = True
    """Whether the student is penalized for imitating the teacher on natural images."""

    validation: Path | None = None
    """Folder of normal images for calibration. None: `validation/good` where it exists,
    otherwise a share of the training images."""

    validation_share: Share = 0.1
    """Share of the training images held out for calibration, in (0, 1)."""

    false_alarm_budget: Budget = DEFAULT_BUDGET
    """Share of normal images the decision threshold may flag, from 1e-6 to 0.5."""

    unsure_budget: Budget | None = None
    """Share of normal images that may be flagged or unsure. None: none is unsure."""

    rule: RuleOptions = ANYWHERE
    """Region of interest and least area of a defect."""

    tile: TileChoice = None
    """Side of the tiles in which the local map sees the image, in pixels. `never`: it
    sees the whole image at 256 x 256. `auto`: tiles for large images and for those far
    from square. None: `never`, but with preset `quick` tiles for images more than 2.1
    times as long as high, or the other way round."""

    scale: Annotated[float, Range(1, 16)] | None = None
    """With tiles: factor by which the shorter side of the image is larger than 256
    pixels, from 1 to 16. None: the size of the images, but at most 8."""

    align: AlignChoice | None = None
    """Whether each image is first turned and moved so that its part lies as in the
    others; an image without the part is then refused. None: with preset `quick`, if the
    training images agree far better so."""

    levels: Levels | None = None
    """Values of 16-bit images that become 0 and 255: 0 4095 for a camera of 12 bits.
    None: 0 and 65535."""

    local_channels: Channels | None = None
    """Channels that the local map of the trained detector sums over, a multiple of 32,
    at most 384: all, as in the paper. Few hold most of the sum. None: as the preset
    says."""

    global_channels: Channels | None = None
    """Channels that the global map sums over, a multiple of 32, at most 384. None: as
    the preset says."""

    device: Device = "auto"
    """Device of the networks. `auto` takes CUDA where there is one."""

    seed: Seed = 0
    """Seed of every random draw, from 0 to 2**64 - 1."""

    resume: bool = False
    """Go on from the checkpoint beside the output file, if there is one. A finished
    output of the same images and settings stays as it is."""

    def __post_init__(self) -> None:
        """Reject settings of another type or outside their range."""
        check_fields(self)
        require_order(self.false_alarm_budget, self.unsure_budget)
        require_levels(self.levels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """The numbers of one training: those of a preset, with what the user set."""

    preset: ClassVar[Preset] = "paper"

    steps: int
    """Optimizer steps."""
    batch_size: int
    """Training images a step."""
    learning_rate: float
    """Rate for student and autoencoder; the highest value where it changes."""
    rate_schedule: RateSchedule
    """`drop`: a tenth for the last 5 %. `cosine`: warm-up, then down to 0."""
    optimizer: OptimizerName
    """The paper's `adam`, or `muon`."""
    weight_decay: float
    """Weight decay of the optimizer, at least 0."""
    p_hard: float
    """Quantile of the squared distances from which on the hard feature loss averages
    them, in [0, 1)."""
    local_channels: int = DESCRIPTOR_CHANNELS
    """Channels that the local map of a trained detector sums over."""
    global_channels: int = DESCRIPTOR_CHANNELS
    """Channels that the global map of a trained detector sums over."""

    def __post_init__(self) -> None:
        """Reject numbers of another type."""
        check_fields(self)


# Algorithm 1; the preset `quick` is in `training.quick`.
PAPER: Final = Recipe(
    steps=70_000,
    batch_size=1,
    learning_rate=1e-4,
    rate_schedule="drop",
    optimizer="adam",
    weight_decay=1e-5,
    p_hard=0.999,
)
