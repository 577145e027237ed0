"""Region of interest and least area of a defect, as a user gives them.

`rule_files` reads it. No torch and no NumPy here, so that the command line starts at
once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from efficientad.settings import Range, check_fields


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleOptions:
    """Region of interest and least area of a defect."""

    region: Path | None = None
    """Region of interest: a picture of the images' aspect, white where defects count,
    or polygons in JSON. None: the whole image."""

    ignore: Path | None = None
    """Parts of the image where no defect counts, in the same forms."""

    min_area: Annotated[float, Range(0, 1e12)] | None = None
    """Least area of a defect in pixels of the images, or in square millimetres where
    `pixel_size` is given. None: any area."""

    pixel_size: Annotated[float, Range(1e-6, 1e6)] | None = None
    """Side of an image's pixel in millimetres. None: unknown."""

    def __post_init__(self) -> None:
        """Reject settings of another type or outside their range."""
        check_fields(self)

    @property
    def is_plain(self) -> bool:
        """Whether nothing is asked for."""
        return self == ANYWHERE


ANYWHERE: Final = RuleOptions()
"""A defect of any size counts anywhere."""
