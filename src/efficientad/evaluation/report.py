"""An evaluation as one HTML file that opens anywhere: no network, no script.

It holds the metrics over all defects and for each type, the decisions at the threshold,
all scores in one chart, the clearest and the worst cases with their maps, and what is
known of the model. Everything from outside is escaped.

Maps are colored on the scale that `heatmaps.color_scale` derives from the decision
threshold, the same for every picture. The threshold is in its middle: what is bright
orange or lighter has been reported.
"""

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from efficientad.datasets import NORMAL
from efficientad.evaluation.score_chart import score_chart
from efficientad.images.heatmaps import (
    THRESHOLD_COLOR,
    color_scale,
    heatmap,
    outline,
    overlay,
)
from efficientad.images.rgb import Mask, RGBImage, resize_image
from efficientad.method.decision import Prediction
from efficientad.storage import write_atomically

_MAX_SIDE: Final = 256
_JPEG_QUALITY: Final = 88

# In the order in which they are shown; others follow. A table breaks its lines where
# these do, elsewhere that is a space.
_METRIC_NAMES: Final = {
    "image_au_roc": "image\nAU-ROC",
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
_HEADLINES: Final = ("image_au_roc", "pixel_au_roc", "au_pro", "au_spro")
_CALIBRATION: Final = "calibration"
_ABSENT: Final = "\N{EN DASH}"


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """What was said about one test image, without its maps."""

    name: str
    """Its path within the category."""
    defect_type: str
    """`good` where there is no defect."""
    image_score: float
    p_value: float
    is_anomalous: bool


@dataclass(frozen=True, eq=False, slots=True)
class Case:
    """A test image that is shown with its maps."""

    name: str
    """Its path within the category."""
    defect_type: str
    """`good` where there is no defect."""
    prediction: Prediction
    image: RGBImage
    """At the size it was judged at."""
    defect_mask: Mask | None = None
    """Of the image's size. None: normal, or not annotated."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Report:
    """All that stands in the report of an evaluation."""

    title: str
    metrics: Mapping[str, float]
    """Over all test images. What is undefined is missing."""
    metrics_by_defect_type: Mapping[str, Mapping[str, float]]
    """The same for each defect type against all normal images."""
    scores: Sequence[ScoredImage]
    """Of all test images, at least one."""
    threshold: float
    """Scores above it are anomalous."""
    undefined: Mapping[str, str] = field(default_factory=dict)
    """Why a metric over all test images is missing, by its name."""
    undefined_by_defect_type: Mapping[str, Mapping[str, str]] = field(
        default_factory=dict
    )
    """The same for each defect type that misses one."""
    missed: Sequence[Case] = ()
    """The defects with the lowest scores, lowest first."""
    found: Sequence[Case] = ()
    """The defects with the highest scores, highest first."""
    highest_normal: Sequence[Case] = ()
    """The normal images with the highest scores, highest first."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What is known of the model: settings and provenance. What `calibration` states
    stands with the decisions."""
    model: str | None = None
    """What the model is called, such as the name of its file."""
    made_on: date | None = field(
        default_factory=lambda: datetime.now(UTC).astimezone().date()
    )
    """None: not shown, so that equal results give equal files."""


def write_report(report: Report, path: Path) -> None:
    """Write a report as one HTML file, whole or not at all.

    Args:
        report: What to write.
        path: The file; its folder is made if it is not there.

    Raises:
        StorageError: If it cannot be written; what stood there stays.
    """
    # A file name of foreign bytes has characters that UTF-8 does not know.
    write_atomically(path, _page(report).encode("utf-8", errors="backslashreplace"))


def _page(report: Report) -> str:
    style = files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    sections = [
        _header(report),
        _figures(report),
        _metrics_section(report),
        _decisions_section(report),
        _scores_section(report),
        *_case_sections(report),
        _facts_section(report),
    ]
    body = "\n".join(filter(None, sections))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _header(report: Report) -> str:
    n_normal = len(_of_type(report, NORMAL))
    facts = [
        f"{len(report.scores) - n_normal} defects, {n_normal} normal images",
        f"threshold {report.threshold:.4g}",
    ]
    if report.made_on is not None:
        facts.append(report.made_on.isoformat())
    if report.model is not None:
        facts.insert(0, report.model)
    meta = " · ".join(f"<bdi>{escape(fact)}</bdi>" for fact in facts)
    return (
        f"<header>\n<h1><bdi>{escape(report.title)}</bdi></h1>\n"
        f'<p class="meta">{meta}</p>\n</header>'
    )


def _figures(report: Report) -> str:
    normal, defects = _of_type(report, NORMAL), _defects(report)
    figures = [
        (f"{report.metrics[key]:.3f}", _METRIC_NAMES[key])
        for key in _HEADLINES
        if key in report.metrics
    ]
    figures += [
        (f"{_n_flagged(scored)} <small>of {len(scored)}</small>", name)
        for scored, name in ((defects, "defects found"), (normal, "false alarms"))
    ]
    tiles = "".join(
        f'<div class="figure"><b>{number}</b><span>{name}</span></div>'
        for number, name in figures
    )
    return f'<div class="figures">{tiles}</div>'


def _metrics_section(report: Report) -> str:
    by_type = report.metrics_by_defect_type
    keys = _metric_keys([report.metrics, *by_type.values()])
    head = "".join(
        f'<th scope="col">{escape(_METRIC_NAMES.get(key, key.replace("_", " ")))}</th>'
        for key in keys
    )
    rows = _metrics_row("all defects", _defects(report), report.metrics, keys, "total")
    for name, metrics in by_type.items():
        rows += _metrics_row(name, _of_type(report, name), metrics, keys)
    return _section(
        "Metrics",
        "Each defect type against all normal images. At best a metric is 1; an AU-ROC "
        f"of 0.5 is guessing; {_ABSENT} means undefined, such as a pixel metric where "
        "no pixel is annotated.",
        '<div class="wide"><table>\n<thead><tr><th scope="col">defect type</th>'
        f'<th scope="col">images</th><th scope="col">found</th>{head}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody>\n</table></div>{_reasons(report)}",
    )


def _reasons(report: Report) -> str:
    """Say why metrics are undefined, each reason once."""
    names_of: dict[str, list[str]] = {}
    all_undefined = {"all defects": report.undefined, **report.undefined_by_defect_type}
    for name, undefined in all_undefined.items():
        for reason in dict.fromkeys(undefined.values()):
            names_of.setdefault(reason, []).append(name)
    return "".join(
        f'\n<p class="quiet"><bdi>{escape(", ".join(names))}</bdi>: '
        f"{escape(reason)}.</p>"
        for reason, names in names_of.items()
    )


def _metric_keys(all_metrics: Iterable[Mapping[str, float]]) -> list[str]:
    occurring = dict.fromkeys(key for metrics in all_metrics for key in metrics)
    known = [key for key in _METRIC_NAMES if key in occurring]
    return known + [key for key in occurring if key not in _METRIC_NAMES]


def _metrics_row(
    name: str,
    scored: Sequence[ScoredImage],
    metrics: Mapping[str, float],
    keys: Sequence[str],
    css_class: str = "",
) -> str:
    values = (f"{metrics[key]:.3f}" if key in metrics else _ABSENT for key in keys)
    cells = (str(len(scored)), str(_n_flagged(scored)), *values)
    return (
        f'<tr class="{css_class}"><th scope="row"><bdi>{escape(name)}</bdi></th>'
        f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"
    )


def _decisions_section(report: Report) -> str:
    rows = ""
    for name, scored, classes in (
        ("normal images", _of_type(report, NORMAL), ("right", "wrong")),
        ("defects", _defects(report), ("wrong", "right")),
    ):
        n_flagged = _n_flagged(scored)
        cells = "".join(
            f'<td><span class="{css_class if n else "quiet"}">{n}</span></td>'
            for n, css_class in zip(
                (len(scored) - n_flagged, n_flagged), classes, strict=True
            )
        )
        rows += f'<tr><th scope="row">{name}</th>{cells}<td>{len(scored)}</td></tr>\n'
    note = (
        f"An image is reported if its score is above {report.threshold:.4g}. That was "
        "settled before; no test image had a part in it."
    )
    if _CALIBRATION in report.facts:
        note += f" Calibration: {escape(report.facts[_CALIBRATION])}."
    return _section(
        "Decisions",
        note,
        '<div class="wide"><table class="confusion">\n<thead><tr>'
        '<th scope="col">test images</th><th scope="col">not reported</th>'
        '<th scope="col">reported</th><th scope="col">in all</th></tr></thead>\n'
        f"<tbody>\n{rows}</tbody>\n</table></div>",
    )


def _scores_section(report: Report) -> str:
    types = dict.fromkeys([NORMAL, *report.metrics_by_defect_type])
    types |= dict.fromkeys(scored.defect_type for scored in report.scores)
    scores = {
        name: [scored.image_score for scored in _of_type(report, name)]
        for name in types
    }
    return _section(
        "Scores",
        "Above, how many images have which score; below, a dot for each image. Two "
        "separate hills are a solved problem; defects left of the threshold are "
        "missed.",
        f'<div class="wide">{score_chart(scores, report.threshold)}</div>',
    )


def _case_sections(report: Report) -> Iterator[str]:
    for title, cases in (
        ("Defects with the lowest scores", report.missed),
        ("Defects with the highest scores", report.found),
        ("Normal images with the highest scores", report.highest_normal),
    ):
        if cases:
            yield _section(
                title,
                "Green outlines what is annotated, blue what is above the threshold.",
                _scale(report.threshold) + "\n".join(map(_case, cases)),
            )


def _scale(threshold: float) -> str:
    """Show what the colors of the maps mean."""
    low, high = color_scale(threshold)
    values = np.linspace(low, high, 256, dtype=np.float32)[None]
    bar = _data_uri(heatmap(values, low=low, high=high), "PNG")
    share = (threshold - low) / (high - low)
    middle = ""
    if 0 < share < 1:
        middle = (
            f'<span class="middle" style="left:{100 * share:.1f}%">'
            f"threshold {threshold:.4g}</span>"
        )
    return (
        f'<div class="scale"><img src="{bar}" alt="color scale">'
        f"<div><span>{low:.3g}</span>{middle}"
        f'<span class="high">{high:.4g} and above</span></div></div>\n'
    )


def _case(case: Case) -> str:
    prediction = case.prediction
    is_defect = case.defect_type != NORMAL
    verdicts = ("missed", "found") if is_defect else ("passed", "false alarm")
    css_class = "right" if prediction.is_anomalous == is_defect else "wrong"
    kind = f"<span><bdi>{escape(case.defect_type)}</bdi></span>" if is_defect else ""
    pictures = "".join(
        f'<figure><img src="{_data_uri(picture, "JPEG")}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
        for caption, picture in _pictures(case)
    )
    return (
        f'<article class="case">\n<h3><code><bdi>{escape(case.name)}</bdi></code>{kind}'
        f"<span>score {prediction.image_score:.4g}</span>"
        f"<span>p-value {prediction.p_value:.3g}</span>"
        f'<b class="{css_class}">{verdicts[prediction.is_anomalous]}</b></h3>\n'
        f'<div class="pictures">{pictures}</div>\n</article>'
    )


def _pictures(case: Case) -> Iterator[tuple[str, RGBImage]]:
    """Give the pictures of a case with their captions."""
    scale = min(1, _MAX_SIDE / max(case.image.shape[:2]))
    height, width = (max(1, round(scale * n)) for n in case.image.shape[:2])
    is_fitting = case.image.shape[:2] == (height, width)
    image = case.image if is_fitting else resize_image(case.image, height, width)
    yield "image", image
    if case.defect_mask is not None:
        mask = _reduced(case.defect_mask, height, width)
        yield "annotated defect", outline(image, mask)
    # The maps are made from their grids at this size, never at the image's.
    prediction = replace(case.prediction, height=height, width=width)
    low, high = color_scale(prediction.threshold)
    yield "local map", heatmap(prediction.local_map, low=low, high=high)
    yield "global map", heatmap(prediction.global_map, low=low, high=high)
    covered = overlay(image, prediction.anomaly_map, low=low, high=high)
    is_above = prediction.anomaly_map > prediction.threshold
    yield "combined map", outline(covered, is_above, THRESHOLD_COLOR)


def _reduced(mask: Mask, height: int, width: int) -> Mask:
    """Make a mask smaller without losing any region, however small it becomes."""
    rows, columns = np.nonzero(mask)
    reduced = np.zeros((height, width), np.bool_)
    reduced[rows * height // mask.shape[0], columns * width // mask.shape[1]] = True
    return reduced


def _data_uri(picture: RGBImage, kind: str) -> str:
    stream = io.BytesIO()
    # Full color resolution: thin colored outlines keep their color.
    options = {"quality": _JPEG_QUALITY, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(picture).save(stream, kind, **options)
    encoded = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{encoded}"


def _facts_section(report: Report) -> str:
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n"
        for name, value in report.facts.items()
        if name != _CALIBRATION
    )
    return _section("Model", "", f"<dl>\n{facts}</dl>") if facts else ""


def _section(title: str, note: str, body: str) -> str:
    quiet = f'<p class="quiet">{note}</p>\n' if note else ""
    return f"<section>\n<h2>{title}</h2>\n{quiet}{body}\n</section>"


def _of_type(report: Report, defect_type: str) -> list[ScoredImage]:
    return [s for s in report.scores if s.defect_type == defect_type]


def _defects(report: Report) -> list[ScoredImage]:
    return [s for s in report.scores if s.defect_type != NORMAL]


def _n_flagged(scored: Iterable[ScoredImage]) -> int:
    return sum(s.is_anomalous for s in scored)
