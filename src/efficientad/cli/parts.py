"""Prediction in Parquet parts, with its progress on the terminal."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
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
    refused: Mapping[str, object],
) -> PredictionSummary:
    """Return the counts of a prediction in parts; missing parts count as failed.

    Raises:
        ConfigError: If there is no output, or an option is given that is refused here.
    """
    if output is None:
        raise ConfigError("Parquet parts need a folder or URL; give --output")
    if given := [option for option, value in refused.items() if value]:
        raise ConfigError(f"Parquet parts take no {given[0]}; leave it out")
    progress: Progress | None = None
    with ExitStack() as stack:

        def show(n_done: int, n_parts: int) -> None:
            nonlocal progress
            if progress is None:
                progress = Progress(n_parts, "part", n_done=n_done - 1)
                stack.callback(progress.close)
            progress.update(n_done)

        summary, failures = parts.predict_parts(
            model, tuple(sources), output, config, on_part=show, **options
        )
    missing = f"{len(failures)} parts are missing; the same command tries them again"
    return replace(
        summary,
        n_failed=summary.n_failed + len(failures),
        unused=(*summary.unused, missing) if failures else summary.unused,
    )
