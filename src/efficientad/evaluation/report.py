"""An evaluation as one HTML file that opens anywhere: no network, no script.

The report shows the metrics over all defects and for each type, the decisions at the
threshold, all scores in one chart, the clearest and the worst cases with their maps,
and facts on the model. Every value is escaped.

Maps are colored on the scale that `heatmaps.color_scale` derives from the decision
threshold, the same for every picture. The threshold is in its middle: what is bright
orange or lighter is reported.
"""

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from efficientad.datasets import NORMAL
from efficientad.evaluation.rendering import render
from efficientad.evaluation.results import Evaluation, ScoredImage
from efficientad.evaluation.score_chart import score_chart
from efficientad.images.heatmaps import color_scale, fit_image, heatmap
from efficientad.images.rgb import Mask, RGBImage
from efficientad.inspection.panels import prediction_tiles
from efficientad.inspection.prediction import Prediction
from efficientad.storage import write_atomically

_MAX_SIDE: Final = 256
_JPEG_QUALITY: Final = 88

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
_HEADLINES: Final = (
    "image_au_roc",
    "image_au_roc_held_out",
    "pixel_au_roc",
    "au_pro",
    "au_spro",
)
_ALL_DEFECTS: Final = "all defects"


@dataclass(frozen=True, eq=False, slots=True)
class Case:
    """A test image that is shown with its maps."""

    name: str
    """Path within the category."""
    defect_type: str
    """`good` where there is no defect."""
    prediction: Prediction
    image: RGBImage
    defect_mask: Mask | None = None
    """Shape of the image. None: normal, or not annotated."""

    @property
    def is_defect(self) -> bool:
        """Whether the image shows a defect."""
        return self.defect_type != NORMAL


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Report:
    """The content of a report."""

    title: str
    evaluation: Evaluation
    missed: Sequence[Case] = ()
    """The defects with the lowest scores, lowest first."""
    found: Sequence[Case] = ()
    """The defects with the highest scores, highest first."""
    highest_normal: Sequence[Case] = ()
    """The normal images with the highest scores, highest first."""
    calibration: str | None = None
    """Sentence about what the threshold guarantees, without a full stop."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Settings and provenance of the model."""
    made_on: date | None = None
    """None: not shown, so that equal results give equal files."""


def write_report(report: Report, path: Path) -> None:
    """Write a report as one HTML file, atomically.

    Args:
        report: The content.
        path: The file; its folder is made if it does not exist.

    Raises:
        MissingDependencyError: If jinja2 is not installed.
        StorageError: If the file cannot be written; an earlier one stays.
    """
    # A file name of foreign bytes has characters that UTF-8 cannot encode.
    write_atomically(path, _page(report).encode("utf-8", errors="backslashreplace"))


def _page(report: Report) -> str:
    evaluation = report.evaluation
    by_type = evaluation.metrics_by_defect_type
    scored = {
        name: [s for s in evaluation.scores if s.defect_type == name]
        for name in (NORMAL, *by_type)
    }
    defects = [s for s in evaluation.scores if s.defect_type != NORMAL]
    low, high = color_scale(evaluation.threshold)
    colors = np.linspace(low, high, 256, dtype=np.float32)[None]
    return render(
        "report.html.j2",
        title=report.title,
        made_on=report.made_on,
        metrics=evaluation.metrics,
        metric_names=_METRIC_NAMES,
        headlines=[name for name in _HEADLINES if name in evaluation.metrics],
        columns=_columns([evaluation.metrics, *by_type.values()]),
        rows=[
            _row(_ALL_DEFECTS, defects, evaluation.metrics),
            *(_row(name, scored[name], metrics) for name, metrics in by_type.items()),
        ],
        normal=_row("normal images", scored[NORMAL]),
        defects=_row("defects", defects),
        reasons=_reasons(evaluation),
        shifts=evaluation.shifts,
        session_alarms=evaluation.session_alarms,
        threshold=evaluation.threshold,
        calibration=report.calibration,
        chart=score_chart(
            {name: [s.image_score for s in each] for name, each in scored.items()},
            evaluation.threshold,
        ),
        case_sections={
            "Defects with the lowest scores": report.missed,
            "Defects with the highest scores": report.found,
            "Normal images with the highest scores": report.highest_normal,
        },
        pictures=_pictures,
        scale={
            "low": low,
            "high": high,
            "picture": _data_uri(heatmap(colors, low=low, high=high), "PNG"),
        },
        facts=report.facts,
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


def _pictures(case: Case) -> Iterator[tuple[str, str]]:
    """Yield the captions and pictures of a case."""
    image = fit_image(case.image, _MAX_SIDE, max_aspect=1)
    yield "image", _data_uri(image, "JPEG")
    for tile in prediction_tiles(image, case.prediction, case.defect_mask):
        yield tile.caption, _data_uri(tile.image, "JPEG")


def _data_uri(picture: RGBImage, kind: str) -> str:
    stream = io.BytesIO()
    # Full color resolution: thin colored outlines keep their color.
    options = {"quality": _JPEG_QUALITY, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(picture).save(stream, kind, **options)
    encoded = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{encoded}"
