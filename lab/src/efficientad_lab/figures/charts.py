"""Accuracy against latency, and latency by device (paper, Figures 1 and 6)."""

import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from efficientad.errors import ResultError
from efficientad_lab.figures.canvas import OWN_COLOR, PAPER_COLOR, new_axes
from efficientad_lab.figures.runs import Material
from efficientad_lab.studies import paper, summary
from efficientad_lab.studies.records import Run, is_finished, read_run, read_runs
from efficientad_lab.studies.summary import detection, groups, overall, variants

_TIMED_INFERENCE = {
    "inference_speed": "batch 1, ",
    "deployment": "",
    "deployment_avx2": "",
}
"""Experiments whose `milliseconds` are the latency of one image, with the beginning of
these variants; for a batch or several processes they are a share of it."""

_SMALL = 7  # points
_MARKER_POINTS = 5.0
_POINTS_AN_INCH = 72
_LABEL_SIDES = tuple((side, height) for side in (1, -1) for height in (4, -9, 12, -17))
"""Sides of a point (right, left) and heights above it in points; tried in turn."""


class Point(NamedTuple):
    """A point in the chart of accuracy against latency."""

    name: str
    latency_ms: float
    au_roc: float
    """Mean image AU-ROC, percent."""


class Bar(NamedTuple):
    """A bar in the chart of latency by device."""

    name: str
    latency_ms: float
    is_own: bool


def accuracy_against_latency(material: Material) -> Figure:
    """Draw own variants and the paper's methods by milliseconds and mean AU-ROC.

    Raises:
        ResultError: If no variant has finished on all its scenarios.
    """
    runs = material.reproduced()
    own = own_points(runs)
    if not own:
        raise ResultError(
            "needs a variant with all scenarios finished for at least one seed, "
            f"{material.results} has none; give the same efficientad reproduce again"
        )
    figure, axes = new_axes(5.0, 3.4)
    theirs = [
        Point(name, method.latency_ms, method.au_roc)
        for name, method in paper.METHODS.items()
    ]
    _scatter(axes, theirs, PAPER_COLOR, "paper, RTX A6000, three collections")
    n_scenarios = len({(run["collection"], run["category"]) for run in runs})
    _scatter(axes, own, OWN_COLOR, f"own runs, scenarios: {n_scenarios}")
    axes.set_xscale("log")
    axes.set_xlabel("latency, ms an image (logarithmic)")
    axes.set_ylabel("mean image AU-ROC, %")
    axes.legend(frameon=False, fontsize=_SMALL)
    axes.margins(x=0.15)
    figure.draw_without_rendering()  # sets the positions of everything
    named = [(point, OWN_COLOR) for point in own]
    _name_points(axes, [*named, *((point, PAPER_COLOR) for point in theirs)])
    return figure


def own_points(runs: list[Run]) -> list[Point]:
    """Return a point for each variant with finished runs: the means over seeds."""
    points = []
    for variant in variants(runs):
        chosen = groups(runs, variant)
        accuracies, times = overall(chosen, detection), overall(chosen, summary.latency)
        if accuracies and times:
            mean = 100 * sum(accuracies) / len(accuracies)
            points.append(Point(variant, sum(times) / len(times), mean))
    return points


def latency_by_device(material: Material) -> Figure:
    """Draw recorded benchmarks as bars beside the paper's devices.

    Raises:
        ResultError: If no benchmark is recorded.
    """
    paths = material.config.benchmarks
    own = own_bars([*read_runs(material.results), *read_benchmarks(paths)])
    if not own:
        names = ", ".join(map(str, (material.results, *paths)))
        raise ResultError(
            f"needs recorded benchmarks with a latency, there are none in {names}; "
            "name a file or folder with some by --benchmarks"
        )
    theirs = [
        Bar(f"{device}, {size}, paper", milliseconds, is_own=False)
        for device, by_size in paper.LATENCY_MS.items()
        for size, milliseconds in by_size.items()
    ]
    bars = [*own, *theirs][::-1]  # the first one on top
    figure, axes = new_axes(6.0, 0.6 + 0.2 * len(bars))
    colors = [OWN_COLOR if bar.is_own else PAPER_COLOR for bar in bars]
    drawn = axes.barh(
        [bar.name for bar in bars], [bar.latency_ms for bar in bars], color=colors
    )
    labels = [f"{bar.latency_ms:.4g}" for bar in bars]
    axes.bar_label(drawn, labels, padding=2, fontsize=_SMALL)
    axes.margins(x=0.2)
    axes.set_xscale("log")
    axes.set_xlabel("latency, ms an image (logarithmic)")
    axes.tick_params(axis="y", labelsize=_SMALL)
    return figure


def read_benchmarks(paths: Iterable[Path]) -> list[Run]:
    """Read recorded runs, and the reports of `efficientad benchmark` as runs.

    Raises:
        ResultError: If a file is something else; the message names it.
    """
    files = [
        file
        for path in paths
        for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])
    ]
    return [run for file in files for run in _runs_in(file)]


def _runs_in(file: Path) -> list[Run]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or "engines" not in content:
            return [read_run(file)]
        return [
            {
                "machine": content["machine"],
                "category": str(content["model"]),
                "variant": f"{measured['engine']}, {measured['precision']}",
                "metrics": {"latency_ms": float(measured["latency_ms"]["p50"])},
            }
            for measured in content["engines"]
        ]
    except ResultError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultError(
            f"needed a recorded benchmark, {file} cannot be read as one "
            f"({type(error).__name__}: {error}); leave it out"
        ) from error


def own_bars(runs: list[Run]) -> list[Bar]:
    """Return the fastest latency of each machine, category and variant."""
    fastest: dict[str, float] = {}
    for run in filter(is_finished, runs):
        metrics, experiment = run["metrics"], run.get("experiment")
        latency = metrics.get("latency_ms")
        if latency is None and experiment in _TIMED_INFERENCE:
            if not run["variant"].startswith(_TIMED_INFERENCE[experiment]):
                continue
            latency = metrics.get("milliseconds")
        if latency is not None:
            name = f"{run['machine']}: {run['category']}, {run['variant']}"
            fastest[name] = min(latency, fastest.get(name, latency))
    return [Bar(name, fastest[name], is_own=True) for name in sorted(fastest)]


def _scatter(axes: Axes, points: list[Point], color: str, label: str) -> None:
    x, y = [p.latency_ms for p in points], [p.au_roc for p in points]
    axes.scatter(x, y, s=_MARKER_POINTS**2, color=color, label=label)


def _name_points(axes: Axes, points: Sequence[tuple[Point, str]]) -> None:
    """Write each name at the first place where it covers nothing, if there is one."""
    taken = [_marker(axes, point) for point, _ in points]
    for point, color in points:
        write = partial(
            axes.annotate,
            point.name,
            (point.latency_ms, point.au_roc),
            textcoords="offset points",
            fontsize=_SMALL,
            color=color,
        )
        for side, height in _LABEL_SIDES:
            alignment = "left" if side > 0 else "right"
            name = write(xytext=(3 * side, height), horizontalalignment=alignment)
            if not name.get_window_extent().count_overlaps(taken):
                break
            name.remove()
        else:
            name = write(xytext=(3, 4))
        taken.append(name.get_window_extent())


def _marker(axes: Axes, point: Point) -> Bbox:
    x, y = axes.transData.transform((point.latency_ms, point.au_roc))
    half = _MARKER_POINTS / 2 * axes.figure.dpi / _POINTS_AN_INCH
    return Bbox.from_extents(x - half, y - half, x + half, y + half)
