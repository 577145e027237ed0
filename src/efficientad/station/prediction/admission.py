"""Places: how many images may be under way, so that each is answered in time."""

import math
import threading
import time

from efficientad.station.errors import OverloadedError


class Admission:
    """Places that images take before their body is read."""

    def __init__(self, max_places: int, budget: float) -> None:
        self._max_places = max_places
        self._budget = budget
        self._lock = threading.Lock()
        self.n_taken = 0
        """Images under way."""

    def take(self, service_seconds: float) -> None:
        """Count an image that takes some seconds, or raise `OverloadedError`."""
        n_places = max(1, min(self._max_places, int(self._budget / service_seconds)))
        with self._lock:
            if self.n_taken >= n_places:
                wait = max(1, math.ceil(self.n_taken * service_seconds))
                raise OverloadedError(
                    f"all {n_places} places are taken; come again after {wait} s", wait
                )
            self.n_taken += 1

    def release(self) -> None:
        """Release a place."""
        with self._lock:
            self.n_taken -= 1


class Rate:
    """A token bucket for each client: one second's worth may come at once."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, client: str) -> None:
        """Count a request, or raise `OverloadedError` for a client over its rate."""
        now, size = time.monotonic(), max(1.0, self._per_second)
        with self._lock:
            level, since = self._buckets.get(client, (size, now))
            level = min(size, level + (now - since) * self._per_second)
            self._buckets[client] = (level - 1 if level >= 1 else level, now)
        if level < 1:
            wait = max(1, math.ceil((1 - level) / self._per_second))
            raise OverloadedError(
                f"this client may send {self._per_second:g} images a second; come "
                f"again after {wait} s",
                wait,
            )
