"""Prediction in Parquet parts, with its progress on the terminal."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from efficientad.errors import ConfigError
from efficientad.executors.config import PartsConfig
from efficientad.inspection.files import PredictionSummary
from efficientad.progress import Progress
from efficientad.shards import parts


def predict_parts(
    model: Path,
    sources: Sequence[str],
    output: str | None,
    config: PartsConfig,
    options: Mapping[str, Any],
) -> PredictionSummary:
    """Return the counts of a prediction in parts; missing parts count as failed.

    Raises:
        ConfigError: If there is no output.
    """
    if output is None:
        raise ConfigError("Parquet parts need a folder or URL; give --output")
    with closing(_Bar()) as bar:
        summary, failures = parts.predict_parts(
            model, tuple(sources), output, config, on_part=bar.show, **options
        )
    missing = f"{len(failures)} parts are missing; the same command tries them again"
    return replace(
        summary,
        n_failed=summary.n_failed + len(failures),
        unused=(*summary.unused, missing) if failures else summary.unused,
    )


class _Bar:
    """Progress whose total is known with the first part."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def show(self, n_done: int, n_parts: int) -> None:
        """Show that some of the parts are done."""
        self._progress = self._progress or Progress(n_parts, "part", n_done=n_done - 1)
        self._progress.update(n_done)

    def close(self) -> None:
        """End the line."""
        if self._progress is not None:
            self._progress.close()
