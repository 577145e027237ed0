"""Settings of training and distillation: typed, frozen, with the paper's values.

No torch here, so that the command line starts at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from efficientad.errors import ConfigError

ModelSize = Literal["small", "medium"]
Preset = Literal["paper", "quick"]
Device = Literal["auto", "cpu", "cuda"]
Runtime = Literal[
    "auto",
    "native",
    "native_bf16",
    "pytorch",
    "onnxruntime",
    "openvino",
    "tensorrt",
]
"""The first four run `.ead` files, the last three exported ones; `auto` both."""
Reduction = Literal["mean", "random", "pca"]
RateSchedule = Literal["drop", "cosine", "constant"]
OptimizerName = Literal["adam", "adamw", "muon"]
ALL_CHANNELS: Final = 384
"""Of a descriptor while the networks are trained."""
_CHANNELS: Final = range(32, ALL_CHANNELS + 1, 32)  # what native layers work on

StudentStart = Literal["random", "teacher_hidden", "teacher"]
"""All at random; the teacher's hidden layers; also its last one for the first half."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How a detector is trained. `None` means: as the preset says."""

    size: ModelSize = "small"
    """The paper's EfficientAD-S or EfficientAD-M."""

    preset: Preset | None = None
    """`paper`: Algorithm 1 to the letter. `quick`: minutes on a CPU. None: `paper`
    where an accelerator is used, `quick` otherwise."""

    steps: int | None = None
    """Images (not batches) the student is trained on, at least 1."""

    batch_size: int | None = None
    """Images a step, at least 1. The schedule counts images, so it means the same."""

    teacher: Path | None = None
    """File of the teacher. None: the shipped one of this size."""

    pretraining_images: Path | None = None
    """Folder or tar of natural images for the pretraining penalty. None: the embedded
    pictures and textures."""

    has_pretraining_penalty: bool = True
    """Whether the student is kept from imitating the teacher on natural images."""

    validation: Path | None = None
    """Folder of normal images for calibration. None: `validation/good` where it exists,
    otherwise a share of the training images."""

    validation_share: float = 0.1
    """Share of the training images held out for calibration, in (0, 1)."""

    false_alarm_budget: float = 0.01
    """Share of normal images the decision threshold may flag, in (0, 1)."""

    local_channels: int | None = None
    """Channels that the local map of the trained detector sums over, a multiple of 32,
    at most 384: all, as in the paper. Few hold most of the sum."""

    global_channels: int | None = None
    """Likewise of the global map."""

    device: Device = "auto"
    """Where the networks run. `auto` takes CUDA where there is one."""

    seed: int = 0
    """Seed of every random draw, at least 0."""

    resume: bool = False
    """Go on from the checkpoint beside the output file, if there is one. Is the output
    finished, of the same images and settings, it stays."""

    def __post_init__(self) -> None:
        """Reject settings outside their documented range."""
        for name in ("steps", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        for name in ("local_channels", "global_channels"):
            value = getattr(self, name)
            if value is not None and value not in _CHANNELS:
                raise ConfigError(
                    f"{name} must be a multiple of {_CHANNELS.step}, from "
                    f"{_CHANNELS.start} to {ALL_CHANNELS}, got {value}"
                )
        for name in ("validation_share", "false_alarm_budget"):
            _require_share(name, getattr(self, name))
        _require_seed(self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What a preset stands for: the numbers of one training."""

    steps: int
    """Images the student is trained on."""
    batch_size: int
    """Images a step."""
    learning_rate: float
    """Of student and autoencoder; the highest value where it changes."""
    rate_schedule: RateSchedule
    """`drop`: a tenth for the last 5 %. `cosine`: warm-up, then down to 0."""
    optimizer: OptimizerName
    """The paper's `adam`, or `muon`."""
    weight_decay: float
    """Of the optimizer."""
    hard_share: float
    """Share of the squared distances that the hard feature loss averages, in (0, 1]."""
    local_channels: int = ALL_CHANNELS
    """Channels that the local map of a trained detector sums over."""
    global_channels: int = ALL_CHANNELS
    """Likewise of the global map."""
    quick: "QuickRecipe | None" = None
    """What the quick step changes. None: Algorithm 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuickRecipe:
    """What makes a step cheap and its effect large; see docs/method.md."""

    window_cells: int
    """Descriptors along the side of the window the student sees of an image; a divisor
    of the grid's 56, so that all windows together cover each descriptor once."""
    student_start: StudentStart
    """What the student begins with."""
    n_penalty_images: int
    """Windows of natural images a step."""
    penalty_weight: float
    """Weight of the pretraining penalty; the paper's is 1."""
    n_whole_images: int
    """Whole images a step for the autoencoder."""
    mean_share: float
    """Weight of the mean over all squared distances beside the hard feature loss."""
    divides_by_level: bool
    """Whether a raw map is divided by the image's own level before normalization."""


PAPER: Final = Recipe(
    steps=70_000,
    batch_size=1,
    learning_rate=1e-4,
    rate_schedule="drop",
    optimizer="adam",
    weight_decay=1e-5,
    hard_share=0.001,
)
QUICK: Final = Recipe(
    steps=1_200,
    batch_size=2,
    learning_rate=0.02,
    rate_schedule="cosine",
    optimizer="muon",
    weight_decay=1e-5,
    hard_share=0.01,
    local_channels=128,
    global_channels=64,
    quick=QuickRecipe(
        window_cells=28,
        student_start="teacher_hidden",
        n_penalty_images=1,
        penalty_weight=0.3,
        n_whole_images=1,
        mean_share=1.0,
        divides_by_level=True,
    ),
)
RECIPES: Final[dict[Preset, Recipe]] = {"paper": PAPER, "quick": QUICK}

DistillPreset = Literal["paper", "quick"]

_IMAGE_SIZE_STEP: Final = 16  # the coarse stage's stride on twice the size, and more
_MIN_IMAGE_SIZE: Final = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """How a teacher is distilled. `None` means: as the preset says."""

    source: str
    """Source network: a weights file, or a name such as `mobilenet-v2`."""

    size: ModelSize = "small"
    """The patch description network to make."""

    preset: DistillPreset = "paper"
    """`paper`: 60 000 steps of 16 whole images, padded, Adam at a constant 1e-4.
    `quick`: windows of 8 images a step, batch normalization while distilling, Muon
    with warm-up and cosine; for hours on a CPU, with `feature_cache`."""

    steps: int | None = None
    """Optimizer steps, at least 1."""

    batch_size: int | None = None
    """Images a step, at least 1."""

    learning_rate: float | None = None
    """Highest learning rate, above 0."""

    rate_schedule: RateSchedule | None = None
    """`constant`, `drop` to a tenth for the last 5 %, or `cosine` with warm-up."""

    optimizer: OptimizerName | None = None
    """`adam` as in the paper, `adamw`, or `muon`."""

    stride_in_first_convolution: bool | None = None
    """Of a ResNet: whether its bottlenecks stride in their first 1x1 convolution, as in
    Caffe's and Keras' weights, or in the 3x3, as in torchvision's. None: as the file's
    metadata say, otherwise as in torchvision's."""

    reduction: Reduction = "mean"
    """How source features become 384 channels: the paper's mean over neighbouring
    channels, a random orthogonal projection, or whitened principal components."""

    n_images: int | None = None
    """Images to use, drawn by the seed. None: all."""

    n_held_out: int = 100
    """Images never trained on, for the explained variance, at least 1."""

    image_size: int = 256
    """Side of the images in pixels as the teacher sees them, a multiple of 16, at least
    64. The source network sees them twice as large."""

    grayscale_share: float = 0.1
    """Share of the images that both networks see in gray, in [0, 1]."""

    feature_cache: Path | None = None
    """Folder that keeps source features (3 MiB an image). None: computed every time."""

    device: Device = "auto"
    """Where the networks run. `auto` takes CUDA where there is one."""

    mixed_precision: bool = False
    """Use bfloat16 for the convolutions. Only a gain where the hardware has it."""

    checkpoint_every: int = 200
    """Steps between checkpoints and measurements on held-out images, at least 1."""

    snapshots: tuple[float, ...] = ()
    """Shares of the training, in (0, 1), after which the teacher so far is kept as a
    file of its own, for example `teacher_at_30.safetensors` after 0.3."""

    seed: int = 0
    """Seed of every random draw, at least 0."""

    resume: bool = False
    """Go on from the checkpoint beside the output file, if there is one."""

    def __post_init__(self) -> None:
        """Reject settings outside their documented range."""
        for name in ("steps", "batch_size", "n_images", "n_held_out"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if self.checkpoint_every < 1:
            raise ConfigError(
                f"checkpoint_every must be at least 1, got {self.checkpoint_every}"
            )
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ConfigError(f"learning_rate must be > 0, got {self.learning_rate}")
        if self.image_size < _MIN_IMAGE_SIZE or self.image_size % _IMAGE_SIZE_STEP:
            raise ConfigError(
                f"image_size must be a multiple of {_IMAGE_SIZE_STEP}, at least "
                f"{_MIN_IMAGE_SIZE}, got {self.image_size}"
            )
        for share in self.snapshots:
            _require_share("snapshots", share)
        if len(set(self.snapshots)) < len(self.snapshots):
            raise ConfigError(
                f"snapshots must be different shares, got {self.snapshots}"
            )
        if not 0 <= self.grayscale_share <= 1:
            raise ConfigError(
                f"grayscale_share must be in [0, 1], got {self.grayscale_share}"
            )
        _require_seed(self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillRecipe:
    """What a distillation preset stands for."""

    steps: int
    batch_size: int
    learning_rate: float
    rate_schedule: RateSchedule
    optimizer: OptimizerName
    weight_decay: float
    has_batch_norm: bool
    window_cells: int | None
    """Descriptors along the side of a random window. None: whole images, padded."""


DISTILL_RECIPES: Final[dict[DistillPreset, DistillRecipe]] = {
    "paper": DistillRecipe(
        steps=60_000,
        batch_size=16,
        learning_rate=1e-4,
        rate_schedule="constant",
        optimizer="adam",
        weight_decay=1e-5,
        has_batch_norm=False,
        window_cells=None,
    ),
    "quick": DistillRecipe(
        steps=2_500,
        batch_size=8,
        learning_rate=0.02,
        rate_schedule="cosine",
        optimizer="muon",
        weight_decay=1e-5,
        has_batch_norm=True,
        window_cells=24,
    ),
}


def _require_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ConfigError(f"{name} must be in (0, 1), got {value}")


def _require_seed(seed: int) -> None:
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}")
