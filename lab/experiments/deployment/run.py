"""Every engine and precision of one trained detector, recorded: speed beside accuracy.

    python lab/experiments/deployment/run.py part.ead CATEGORY --work DIR

Exports the detector in each format and precision that this machine can have, measures
image AU-ROC and AU-PRO of each on the category, then calls all of them in turn in one
process, beside the plain baseline, so that a slower moment of the machine meets all.
What is timed is a prediction of one image of 256 x 256, pixels in, maps out.

DIR keeps the exports, and in `deployment.json` all that was measured so far: the same
command goes on after an interruption, but not with another detector, category, commit
or machine. When all is done each row becomes a recorded run
(`records.py`); `make tables` puts them into docs/deployment.md. What the machine cannot
have is left out; an export that was refused is recorded with the reason. With
`--repeats 0` only the accuracy is measured. `--anomalib` adds the speed of anomalib's
EfficientAd, as `efficientad benchmark` does.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from efficientad.cli.environment import commit, machine
from efficientad.engines.engine import Precision
from efficientad.errors import (
    ConfigError,
    ExportMismatchError,
    MissingDependencyError,
    ResultError,
)
from efficientad.evaluation.evaluate import evaluate
from efficientad.exports.export import SUFFIX_OF, export
from efficientad.images.rgb import INPUT_SIZE
from efficientad.inspection.opening import load
from efficientad.inspection.predictor import Predictor
from efficientad.model_files import export_metadata as metadata
from efficientad.storage import file_hash, write_atomically
from efficientad_lab.benchmark.anomalib_peer import AnomalibEngine
from efficientad_lab.benchmark.baseline import BaselineEngine
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
_ROUNDS: Final = 5  # between two writes of what was measured

OwnEngine = Literal["native", "native_bf16", "pytorch"]
OWN_ENGINES: Final[tuple[OwnEngine, ...]] = ("native", "native_bf16", "pytorch")

Openers = Mapping[str, Callable[[], Predictor]]
State = dict[str, dict[str, Any]]


class Way(NamedTuple):
    """An engine and a precision of an export."""

    format: str
    suffix: str
    precision: Precision

    @property
    def name(self) -> str:
        """In tables."""
        engine = "OpenVINO" if self.format == "openvino" else "ONNX Runtime"
        return f"{engine} {self.precision}"


WAYS: Final = tuple(
    Way(name, suffix, precision)
    for name, suffix in SUFFIX_OF.items()
    for precision in ("fp32", "fp16", "bf16", "int8")
)


def of_detector(model: Path, engine: OwnEngine | None) -> Predictor:
    """Open the detector with this package's layers, PyTorch's, or as the baseline."""
    predictor = load(model, device="cpu", engine=engine or "pytorch")
    assert predictor.detector is not None
    if engine is None:
        return replace(predictor, engine=BaselineEngine(predictor.detector))
    if engine not in available_engines(predictor.detector):
        raise ConfigError(f"{engine} does not work here; see `efficientad doctor`")
    return predictor


def accuracy(predictor: Predictor, category: Path) -> Mapping[str, float]:
    """Evaluate on the test images; anomalib's raw maps are those of the baseline."""
    if isinstance(predictor.engine, AnomalibEngine):
        return {}
    return evaluate(predictor, category).metrics


def exported(model: Path, category: Path, work: Path, way: Way) -> Predictor:
    """Export the detector, unless that was done before, and open the file."""
    path = work / f"{way.precision}{way.suffix}"
    predictor = load(model, device="cpu", engine="pytorch")
    if not path.is_file() or metadata.read(path).provenance != predictor.provenance:
        report = export(predictor, path, precision=way.precision, images=category)
        print(way.name, *report.lines(), sep="\n  ", flush=True)
    return load(path)


def opened(openers: Openers) -> tuple[dict[str, Predictor], dict[str, str]]:
    """Open what this machine can have, and say what it cannot.

    Returns:
        Predictors, and why exports were refused, by name.
    """
    found, refused = {}, {}
    for name, opener in openers.items():
        try:
            found[name] = opener()
        except ExportMismatchError as error:
            print(f"{name}: refused, {error}", flush=True)
            refused[name] = str(error)
        except (ConfigError, MissingDependencyError) as error:
            print(f"{name}: left out, {error}", flush=True)
    return found, refused


def measure(
    predictors: Mapping[str, Predictor],
    accuracy: Callable[[Predictor], Mapping[str, float]],
    state_file: Path,
    repeats: int,
    identity: Mapping[str, str],
) -> State:
    """Measure accuracy, then speed in turn; go on where the file says.

    Args:
        predictors: By name.
        accuracy: Gives the metrics of one.
        state_file: What was measured so far; written again and again.
        repeats: Timed predictions of each.
        identity: Of what is measured.

    Returns:
        The rows of these predictors.
    """
    kept = begun(state_file, identity)
    rows: State = kept["rows"]
    for name, predictor in predictors.items():
        row = rows.setdefault(name, {"metrics": {}, "milliseconds": []})
        if not row["metrics"]:
            row["metrics"] = dict(accuracy(predictor))
            write_atomically(state_file, json.dumps(kept).encode())
            print(name, row["metrics"], flush=True)
    # Times of another round met another moment of the machine: all have as many.
    state = {name: rows[name] for name in predictors}
    n_done = min((len(row["milliseconds"]) for row in state.values()), default=repeats)
    for row in state.values():
        del row["milliseconds"][n_done:]
    shape = (INPUT_SIZE, INPUT_SIZE, 3)
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    calls = {name: partial(_predict, p, image) for name, p in predictors.items()}
    while n_done < repeats:
        n = min(_ROUNDS, repeats - n_done)
        for name, timing in interleaved(calls, n).items():
            state[name]["milliseconds"] += timing.milliseconds
        n_done += n
        write_atomically(state_file, json.dumps(kept).encode())
    return state


def begun(state_file: Path, identity: Mapping[str, str]) -> dict[str, Any]:
    """Read what was measured so far; begin where there is nothing.

    Raises:
        ResultError: If it is of something else.
    """
    if not state_file.is_file():
        kept: dict[str, Any] = {"of": dict(identity), "rows": {}}
        write_atomically(state_file, json.dumps(kept).encode())
        return kept
    kept = json.loads(state_file.read_text(encoding="utf-8"))
    if kept.get("of") != identity:
        raise ResultError(
            f"{state_file} is of another detector, category, commit or machine; give "
            "another --work, or remove that folder"
        )
    return kept


def runs(state: State, refused: Mapping[str, str], common: Run) -> list[Run]:
    """Give a run for each row, with what it loses, and its ratio, to the first one.

    Args:
        state: What was measured; the baseline, where it is among them, is the first.
        refused: Why exports were refused.
        common: What the rows have in common; names become variants of its size.
    """
    first: dict[str, Any] = next(iter(state.values()), {})
    measured = {}
    for name, row in state.items():
        metrics = {k: row["metrics"][k] for k in METRICS if k in row["metrics"]}
        metrics |= {
            f"lost_{k}": 100 * (first["metrics"][k] - v) for k, v in metrics.items()
        }
        measured[name] = {"metrics": metrics}
        if row["milliseconds"]:
            timing = Timing(tuple(row["milliseconds"]))
            metrics["milliseconds"] = timing.median
            reference = Timing(tuple(first["milliseconds"]))
            metrics["speedup"] = reference.median / timing.median
            measured[name]["latency"] = timing.summary()
    failed = {name: {"metrics": {}, FAILURE: why} for name, why in refused.items()}
    size = common["settings"]["size"]
    return [
        common | {"variant": f"{size}, {name}"} | values
        for name, values in (measured | failed).items()
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
    parser.add_argument("--ways", nargs="+", help="those of the table; default: all")
    parser.add_argument("--anomalib", type=Path, help="the Python of its environment")
    given = parser.parse_args(arguments)
    results = given.results or EXPERIMENTS / given.experiment / "results"
    given.work.mkdir(parents=True, exist_ok=True)
    openers: dict[str, Callable[[], Predictor]] = {
        BASELINE: partial(of_detector, given.model, None)
    }
    if given.anomalib is not None:
        peer = Candidate(ANOMALIB, given.model, "cpu", anomalib=given.anomalib)
        openers[ANOMALIB] = peer.open
    for engine in OWN_ENGINES:
        openers[engine] = partial(of_detector, given.model, engine)
    for way in WAYS:
        openers[way.name] = partial(
            exported, given.model, given.category, given.work, way
        )
    if given.ways is not None:
        unknown = set(given.ways) - openers.keys()
        if unknown:
            parser.error(f"ways are {', '.join(openers)}, got {', '.join(unknown)}")
        openers = {name: openers[name] for name in openers if name in given.ways}
    state_file = given.work / "deployment.json"
    identity = {
        "detector": file_hash(given.model),
        "category": str(given.category.resolve()),
        "commit": commit(),
        "machine": machine(),
    }
    begun(state_file, identity)  # before exports are made, or taken as they are
    predictors, refused = opened(openers)
    state = measure(
        predictors,
        partial(accuracy, category=given.category),
        state_file,
        given.repeats,
        identity,
    )
    predictor = load(given.model, device="cpu", engine="pytorch")
    common: Run = {
        "experiment": given.experiment,
        "category": given.category.resolve().name,
        "seed": predictor.provenance["config"]["seed"],
        "settings": {
            "size": predictor.size,
            "steps": predictor.provenance["recipe"]["steps"],
            "niceness": os.nice(0),
        },
    }
    if ANOMALIB in predictors:
        peer_engine = predictors[ANOMALIB].engine
        assert isinstance(peer_engine, AnomalibEngine)
        common["anomalib"] = peer_engine.versions
    for run in runs(state, refused, common):
        print(write_run(run | environment(), results))
    return 0


def _predict(predictor: Predictor, image: Any) -> object:
    return predictor.predict(image).anomaly_map


if __name__ == "__main__":
    sys.exit(main())
