"""Levels of 16-bit images. No image library here, so that options are read fast."""

from typing import Annotated, Final, TypeAlias

from efficientad.errors import ConfigError
from efficientad.settings import Range

_HIGHEST: Final = (1 << 16) - 1
_Level: TypeAlias = Annotated[int, Range(0, _HIGHEST)]

Levels: TypeAlias = tuple[_Level, _Level]
"""Values of 16-bit images that become 0 and 255: (0, 4095) for a camera of 12 bits."""


def require_levels(levels: Levels | None) -> None:
    """Raise `ConfigError` if levels are no range of 16-bit values."""
    match levels:
        case None:
            return
        case int(low), int(high) if 0 <= low < high <= _HIGHEST:
            return
    raise ConfigError(
        "levels are two integers from 0 to 65535, the lower one first, got "
        f"{levels!r}; for a camera of 12 bits give 0 4095"
    )
