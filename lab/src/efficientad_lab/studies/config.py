"""Settings of a reproduction or an ablation. No torch here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from efficientad.errors import ConfigError
from efficientad.training.config import Device, ModelSize, Preset, TrainConfig

PaperTable = Literal[3, 4, 5]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """What a study trains. `None` means: as the preset says."""

    sizes: tuple[ModelSize, ...] | None = None
    """The paper's EfficientAD-S and M. None: those that there is a teacher for."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the trainings, each at least 0 and given once; the paper takes five."""

    preset: Preset | None = None
    """As in training: `paper` or `quick`. None: by the device."""

    steps: int | None = None
    """Images each student is trained on, at least 1."""

    batch_size: int | None = None
    """Images a step, at least 1."""

    teacher: Path | None = None
    """File of the teacher, of one size. None: the shipped ones."""

    pretraining_images: Path | None = None
    """Folder or tar of natural images for the pretraining penalty. None: the embedded
    pictures and textures."""

    device: Device = "auto"
    """Where the networks run. `auto` takes CUDA where there is one."""

    keep_detectors: Literal["first_seed", "all"] = "first_seed"
    """Which detectors stay when their runs are recorded; figures need the first's."""

    work: Path | None = None
    """Folder of checkpoints, detectors and reports. None: `work` in the results."""

    def __post_init__(self) -> None:
        """Reject lists that name nothing, or something twice, and single settings."""
        for name in ("sizes", "seeds"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) < len(values)):
                raise ConfigError(
                    f"{name} must be at least one, each once, got {list(values)}"
                )
        for seed in self.seeds:
            self.training("small", seed)

    def training(
        self, size: ModelSize, seed: int, *, has_pretraining_penalty: bool = True
    ) -> TrainConfig:
        """Give the settings of one training.

        Raises:
            ConfigError: If one is outside its range.
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
