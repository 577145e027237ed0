"""Settings of a study. No torch here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from efficientad.engines.names import Device
from efficientad.errors import ConfigError
from efficientad.method.sizes import ModelSize
from efficientad.settings import BatchSize, Seed, Steps, check_fields
from efficientad.training.config import Preset, TrainConfig

PaperTable = Literal[3, 4, 5]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """Settings of a study. `None` means: as the preset says."""

    sizes: tuple[ModelSize, ...] | None = None
    """The paper's EfficientAD-S and M. None: every size with a teacher."""

    seeds: tuple[Seed, ...] = (0, 1, 2, 3, 4)
    """Seeds of the trainings, at least 0, without repetition; the paper has five."""

    preset: Preset | None = None
    """As in training: `paper` or `quick`. None: by the device."""

    steps: Steps | None = None
    """Optimizer steps of each training, from 1 to ten million."""

    batch_size: BatchSize | None = None
    """Images a step, from 1 to 1024."""

    teacher: Path | None = None
    """File of the teacher, of one size. None: the shipped ones."""

    pretraining_images: Path | None = None
    """Folder or tar of natural images for the pretraining penalty. None: textures
    and scenes drawn by code."""

    device: Device = "auto"
    """Device of the networks. `auto` takes CUDA where there is one."""

    keep_detectors: Literal["first_seed", "all"] = "first_seed"
    """Detectors to keep when their runs are recorded; figures need the first seed's."""

    work: Path | None = None
    """Folder of checkpoints, detectors and reports. None: `work` in the results."""

    def __post_init__(self) -> None:
        """Reject empty lists, repeated values, and values outside their range."""
        check_fields(self)
        for name in ("sizes", "seeds"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) < len(values)):
                raise ConfigError(
                    f"{name} must be at least one, each once, got {list(values)}"
                )

    def training(
        self, size: ModelSize, seed: int, *, has_pretraining_penalty: bool = True
    ) -> TrainConfig:
        """Return the settings of one training.

        Raises:
            ConfigError: If a setting is outside its range.
        """
        return TrainConfig(
            size=size,
            preset=self.preset,
            steps=self.steps,
            batch_size=self.batch_size,
            teacher=self.teacher,
            pretraining_images=self.pretraining_images,
            has_pretraining_penalty=has_pretraining_penalty,
            device=self.device,
            seed=seed,
        )
