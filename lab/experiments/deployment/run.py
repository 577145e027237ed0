"""Every engine and precision of one trained detector: speed beside accuracy.

    python lab/experiments/deployment/run.py part.ead CATEGORY --work DIR

The detector is exported in each format and precision that this machine can have. Image
AU-ROC and AU-PRO of each are measured on the category. Then all predict one image of
256 x 256 in turn in one process, beside the plain networks, so that a slower moment of
the machine meets all of them.

DIR gets the exports and `deployment.json` with the measurements so far. The same
command continues after an interruption, but not with another detector, category, commit
or machine. Each row becomes a recorded run in the end; a refused export is recorded
with the reason. With `--repeats 0` only the accuracy is measured. `--anomalib` adds the
speed of anomalib's EfficientAd.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from efficientad.cli.environment import commit, machine
from efficientad.engines.engine import Precision
from efficientad.errors import (
    ConfigError,
    ExportMismatchError,
    MissingDependencyError,
    ResultError,
)
from efficientad.evaluation.evaluate import evaluate
from efficientad.exports.export import export
from efficientad.images.rgb import INPUT_SIZE
from efficientad.inspection.opening import load
from efficientad.inspection.predictor import Predictor
from efficientad.model_files import export_metadata
from efficientad.storage import file_hash, write_atomically
from efficientad_lab.benchmark.candidates import (
    ANOMALIB,
    BASELINE,
    Candidate,
    available_engines,
)
from efficientad_lab.benchmark.clock import Timing, interleaved
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import FAILURE, Run, write_run

EXPERIMENTS = Path(__file__).resolve().parents[1]
METRICS: Final = ("image_au_roc", "au_pro")
SUFFIXES: Final = {"ONNX Runtime": ".onnx", "OpenVINO": ".xml"}
_ROUNDS: Final = 5  # between two writes of the measurements

Openers = Mapping[str, Callable[[], Predictor]]
Rows = dict[str, dict[str, Any]]


def openers(options: argparse.Namespace) -> dict[str, Callable[[], Predictor]]:
    """Return a function for each row that opens its predictor, the baseline first."""
    model = options.model
    found = [Candidate(BASELINE, model, "cpu", plain="fp32")]
    if options.anomalib is not None:
        found.append(Candidate(ANOMALIB, model, "cpu", anomalib=options.anomalib))
    detector = load(model, device="cpu").detector
    if detector is None:
        raise ConfigError(f"needed a .ead file, got the export {model}")
    found += [Candidate(e, model, "cpu", e) for e in available_engines(detector)]
    opener: dict[str, Callable[[], Predictor]] = {c.name: c.open for c in found}
    return opener | {
        f"{name} {precision}": partial(
            exported, options, options.work / f"{precision}{suffix}", precision
        )
        for name, suffix in SUFFIXES.items()
        for precision in get_args(Precision)
    }


def exported(
    options: argparse.Namespace, path: Path, precision: Precision
) -> Predictor:
    """Export the detector, unless that was done before, and open the file."""
    predictor = load(options.model, device="cpu")
    if not (
        path.is_file() and export_metadata.read(path).provenance == predictor.provenance
    ):
        report = export(predictor, path, precision=precision, images=options.category)
        print(path.name, *report.lines(), sep="\n  ", flush=True)
    return load(path)


def opened(found: Openers) -> tuple[dict[str, Predictor], dict[str, str]]:
    """Open the predictors that this machine can have, and print the others.

    Returns:
        Predictors, and reasons of refused exports, by name.
    """
    predictors, refused = {}, {}
    for name, opener in found.items():
        try:
            predictors[name] = opener()
        except ExportMismatchError as error:
            print(f"{name}: refused, {error}", flush=True)
            refused[name] = str(error)
        except (ConfigError, MissingDependencyError) as error:
            print(f"{name}: left out, {error}", flush=True)
    return predictors, refused


def accuracy(predictor: Predictor, category: Path) -> Mapping[str, float]:
    """Evaluate a predictor; anomalib's raw maps are the baseline's."""
    if ANOMALIB in predictor.provenance:
        return {}
    return evaluate(predictor, category).metrics


def measure(
    predictors: Mapping[str, Predictor],
    accuracy: Callable[[Predictor], Mapping[str, float]],
    state_file: Path,
    repeats: int,
    identity: Mapping[str, str],
) -> Rows:
    """Measure accuracy, then speed in turn, and continue where the file ends.

    Args:
        predictors: Predictors by name.
        accuracy: Function that returns the metrics of one.
        state_file: File of the measurements so far.
        repeats: Timed predictions of each.
        identity: Identity of the measured detector, category, commit and machine.

    Returns:
        The rows of these predictors.
    """
    state = begun(state_file, identity)
    all_rows: Rows = state["rows"]
    for name, predictor in predictors.items():
        row = all_rows.setdefault(name, {"metrics": {}, "milliseconds": []})
        if not row["metrics"]:
            row["metrics"] = dict(accuracy(predictor))
            write_atomically(state_file, json.dumps(state).encode())
            print(name, row["metrics"], flush=True)
    # Rows have equally many times: others were taken at another moment of the machine.
    rows = {name: all_rows[name] for name in predictors}
    n_done = min((len(row["milliseconds"]) for row in rows.values()), default=repeats)
    for row in rows.values():
        del row["milliseconds"][n_done:]
    shape = (INPUT_SIZE, INPUT_SIZE, 3)
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    calls = {name: partial(_predict, p, image) for name, p in predictors.items()}
    while n_done < repeats:
        n = min(_ROUNDS, repeats - n_done)
        for name, timing in interleaved(calls, n).items():
            rows[name]["milliseconds"] += timing.milliseconds
        n_done += n
        write_atomically(state_file, json.dumps(state).encode())
    return rows


def begun(state_file: Path, identity: Mapping[str, str]) -> dict[str, Any]:
    """Read the measurements so far; begin a file where there is none.

    Raises:
        ResultError: If they have another identity.
    """
    if not state_file.is_file():
        state: dict[str, Any] = {"of": dict(identity), "rows": {}}
        write_atomically(state_file, json.dumps(state).encode())
        return state
    state = json.loads(state_file.read_text(encoding="utf-8"))
    if state.get("of") != identity:
        raise ResultError(
            f"{state_file} is of another detector, category, commit or machine; give "
            "another --work, or remove that folder"
        )
    return state


def runs(rows: Rows, refused: Mapping[str, str], common: Run) -> list[Run]:
    """Return a run for each row, with its loss and its ratio to the first row.

    Args:
        rows: Measurements; the baseline, if it is among them, is the first.
        refused: Reasons of refused exports.
        common: Fields that all runs share; names become variants of its size.
    """
    first: dict[str, Any] = next(iter(rows.values()), {})
    found = {}
    for name, row in rows.items():
        metrics = {k: row["metrics"][k] for k in METRICS if k in row["metrics"]}
        metrics |= {
            f"lost_{k}": 100 * (first["metrics"][k] - v) for k, v in metrics.items()
        }
        found[name] = {"metrics": metrics}
        if row["milliseconds"]:
            timing = Timing(tuple(row["milliseconds"]))
            reference = Timing(tuple(first["milliseconds"]))
            metrics["milliseconds"] = timing.median
            metrics["speedup"] = reference.median / timing.median
            found[name]["latency"] = timing.summary()
    failed = {name: {"metrics": {}, FAILURE: why} for name, why in refused.items()}
    size = common["settings"]["size"]
    return [
        common | {"variant": f"{size}, {name}"} | values
        for name, values in (found | failed).items()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("category", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--experiment", default="deployment")
    parser.add_argument("--results", type=Path, help="default: of the experiment")
    parser.add_argument("--ways", nargs="+", help="rows to measure; default: all")
    parser.add_argument("--anomalib", type=Path, help="Python of its environment")
    options = parser.parse_args(arguments)
    results = options.results or EXPERIMENTS / options.experiment / "results"
    options.work.mkdir(parents=True, exist_ok=True)
    found = openers(options)
    if options.ways is not None:
        unknown = set(options.ways) - found.keys()
        if unknown:
            parser.error(f"ways are {', '.join(found)}, got {', '.join(unknown)}")
        found = {name: found[name] for name in found if name in options.ways}
    state_file = options.work / "deployment.json"
    identity = {
        "detector": file_hash(options.model),
        "category": str(options.category.resolve()),
        "commit": commit(),
        "machine": machine(),
    }
    begun(state_file, identity)  # before exports are made or reused
    predictors, refused = opened(found)
    evaluated = partial(accuracy, category=options.category)
    rows = measure(predictors, evaluated, state_file, options.repeats, identity)
    trained = load(options.model, device="cpu")
    peer = predictors.get(ANOMALIB)
    common: Run = {} if peer is None else {ANOMALIB: peer.provenance[ANOMALIB]}
    common |= {
        "experiment": options.experiment,
        "category": options.category.resolve().name,
        "seed": trained.provenance["config"]["seed"],
        "settings": {
            "size": trained.size,
            "steps": trained.provenance["recipe"]["steps"],
            "niceness": os.nice(0),
        },
    }
    for run in runs(rows, refused, common):
        print(write_run(run | environment(), results))
    return 0


def _predict(predictor: Predictor, image: NDArray[np.uint8]) -> None:
    _ = predictor.predict(image).anomaly_map


if __name__ == "__main__":
    sys.exit(main())
