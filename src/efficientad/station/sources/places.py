"""Places for images that the station fetches itself: it waits until it has one."""

from threading import Event
from typing import Final

from efficientad.station.errors import OverloadedError, UnavailableError
from efficientad.station.prediction.pipeline import Station

_BUSY_SECONDS: Final = 0.02
_DOWN_SECONDS: Final = 0.5


def wait_for_place(station: Station, source: str, is_closing: Event) -> bool:
    """Wait for a place for an image, and return whether there is one before the end."""
    while not is_closing.is_set():
        try:
            station.enter(source)
        except OverloadedError:
            is_closing.wait(_BUSY_SECONDS)
        except UnavailableError:
            is_closing.wait(_DOWN_SECONDS)
        else:
            return True
    return False
