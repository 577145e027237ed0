"""An evaluation as one HTML file that opens anywhere and asks for nothing else.

The decisions come first. All scores follow in one chart, where another threshold can be
tried, then every image with its maps, metrics over all defects and for each type, and
facts on the model. Every value is escaped. Without scripts everything is shown, but
nothing can be sorted or enlarged.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from efficientad.datasets import NORMAL
from efficientad.errors import needs_extra
from efficientad.evaluation.report_pictures import Picture, thumbnail
from efficientad.evaluation.results import Evaluation, ScoredImage
from efficientad.evaluation.score_chart import score_chart
from efficientad.images.encoding import data_uri
from efficientad.images.heatmaps import overlay_layer
from efficientad.storage import write_atomically

if TYPE_CHECKING:
    from jinja2 import Environment

_N_HIGHEST: Final = 6
# In the order in which they are shown; others follow. A table breaks its lines where
# these do, elsewhere that is a space.
_METRIC_NAMES: Final = {
    "image_au_roc": "image\nAU-ROC",
    "image_au_roc_held_out": "image AU-ROC,\nheld-out normal",
    "image_average_precision": "image\naverage precision",
    "image_f1_max": "image F1,\nbest threshold",
    "image_recall_at_fpr_0.01": "image recall,\n1 % false alarms",
    "pixel_au_roc": "pixel\nAU-ROC",
    "au_pro": "AU-PRO",
    "au_spro": "AU-sPRO,\nlimit 0.05",
    "au_spro_0.1": "AU-sPRO,\nlimit 0.1",
    "au_spro_0.3": "AU-sPRO,\nlimit 0.3",
    "au_spro_1": "AU-sPRO,\nlimit 1",
}
_ALL_DEFECTS: Final = "all defects"


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Report:
    """The content of a report."""

    title: str
    evaluation: Evaluation
    pictures: Sequence[Picture] = ()
    """The images to show."""
    has_region_of_interest: bool = False
    """Whether defects count in a part of the image only."""
    calibration: str | None = None
    """Sentence about what the threshold guarantees, without a full stop."""
    facts: dict[str, str] = field(default_factory=dict)
    """Settings and provenance of the model."""
    made_on: date | None = None
    """None: not shown, so that equal results give equal files."""


@cache
def environment() -> "Environment":
    """Return the templates; they escape every value."""
    # Only reports need jinja2; a line-side computer evaluates without it.
    with needs_extra("a report", "train"):
        from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415
    return Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def write_report(report: Report, path: Path) -> None:
    """Write a report as one HTML file, atomically.

    Raises:
        MissingDependencyError: If jinja2 is not installed.
        StorageError: If the file cannot be written; an earlier one stays.
    """
    # A file name of foreign bytes has characters that UTF-8 cannot encode.
    write_atomically(path, _page(report).encode("utf-8", errors="backslashreplace"))


def highest_normal(pictures: Iterable[Picture]) -> list[Picture]:
    """Return the six pictures of normal images with the highest scores."""
    normal = (picture for picture in pictures if not picture.is_defect)
    return sorted(normal, key=lambda each: -each.image_score)[:_N_HIGHEST]


def _page(report: Report) -> str:
    evaluation = report.evaluation
    by_type = evaluation.metrics_by_defect_type
    scored = {
        name: [s for s in evaluation.scores if s.defect_type == name]
        for name in (NORMAL, *by_type)
    }
    defects = [s for s in evaluation.scores if s.defect_type != NORMAL]
    values = np.linspace(0, 1, 256, dtype=np.float32)[None]
    template = environment().get_template("report.html.j2")
    return template.render(
        report=report,
        evaluation=evaluation,
        metric_names=_METRIC_NAMES,
        columns=_columns([evaluation.metrics, *by_type.values()]),
        rows=[
            _row(_ALL_DEFECTS, defects, evaluation.metrics),
            *(_row(name, scored[name], metrics) for name, metrics in by_type.items()),
        ],
        normal=_row("normal images", scored[NORMAL]),
        defects=_row("defects", defects),
        reasons=_reasons(evaluation),
        chart=score_chart(
            {name: [s.image_score for s in each] for name, each in scored.items()},
            evaluation.threshold,
        ),
        scores=[(s.defect_type != NORMAL, s.image_score) for s in evaluation.scores],
        highest_normal=[
            report.pictures.index(each) for each in highest_normal(report.pictures)
        ],
        thumbnail=thumbnail,
        types=[name for name, each in scored.items() if each],
        scale=data_uri(overlay_layer(values, low=0, high=1)),
    )


def _row(
    name: str, scored: Sequence[ScoredImage], metrics: Mapping[str, float] | None = None
) -> dict[str, Any]:
    return {
        "name": name,
        "n_images": len(scored),
        "n_reported": sum(s.is_anomalous for s in scored),
        "metrics": metrics,
    }


def _columns(all_metrics: Iterable[Mapping[str, float]]) -> list[str]:
    occurring = dict.fromkeys(key for metrics in all_metrics for key in metrics)
    known = [key for key in _METRIC_NAMES if key in occurring]
    return known + [key for key in occurring if key not in _METRIC_NAMES]


def _reasons(evaluation: Evaluation) -> dict[str, list[str]]:
    """Return the rows without a metric by the reason, each reason once."""
    names_of: dict[str, list[str]] = {}
    by_type = evaluation.undefined_by_defect_type
    for name, undefined in {_ALL_DEFECTS: evaluation.undefined, **by_type}.items():
        for reason in dict.fromkeys(undefined.values()):
            names_of.setdefault(reason, []).append(name)
    return names_of
