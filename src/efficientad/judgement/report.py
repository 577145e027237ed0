"""One self-contained HTML page: metrics, score histogram, best and worst cases.

Pictures are data URIs, the chart is inline SVG; there is no script and nothing external,
so the page works offline, and everything from outside is escaped.
"""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from efficientad.datasets import NORMAL
from efficientad.errors import StorageError
from efficientad.heatmaps import prediction_panel
from efficientad.images import Mask, RGBImage
from efficientad.method.decision import Prediction

_PANEL_HEIGHT = 200
_JPEG_QUALITY = 88
_N_BINS = 40
_CHART_WIDTH, _CHART_HEIGHT, _MARGIN = 860, 240, 40

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --normal: #4c8bd0; --defect: #d9603b; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem;
  padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; } td, th { padding: .3rem .9rem .3rem 0;
  text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0 1.6rem; } figure img { max-width: 100%; border-radius: 4px; }
figcaption { font-size: .9rem; opacity: .85; }
.facts td { overflow-wrap: anywhere; font-size: .9rem; }
svg text { fill: currentColor; font-size: 12px; }
@media print { body { max-width: none; } figure { break-inside: avoid; } }
"""


@dataclass(frozen=True, eq=False)
class Case:
    """An image to show, with what was said about it."""

    name: str
    defect_type: str
    prediction: Prediction
    image: RGBImage
    defect_mask: Mask | None


@dataclass(frozen=True)
class ScoredImage:
    """The score and decision of one test image."""

    name: str
    defect_type: str
    """`good` is normal."""
    image_score: float
    p_value: float
    is_anomalous: bool


@dataclass(frozen=True, eq=False)
class Report:
    """Everything the page shows."""

    title: str
    metrics: Mapping[str, float]
    metrics_by_defect_type: Mapping[str, Mapping[str, float]]
    scores: Sequence[ScoredImage]
    threshold: float
    missed: Sequence[Case]
    """Defects with the lowest scores, lowest first."""
    found: Sequence[Case]
    """Defects with the highest scores, highest first."""
    highest_normal: Sequence[Case]
    """Normal images with the highest scores, highest first."""
    facts: Mapping[str, str]


def write_report(report: Report, path: Path) -> None:
    """Write the page; it is complete or not there.

    Raises:
        StorageError: If it cannot be written; what stood there stays.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(_page(report), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error}") from error


def _page(report: Report) -> str:
    title = html.escape(report.title)
    sections = [
        f"<h1>{title}</h1>",
        f"<p>{_decisions(report)}</p>",
        "<h2>Metrics</h2>",
        _metrics_table(report),
        "<h2>Image scores</h2>",
        _histogram(report),
        _cases("Defects with the lowest scores", report.missed),
        _cases("Normal images with the highest scores", report.highest_normal),
        _cases("Defects with the highest scores", report.found),
        "<h2>The detector</h2>",
        _facts_table(report.facts),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>"
        + "\n".join(sections)
        + "</body></html>\n"
    )


def _decisions(report: Report) -> str:
    normal = [s for s in report.scores if s.defect_type == NORMAL]
    defect = [s for s in report.scores if s.defect_type != NORMAL]
    n_found = sum(s.is_anomalous for s in defect)
    n_flagged = sum(s.is_anomalous for s in normal)
    return (
        f"At the decision threshold {report.threshold:.3g}: <b>{n_found} of "
        f"{len(defect)}</b> defective images found, <b>{n_flagged} of {len(normal)}</b> "
        "normal images flagged."
    )


def _metrics_table(report: Report) -> str:
    names = list(report.metrics)
    counts: dict[str, int] = {}
    for scored in report.scores:
        counts[scored.defect_type] = counts.get(scored.defect_type, 0) + 1
    n_defects = len(report.scores) - counts.get(NORMAL, 0)
    head = "".join(f'<th class="number">{_label(name)}</th>' for name in names)
    rows = [_metrics_row("all", n_defects, report.metrics, names)]
    rows += [
        _metrics_row(kind, counts.get(kind, 0), values, names)
        for kind, values in report.metrics_by_defect_type.items()
    ]
    return (
        f'<table><tr><th>defect type</th><th class="number">images</th>{head}</tr>'
        + "".join(rows)
        + "</table>"
    )


def _metrics_row(
    kind: str, n_images: int, values: Mapping[str, float], names: Iterable[str]
) -> str:
    cells = "".join(
        f'<td class="number">{100 * values[n]:.1f} %</td>'
        if n in values
        else '<td class="number">not annotated</td>'
        for n in names
    )
    kind = html.escape(kind)
    return f'<tr><td>{kind}</td><td class="number">{n_images}</td>{cells}</tr>'


def _label(name: str) -> str:
    words = {"au_roc": "AU-ROC", "au_pro": "AU-PRO", "f1_max": "F1-max"}
    for key, word in words.items():
        name = name.replace(key, word)
    return html.escape(name.replace("_", " "))


def _histogram(report: Report) -> str:
    scores = [s.image_score for s in report.scores]
    low, high = min(*scores, report.threshold), max(*scores, report.threshold)
    high = high if high > low else low + 1
    edges = np.linspace(low, high, _N_BINS + 1)
    groups = (
        ("normal", [s.image_score for s in report.scores if s.defect_type == NORMAL]),
        ("defect", [s.image_score for s in report.scores if s.defect_type != NORMAL]),
    )
    counts = {name: np.histogram(values, edges)[0] for name, values in groups}
    tallest = max(1, *(int(c.max()) for c in counts.values()))
    bars = "".join(_bars(name, c, tallest) for name, c in counts.items())
    at = _x((report.threshold - low) / (high - low))
    bottom = _CHART_HEIGHT - _MARGIN
    ticks = "".join(
        f'<text x="{_x(share):.1f}" y="{bottom + 18}" text-anchor="middle">'
        f"{low + share * (high - low):.3g}</text>"
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    return (
        f'<svg viewBox="0 0 {_CHART_WIDTH} {_CHART_HEIGHT}" role="img" '
        'aria-label="histogram of image scores">'
        f"{bars}"
        f'<line x1="{_MARGIN}" x2="{_CHART_WIDTH - _MARGIN}" y1="{bottom}" '
        f'y2="{bottom}" stroke="currentColor"/>'
        f'<line x1="{at:.1f}" x2="{at:.1f}" y1="14" y2="{bottom}" '
        'stroke="currentColor" stroke-dasharray="4 3"/>'
        f'<text x="{at + 5:.1f}" y="22">threshold {report.threshold:.3g}</text>'
        f'{ticks}<text x="{_CHART_WIDTH / 2}" y="{_CHART_HEIGHT - 4}" '
        'text-anchor="middle">image score</text>'
        f'<text x="4" y="22">{tallest}</text><text x="4" y="{bottom}">0 images</text>'
        f'<text x="{_CHART_WIDTH - 130}" y="22" style="fill:var(--normal)">normal</text>'
        f'<text x="{_CHART_WIDTH - 80}" y="22" style="fill:var(--defect)">defect</text>'
        "</svg>"
    )


def _x(share: float) -> float:
    return _MARGIN + share * (_CHART_WIDTH - 2 * _MARGIN)


def _bars(name: str, counts: Sequence[int] | np.ndarray, tallest: int) -> str:
    width = _x(1 / _N_BINS) - _x(0)
    bottom, room = _CHART_HEIGHT - _MARGIN, _CHART_HEIGHT - _MARGIN - 30
    return "".join(
        f'<rect x="{_x(i / _N_BINS):.1f}" y="{bottom - room * n / tallest:.1f}" '
        f'width="{width:.1f}" height="{room * n / tallest:.1f}" '
        f'fill="var(--{name})" fill-opacity="0.65"/>'
        for i, n in enumerate(counts)
        if n
    )


def _cases(title: str, cases: Sequence[Case]) -> str:
    figures = "".join(
        f'<figure><img alt="" src="{_data_uri(_panel(case))}">'
        f"<figcaption>{html.escape(case.name)} · {html.escape(case.defect_type)} · score "
        f"{case.prediction.image_score:.3g} · p-value {case.prediction.p_value:.2g} · "
        f"{'anomalous' if case.prediction.is_anomalous else 'normal'}"
        "</figcaption></figure>"
        for case in cases
    )
    return f"<h2>{title}</h2>{figures}"


def _panel(case: Case) -> RGBImage:
    return prediction_panel(
        case.image,
        case.prediction,
        defect_mask=case.defect_mask,
        height=_PANEL_HEIGHT,
    )


def _data_uri(picture: RGBImage) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _facts_table(facts: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>"
        for name, value in facts.items()
    )
    return f'<table class="facts">{rows}</table>'
