"""Numbers for Prometheus. No number of a part or client is a label."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """The metrics of one station, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.inspections = Counter(
            "efficientad_inspections",
            "Stored inspections.",
            ["source", "decision"],
            registry=registry,
        )
        self.stage = Histogram(
            "efficientad_stage_seconds",
            "Time of each stage of an inspection.",
            ["stage"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.queue = Gauge(
            "efficientad_queue_length", "Images under way.", registry=registry
        )
        self.shed = Counter(
            "efficientad_shed",
            "Images refused because all places were taken.",
            ["source"],
            registry=registry,
        )
        self.dropped = Counter(
            "efficientad_frames_dropped",
            "Frames that a newer one replaced.",
            ["source"],
            registry=registry,
        )
        self.last_stored = Gauge(
            "efficientad_last_stored_timestamp_seconds",
            "Time of the newest stored inspection.",
            registry=registry,
        )

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
