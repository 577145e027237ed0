"""Lines that the verbs print: results first, details behind them."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from efficientad.errors import ConfigError
from efficientad.names import printable

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from efficientad.decisions.decision import Calibration
    from efficientad.evaluation.results import Evaluation
    from efficientad.inspection.files import PredictionSummary
    from efficientad.training.config import TrainConfig

_N_NAMED: Final = 20


def print_lines(*lines: str, on_stderr: bool = False) -> None:
    """Print lines, each on one line whatever names stand in it."""
    stream = sys.stderr if on_stderr else sys.stdout
    print("\n".join(map(printable, lines)), file=stream, flush=True)


def settings_lines(
    settings: "DataclassInstance", became: Mapping[str, Any]
) -> list[str]:
    """Return a setting a line, with what those that are None or `auto` became.

    One of them that did not become anything is left out.
    """
    known = {
        name: became.get(name) if value in (None, "auto") else value
        for name, value in _flat(settings)
    }
    return ["settings:"] + [
        f"  {name.replace('_', ' '):24} {value}"
        for name, value in known.items()
        if value not in (None, ())
    ]


def training_lines(config: "TrainConfig") -> list[str]:
    """Return the settings of a training, with what those that were left out became."""
    from efficientad.engines.pytorch import choose_device
    from efficientad.training.run import recipe_of

    device = choose_device(config.device)
    recipe = recipe_of(config, device)
    became = {
        **asdict(recipe),
        "preset": recipe.preset,
        "device": device,
        "teacher": "the shipped one",
        "pretraining_images": "textures and scenes drawn by code",
        "validation": "validation/good, otherwise a share of the images",
        "align": "where parts lie anywhere" if recipe.preset == "quick" else "never",
    }
    return settings_lines(config, became)


def _flat(settings: "DataclassInstance") -> Iterator[tuple[str, Any]]:
    """Yield names and values, also those of settings within settings."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            yield from _flat(value)
        else:
            yield field.name, value


def decision_lines(calibration: "Calibration") -> list[str]:
    """Return the threshold, what it promises, and a table of others."""
    threshold = f"threshold {calibration.threshold:.4g}"
    return [threshold, calibration.statement(), *calibration.table()]


def evaluation_lines(evaluation: "Evaluation") -> list[str]:
    """Return what the decision finds, then the metrics."""
    metrics = evaluation.metrics.items()
    regions = [str(evaluation.regions)] if evaluation.regions else []
    lines = [f"{name:24} {value:.4f}" for name, value in metrics]
    return [str(evaluation), *regions, *lines]


def prediction_lines(summary: "PredictionSummary", see: str | None) -> list[str]:
    """Return the counts of a prediction and the names of anomalous images.

    `see` is the file or folder of the results, if they were written.
    """
    place = "" if see is None else f"; see {see}"
    unsure = f"{summary.n_unsure} unsure, " if summary.n_unsure else ""
    counts = (
        f"{summary.n_images} images predicted, {summary.n_anomalous} anomalous, "
        f"{unsure}{summary.n_failed} failed{place}"
    )
    named: Sequence[Path] = summary.anomalous[:_N_NAMED]
    n_more = summary.n_anomalous - len(named)
    more = [f"  and {n_more} more"] if named and n_more else []
    return [counts, *(f"  anomalous: {path}" for path in named), *more, *summary.unused]


def robustness_lines(model: Path, *others: Path | None) -> list[str]:
    """Return the false alarms of a model file after changes that are no defects.

    Raises:
        ConfigError: If they were not measured, or other files are given.
    """
    from efficientad.calibration.threshold import threshold

    if any(others):
        raise ConfigError(
            "--robustness needs a model file in place of a data set, got --model or "
            "--output, too; leave them out"
        )
    alarms = threshold(model).session_alarms()
    if not alarms:
        raise ConfigError(
            f"--robustness needs a model file with scores after changes, {model} has "
            "none; calibrate it again"
        )
    heading = "false alarms on held-out images after changes that are no defects"
    return [heading, *(f"{kind:24} {share:4.0%}" for kind, share in alarms.items())]
