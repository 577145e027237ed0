"""Write the tables of the README and the docs from the recorded runs.

Each JSON file in a `results` folder is one run; `README.md` lists its fields. A
document asks for a table by two comments, and the table is written between them:

    <!-- table: EXPERIMENT -->
    <!-- end of table -->

`readme_accuracy` and `readme_speed` show some rows and columns of an experiment.
`ablation_3_small` asks for the paper's Table 3 of size small, as `efficientad ablate`
makes it. In the other tables a row has the runs of one category and variant. A cell is
their mean, with the standard deviation over seeds where there are several.

    python lab/experiments/make_tables.py            writes the tables
    python lab/experiments/make_tables.py --check    fails where they would change
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from efficientad_lab.studies import ablation
from efficientad_lab.studies.config import StudyConfig
from efficientad_lab.studies.records import (
    FAILURE,
    Run,
    is_finished,
    mean_and_deviation,
    read_runs,
    where_recorded,
)
from efficientad_lab.studies.table_files import Table, markdown_table

REPOSITORY = Path(__file__).resolve().parents[2]
EXPERIMENTS = Path(__file__).resolve().parent

_REGION = re.compile(
    r"(?P<open><!-- table: (?P<experiment>[a-z0-9_]+) -->\n)"
    r".*?"
    r"(?P<close><!-- end of table -->)",
    re.DOTALL,
)


Value = Callable[[Run], float | None]
"""Function that reads a number of a run, or None where the run has none."""

OWN = "this project"
"""Variant of this project in the experiment `peers`."""


def _metric(name: str, factor: float = 1) -> Value:
    """Return a function that reads a metric, times a factor."""

    def value(run: Run) -> float | None:
        measured = run["metrics"].get(name)
        return None if measured is None else factor * measured

    return value


def _share(part: str, whole: str) -> Value:
    """Return a function that reads a number of images as percent of another one."""

    def value(run: Run) -> float | None:
        return 100 * run[part] / run[whole] if run.get(whole) else None

    return value


def _training_minutes(run: Run) -> float | None:
    seconds = run.get("seconds", {}).get("train")
    is_known = seconds is not None and not run.get("interrupted", False)
    return seconds / 60 if is_known else None


def _images_trained_on(run: Run) -> float | None:
    """Return how many images a peer was trained on; our own steps count images."""
    peer = run.get("peer")
    if peer is None:
        return None
    batch = 1 if run["variant"] == OWN else peer["batch"]
    return float(peer["steps"] * batch)


class Column(NamedTuple):
    """A measured column: its heading, its value in a run, the digits to show."""

    heading: str
    value: Value
    digits: int


COLUMNS = (
    Column("image AU-ROC, %", _metric("image_au_roc", 100), 1),
    Column("AU-ROC, held-out normal, %", _metric("image_au_roc_held_out", 100), 1),
    Column("defects found, %", _share("n_defects_found", "n_defect"), 1),
    Column("false alarms, %", _share("n_normal_flagged", "n_normal"), 1),
    Column("defects found, mean of products, %", _metric("share_found", 100), 1),
    Column("false alarms there, %", _metric("share_of_false_alarms", 100), 1),
    Column("second session, %", _metric("session_alarms", 100), 1),
    Column("image AP, %", _metric("image_average_precision", 100), 1),
    Column("pixel AU-ROC, %", _metric("pixel_au_roc", 100), 1),
    Column("AU-PRO, %", _metric("au_pro", 100), 1),
    Column("training, min", _training_minutes, 1),
    Column("images of training", _images_trained_on, 0),
    Column("cases", _metric("n_cases"), 0),
    Column("as defined", _metric("n_as_defined"), 0),
    Column("done", _metric("n_done"), 0),
    Column("some images failed", _metric("n_some_failed"), 0),
    Column("refused", _metric("n_refused"), 0),
    Column("commands", _metric("n_commands"), 0),
    Column("read", _metric("n_read"), 0),
    Column("findings", _metric("n_findings"), 0),
    Column("kills", _metric("n_kills"), 0),
    Column("killed at work", _metric("n_killed_at_work"), 0),
    Column("same results", _metric("n_equal"), 0),
    Column("half results", _metric("n_half_results"), 0),
    Column("left behind", _metric("n_left_behind"), 0),
    Column("streams", _metric("n_streams"), 0),
    Column("alarms", _metric("n_alarms"), 0),
    Column("alarms allowed", _metric("n_alarms_allowed"), 1),
    Column("parts to the alarm, median", _metric("median_delay"), 0),
    Column("seconds", _metric("command_seconds"), 2),
    Column("processor seconds", _metric("processor_seconds"), 1),
    Column("epochs", _metric("epochs"), 1),
    Column("epochs prescribed", _metric("epochs_prescribed"), 0),
    Column("fit, processor min", _metric("fit_processor_seconds", 1 / 60), 1),
    Column("processor ms an image", _metric("processor_milliseconds"), 0),
    Column("GFLOP", _metric("gflop"), 1),
    Column("ms an image", _metric("milliseconds"), 1),
    Column("images a second", _metric("images_per_second"), 1),
    Column("parameters, M", _metric("millions_of_numbers"), 1),
    Column("peak MiB", _metric("peak_memory_mib"), 0),
    Column("before, ms", _metric("before"), 2),
    Column("after, ms", _metric("after"), 2),
    Column("times faster", _metric("speedup"), 2),
    Column("largest difference, 10⁻⁶", _metric("largest_relative_difference", 1e6), 1),
    Column(
        "of the map's largest value, 10⁻⁶",
        _metric("largest_difference_of_largest_value", 1e6),
        1,
    ),
    Column("images", _metric("n_images"), 0),
    Column("image AU-ROC lost, points", _metric("lost_image_au_roc"), 3),
    Column("AU-PRO lost, points", _metric("lost_au_pro"), 3),
)


def _table_3(runs: Sequence[Run]) -> Table:
    config = StudyConfig(sizes=("small",), seeds=(0,), preset="quick")
    return ablation.table_of(3, "small", config, runs)


class View(NamedTuple):
    """Some rows and columns of the table of an experiment."""

    experiment: str
    is_shown: Callable[[Run], bool]
    columns: Sequence[Column]


def _images_per_second(run: Run) -> float:
    milliseconds: float = run["metrics"]["milliseconds"]
    return 1000 / milliseconds


_SHOWN_WAYS = ("native", "baseline", "OpenVINO int8", "anomalib")
_ACCURACY = (
    "image AU-ROC, %",
    "AU-ROC, held-out normal, %",
    "defects found, %",
    "false alarms, %",
    "training, min",
)

VIEWS = {
    "readme_accuracy": View(
        "main_job",
        lambda run: run["variant"].startswith("small"),
        [column for column in COLUMNS if column.heading in _ACCURACY],
    ),
    "readme_speed": View(
        "deployment_avx2",
        lambda run: (
            run["category"] == "bottle"
            and run["variant"] in {f"small, {way}" for way in _SHOWN_WAYS}
        ),
        [
            Column("ms an image", _metric("milliseconds"), 0),
            Column("images a second", _images_per_second, 1),
            Column("times faster", _metric("speedup"), 1),
        ],
    ),
}
"""Small tables of the README by name."""

PAPER_TABLES: dict[str, Callable[[Sequence[Run]], Table]] = {
    "ablation_3_small": _table_3
}


def table(runs: Sequence[Run], columns: Sequence[Column] = COLUMNS) -> str:
    """Return a Markdown table with a row for each category and variant.

    Columns that no run has are left out.
    """
    failed = [run for run in runs if not is_finished(run)]
    runs = [run for run in runs if is_finished(run)]
    if not runs and not failed:
        return "No run is recorded yet.\n"
    columns = [
        column
        for column in columns
        if any(column.value(run) is not None for run in runs)
    ]
    rows = []
    for row in dict.fromkeys(_row_of(run) for run in runs):
        members = [run for run in runs if _row_of(run) == row]
        cells = [_cell(column, members) for column in columns]
        n_measured = sum(bool(run["metrics"]) for run in members)
        rows.append((*row, *cells, str(n_measured)))
    head = ("category", "variant", *(column.heading for column in columns), "runs")
    made = Table("", where_recorded(runs + failed), head, tuple(rows), n_word_columns=2)
    said = "".join(f"\n- {line}" for line in _remarks(runs, failed))
    remarks = f"\n{said}\n" if said else ""
    return f"{markdown_table(made)}\n\n{made.note}\n{remarks}"


def _remarks(runs: Sequence[Run], failed: Sequence[Run]) -> list[str]:
    """Return remarks of the runs, and the reasons of failed ones."""
    remarks = [f"{run['variant']}: {run['remark']}" for run in runs if "remark" in run]
    reasons = [
        f"{run['category']}, {run['variant']}, seed {run['seed']}: failed: "
        f"{run[FAILURE]}"
        for run in failed
    ]
    return [*dict.fromkeys(remarks), *reasons]


def with_tables(text: str, runs: Sequence[Run]) -> str:
    """Return the text with every table written anew."""

    def region(match: re.Match[str]) -> str:
        name = match["experiment"]
        if name in PAPER_TABLES:
            made = PAPER_TABLES[name](runs)
            content = f"{markdown_table(made)}\n\n{made.note}\n"
        elif name in VIEWS:
            view = VIEWS[name]
            shown = [run for run in runs if run["experiment"] == view.experiment]
            content = table(list(filter(view.is_shown, shown)), view.columns)
        else:
            content = table([run for run in runs if run["experiment"] == name])
        return f"{match['open']}\n{content}\n{match['close']}"

    return _REGION.sub(region, text)


def documents() -> list[Path]:
    """Return the files that may ask for tables."""
    return [
        REPOSITORY / "README.md",
        *sorted((REPOSITORY / "docs").glob("*.md")),
        *sorted(EXPERIMENTS.glob("*/README.md")),
    ]


def recorded_runs() -> list[Run]:
    """Return the runs of all experiments."""
    return [
        run
        for folder in sorted(EXPERIMENTS.glob("*/results"))
        for run in read_runs(folder)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check all tables; the exit code is 1 where a check fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args(arguments).check
    runs = recorded_runs()
    stale = 0
    for document in documents():
        before = document.read_text(encoding="utf-8")
        after = with_tables(before, runs)
        if after == before:
            continue
        stale += 1
        name = document.relative_to(REPOSITORY)
        if check:
            print(f"{name}: a table differs from the recorded runs; run make tables")
        else:
            document.write_text(after, encoding="utf-8")
            print(f"{name}: written")
    return 1 if check and stale else 0


def _row_of(run: Run) -> tuple[str, str]:
    return (run["category"], run["variant"])


def _cell(column: Column, runs: Sequence[Run]) -> str:
    values = [value for run in runs if (value := column.value(run)) is not None]
    return mean_and_deviation(values, column.digits) if values else ""


if __name__ == "__main__":
    sys.exit(main())
