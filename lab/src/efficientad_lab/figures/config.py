"""Settings of the figures. Neither torch nor matplotlib here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from efficientad.errors import ConfigError
from efficientad.method.sizes import ModelSize
from efficientad.settings import Range, Seed, check_fields

FigureNumber = Literal[1, 3, 4, 5, 6, 7]


@dataclass(frozen=True, kw_only=True, slots=True)
class FigureConfig:
    """Settings of the figures."""

    output: Path | None = None
    """Folder for the figures. None: `figures` in the results."""

    figures: tuple[FigureNumber, ...] = (1, 3, 4, 5, 6, 7)
    """Numbers of the paper's figures: 1 accuracy against latency, 3 receptive fields, 4
    masks of the hard feature loss, 5 local and global maps, 6 latency by device, 7
    defects with mask and map."""

    size: ModelSize = "small"
    """Size of the detectors and the teacher."""

    work: Path | None = None
    """Folder of detectors and hard-loss masks. None: `work` in the results."""

    benchmarks: tuple[Path, ...] = ()
    """Files and folders of recorded benchmarks for figure 6, in addition to the
    results."""

    images: Path | None = None
    """Folder or tar of natural images for figure 3. None: textures drawn
    by code."""

    source: str | None = None
    """Source network for figure 3: a weights file, or a name such as `mobilenet-v2`.
    None: only the teacher is shown."""

    teacher: Path | None = None
    """Teacher for figure 3. None: the shipped one."""

    n_images: Annotated[int, Range(1, 1000)] = 3
    """Images of each scenario in figure 7, and images in figure 3, from 1 to 1000."""

    seed: Seed = 0
    """Seed of the random choice of images, at least 0."""

    def __post_init__(self) -> None:
        """Reject settings outside their documented range."""
        check_fields(self)
        if not self.figures:
            raise ConfigError("figures must be at least one, got none")
