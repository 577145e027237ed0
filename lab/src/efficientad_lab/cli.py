"""The verbs of the lab, which `efficientad.cli` finds by their entry points."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from efficientad.cli import BAD_INPUT, INTERRUPTED, OK, SOME_FAILED
from efficientad.cli.printing import print_lines, settings_lines
from efficientad.errors import EfficientADError
from efficientad.executors.config import ExecutorConfig
from efficientad_lab.benchmark.config import BenchmarkConfig
from efficientad_lab.figures.config import FigureConfig
from efficientad_lab.studies.config import PaperTable, StudyConfig

if TYPE_CHECKING:
    from efficientad_lab.studies.jobs import Job


def reproduce(
    roots: tuple[Path, ...],
    /,
    *,
    output: Path,
    config: StudyConfig,
    workers: ExecutorConfig,
) -> int:
    """Train and evaluate all scenarios, sizes and seeds: the paper's Tables 1 and 2.

    The same command again skips finished runs and continues a killed one. The exit code
    is 1 if a run failed and 2 if its input was bad; the other runs are still done.

    Args:
        roots: Category folders, collections of them, or folders of collections.
        output: Folder for the recorded runs, reproduce.md and reproduce.html.
        config: Settings of the study.
        workers: Executor of its trainings.
    """
    from efficientad_lab.studies.reproduce import EXPERIMENT
    from efficientad_lab.studies.reproduce import reproduce as reproduce_scenarios

    print_lines(*settings_lines(config, {}), on_stderr=True)
    failures = reproduce_scenarios(
        roots, output, config, on_done=_print_end, executor=workers
    )
    print_lines(f"see {output / EXPERIMENT}.html")
    return _code_of(failures)


def ablate(
    roots: tuple[Path, ...],
    /,
    *,
    output: Path,
    tables: tuple[PaperTable, ...] = (3, 4, 5),
    config: StudyConfig,
    workers: ExecutorConfig,
) -> int:
    """Measure the effect of each part of the method: the paper's Tables 3, 4 and 5.

    The same command again skips finished runs and continues a killed one. The exit code
    is 1 if a run failed and 2 if its input was bad; the other runs are still done.

    Args:
        roots: Category folders, collections of them, or folders of collections.
        output: Folder for the recorded runs, ablation.md and ablation.html.
        tables: Tables of the paper: 3 quantiles, 4 cumulative, 5 isolated.
        config: Settings of the study.
        workers: Executor of its trainings.
    """
    from efficientad_lab.studies.ablation import EXPERIMENT
    from efficientad_lab.studies.ablation import ablate as ablate_scenarios

    print_lines(*settings_lines(config, {}), on_stderr=True)
    failures = ablate_scenarios(
        roots,
        output,
        config,
        tables=tables,
        on_done=_print_end,
        executor=workers,
    )
    print_lines(f"see {output / EXPERIMENT}.html")
    return _code_of(failures)


def figures(results: Path, /, *, config: FigureConfig) -> int:
    """Draw the paper's figures from recorded runs, as PDF and PNG.

    The exit code is 1 if the runs of a figure are missing; the others are drawn.

    Args:
        results: Folder of recorded runs that reproduce has written.
        config: Settings of the figures.
    """
    from efficientad_lab.figures.drawing import draw_figures

    drawn, missing = draw_figures(results, config)
    for path in drawn:
        print_lines(f"wrote {path}")
    for reason in missing:
        print_lines(f"efficientad: {reason}", on_stderr=True)
    return SOME_FAILED if missing else OK


def _print_end(job: "Job", error: Exception | None) -> None:
    """Print the end of a job."""
    name = f"{job.category.name}, {job.variant}, seed {job.config.seed}"
    if error is None:
        print_lines(f"{name}: recorded")
    else:
        reason = f"{type(error).__name__}: {error}"
        print_lines(f"efficientad: {name} failed: {reason}", on_stderr=True)


def _code_of(failures: Sequence[Exception]) -> int:
    if any(isinstance(error, EfficientADError) for error in failures):
        return BAD_INPUT
    return SOME_FAILED if failures else OK


def benchmark(
    model: Path,
    exports: tuple[Path, ...] = (),
    /,
    *,
    output: Path | None = None,
    config: BenchmarkConfig,
) -> int:
    """Measure speed, memory and cost of every engine, compared with the plain networks.

    After a Ctrl-C, what is measured so far is printed and written.

    Args:
        model: Detector file or exported file.
        exports: More exported files to measure.
        output: JSON file to write. None: only the tables are printed.
        config: Settings of the benchmark.
    """
    from efficientad.storage import require_writable
    from efficientad_lab.benchmark.compare import benchmark as measure

    if output is not None:
        require_writable(output, may_be_device=True)
    on_stage = logging.getLogger("efficientad").info  # above a progress bar
    report = measure(model, exports, config, on_stage=on_stage)
    if output is not None:
        report.write(output)
    print(report.text())
    return OK if report.is_complete else INTERRUPTED
