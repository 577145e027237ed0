"""The model card of a model file: data, settings, decision, metrics and limits."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from efficientad.decisions.decision import Calibration
from efficientad.errors import ResultError
from efficientad.inspection.opening import EXPORT_SUFFIXES, require_model_file
from efficientad.model_files import export_metadata
from efficientad.model_files.detector_file import read_detector
from efficientad.model_files.json_text import from_json, product_of, training_of
from efficientad.names import printable
from efficientad.settings import checks_arguments
from efficientad.storage import file_hash, open_regular

_LIMITS: Final = (
    "The networks see 256 x 256 pixels; a defect of a few of them may be lost.",
    "Parts must lie in about the same place and light as in training.",
    "The decision holds for images like the held-out ones. Calibrate after a change.",
    "The model finds what is unlike the normal images. It does not name defects.",
)


@checks_arguments
def card(model: Path | str, *, metrics: Path | str | None = None) -> str:
    """Return the model card of a model file in Markdown.

    Args:
        model: A .ead file or an exported one.
        metrics: The metrics.json that `evaluate` wrote for this model. None: the card
            has no metrics.

    Raises:
        ModelFileError: If the model file cannot be used.
        ResultError: If the metrics cannot be read.
    """
    path = Path(model)
    require_model_file(path)
    is_export = path.suffix in EXPORT_SUFFIXES
    opened = export_metadata.read(path) if is_export else read_detector(path)
    provenance, calibration = opened.provenance, opened.calibration
    sections = {
        "Model": _table(
            {
                "file": path.name,
                "SHA-256": file_hash(path),
                "method": f"EfficientAD, size {opened.size}",
                "made by": ", ".join(
                    f"{name} {provenance[name]}"
                    for name in ("efficientad", "torch", "python")
                    if name in provenance
                ),
            }
        ),
        "Data": _table(_data(provenance)),
        "Settings": _table(_settings(provenance)),
        "Decision": _decision(calibration),
        "Metrics": _metrics(None if metrics is None else Path(metrics)),
        "Limits": [f"- {limit}" for limit in _LIMITS],
    }
    lines = [f"# Model card: {_escaped(product_of(provenance) or path.stem)}"]
    lines += ["", f"An anomaly detector, {_escaped(training_of(provenance))}."]
    for title, section in sections.items():
        lines += ["", f"## {title}", "", *section]
    return "\n".join(lines) + "\n"


def _table(facts: Mapping[str, Any]) -> list[str]:
    """Return the facts that are known as a table of two columns."""
    known = {name: value for name, value in facts.items() if value not in (None, "")}
    rows = [f"| {name} | {_cell(value)} |" for name, value in known.items()]
    return ["| | |", "|---|---|", *rows] if rows else ["Unknown."]


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return _escaped(text).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Return a text that Markdown takes for text, on one line."""
    return html.escape(printable(text), quote=False)


def _data(provenance: Mapping[str, Any]) -> dict[str, Any]:
    decision = provenance.get("decision_images", provenance.get("validation_images"))
    return {
        "product": product_of(provenance),
        "training images": len(provenance.get("training_images", {})) or None,
        "held-out normal images": None if decision is None else len(decision),
        "natural images of the penalty": provenance.get("pretraining_images"),
        "teacher, SHA-256": provenance.get("teacher", {}).get("hash"),
    }


def _settings(provenance: Mapping[str, Any]) -> dict[str, Any]:
    names = ("preset", "seed", "device", "training_seconds")
    facts = {name: provenance.get(name) for name in names}
    facts |= provenance.get("recipe", {})
    return {
        name.replace("_", " "): value
        for name, value in facts.items()
        if isinstance(value, (str, int, float))
    }


def _decision(calibration: Calibration) -> list[str]:
    heading, *budgets = calibration.table()
    threshold, statement = calibration.threshold, calibration.statement()
    lines = [f"Scores above {threshold:.4g} are anomalous: {statement}."]
    lines += ["", "```text", heading, *budgets, "```"]
    alarms = calibration.session_alarms()
    if alarms:
        title = "False alarms on held-out images after changes that are no defects:"
        rows = _table({kind: f"{share:.0%}" for kind, share in alarms.items()})
        lines += ["", title, "", *rows]
    return lines


def _metrics(path: Path | None) -> list[str]:
    if path is None:
        return ["Not measured. `efficientad evaluate` writes the metrics.json for it."]
    try:
        with open_regular(path) as file:
            content = from_json(file.read())
        numbers = {k: v for k, v in content.items() if isinstance(v, float)}
        found = (
            f"Found {content['n_defects_found']} of {content['n_defect']} defects, "
            f"{content['n_normal_flagged']} of {content['n_normal']} false alarms, on "
            f"the test images of {content['category']}."
        )
    except (OSError, ValueError, KeyError) as error:
        raise ResultError(
            f"a card needs the metrics.json of an evaluation, {path} cannot be used "
            f"({error}); run efficientad evaluate"
        ) from error
    return [_escaped(found), "", *_table({k: f"{v:.4f}" for k, v in numbers.items()})]
