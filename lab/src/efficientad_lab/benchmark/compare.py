"""Latency, throughput, memory and cost of candidates, side by side.

The clock runs from the pixels of an image of 256 x 256 in memory to its combined map in
memory. On a CPU the candidates are called in turn in one process, so that a slower
moment of the machine meets all of them. On a GPU they are called one after the other as
in the paper's appendix on timing: 1000 calls to warm up and 1000 that count. The
machine's limit, matrix products, is measured in between. Peak memory is that of a
process of its own. Pixels are noise: their contents do not change the time.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

import numpy as np

from efficientad.cores import usable_cores
from efficientad.engines.engine import Precision
from efficientad.errors import ConfigError, ModelFileError
from efficientad.exports.comparison import relative_difference
from efficientad.images.rgb import INPUT_SIZE, RGBImage
from efficientad.inspection.predictor import Predictor
from efficientad.progress import Progress
from efficientad_lab.benchmark import hardware
from efficientad_lab.benchmark.candidates import ANOMALIB, Candidate, candidates
from efficientad_lab.benchmark.clock import Timing, consecutive, in_streams, interleaved
from efficientad_lab.benchmark.config import BenchmarkConfig
from efficientad_lab.benchmark.costs import network_cost
from efficientad_lab.benchmark.hardware import Peak
from efficientad_lab.benchmark.peak_memory import peak_memory_mib
from efficientad_lab.benchmark.report import (
    BenchmarkReport,
    EngineReport,
    speed_sentence,
)
from efficientad_lab.environment import environment

_CPU_REPEATS: Final = 50
_PAPER_REPEATS: Final = 1000
_MAX_STREAMS: Final = 8
_N_COMPARED: Final = 2
_GPU_PRODUCTS: Final = 20
_SECONDS_TO_A_RESULT: Final = 60

Work = Mapping[str, Callable[[], object]]


def benchmark(
    model: Path | str,
    exports: Sequence[Path | str] = (),
    config: BenchmarkConfig | None = None,
    *,
    on_stage: Callable[[str], None] = lambda _: None,
) -> BenchmarkReport:
    """Measure speed, memory and cost of a model with every engine.

    Args:
        model: A .ead file, for the baseline and every requested engine; or an exported
            file.
        exports: More exported files.
        config: Settings.
        on_stage: Called with the name of each stage.

    Raises:
        ConfigError: If a requested engine does not work on this machine, a file is
            given twice, or some candidates would run on the CPU and some on a GPU.
        ModelFileError: If a file cannot be used.
        MissingDependencyError: If a package of an engine is not installed.
    """
    config = config or BenchmarkConfig()
    model = Path(model)
    due = time.monotonic() + _SECONDS_TO_A_RESULT
    with TemporaryDirectory() as folder:
        on_stage("opening the models")
        found = candidates(model, [*map(Path, exports)], config, Path(folder))
        names = [candidate.name for candidate in found]
        if len(set(names)) < len(names):
            raise ConfigError(
                "a benchmark compares files of different names, got "
                f"{', '.join(names)}; give each one once, or rename one"
            )
        return _Measurement(model, found, config, on_stage, due).report()


class _Measurement:
    """One comparison, from open predictors to the report."""

    def __init__(
        self,
        model: Path,
        found: Sequence[Candidate],
        config: BenchmarkConfig,
        on_stage: Callable[[str], None],
        due: float,
    ) -> None:
        self.model, self.found, self.config = model, found, config
        self.on_stage, self.due = on_stage, due
        self.is_interrupted = False
        self.opened = {candidate.name: candidate.open() for candidate in found}
        self.device = _only_device(self.opened)
        default = _PAPER_REPEATS if self.device == "cuda" else _CPU_REPEATS
        self.repeats = config.repeats or default
        self.n_streams = config.streams or min(_MAX_STREAMS, usable_cores())
        self.n_calls = math.ceil(config.batch_size / self.n_streams)
        rng = np.random.default_rng(0)
        shape = (config.batch_size, INPUT_SIZE, INPUT_SIZE, 3)
        self.images = list(rng.integers(0, 256, shape, np.uint8))

    def report(self) -> BenchmarkReport:
        before = environment()
        differences = self._differences()
        latencies, limits = self._latencies()
        speeds = {name: latencies[name] for name in self.opened}
        self.on_stage(speed_sentence(self.model.name, speeds))
        self.due = math.inf
        batches: Mapping[str, Timing] = {}
        streams: Mapping[str, Timing] = {}
        memory: dict[str, dict[str, float] | None] = {}
        try:
            if not self.is_interrupted:
                batches = self._batches()
            if not self.is_interrupted:
                streams = self._streams()
            for candidate in self.found:
                if not self.is_interrupted:
                    memory[candidate.name] = self._memory(candidate)
        except KeyboardInterrupt:  # the rest of the report stays
            self.is_interrupted = True
        anomalib = self.opened.get(ANOMALIB)
        size = next(iter(self.opened.values())).size
        assert size is not None
        return BenchmarkReport(
            model=self.model.name,
            settings=asdict(self.config)
            | {
                "repeats": self.repeats,
                "streams": self.n_streams,
                ANOMALIB: anomalib and anomalib.provenance[ANOMALIB],
            },
            is_on_gpu=self.device == "cuda",
            n_images_of_streams=self.n_streams * self.n_calls,
            results=tuple(
                EngineReport(
                    name=name,
                    precision=predictor.precision,
                    flops=network_cost(size).flops,
                    latency=latencies[name],
                    batch=batches.get(name),
                    streams=streams.get(name),
                    peak_memory_mib=memory.get(name),
                    largest_difference=differences[name],
                )
                for name, predictor in self.opened.items()
            ),
            is_complete=not self.is_interrupted,
            limits=limits,
            cost=network_cost(size),
            environment=before,
        )

    def _differences(self) -> dict[str, float]:
        """Return the largest difference from the first candidate's maps."""
        images = self.images[:_N_COMPARED]
        grids = {
            name: np.stack([p.combined_grid for p in predictor.predict_batch(images)])
            for name, predictor in self.opened.items()
        }
        expected = next(iter(grids.values()))
        return {k: relative_difference(expected, v) for k, v in grids.items()}

    def _latencies(self) -> tuple[dict[str, Timing], dict[Precision, Peak]]:
        self.on_stage(f"latency: {', '.join(self.opened)}, each {self.repeats} times")
        work = self._work(self.opened, self.images[:1])
        products = hardware.matrix_products(self.device)
        multiply: Work = {product.name: product.run for product in products}
        if self.device == "cpu":
            timings = self._timed({**work, **multiply}, self.repeats, "latency")
        else:
            wait = hardware.wait_for(self.device)
            timings = self._timed(work, self.repeats, "latency") | {
                name: consecutive(run, _GPU_PRODUCTS, n_warm_up=1, wait=wait)
                for name, run in multiply.items()
            }
        return timings, hardware.peaks(products, timings)

    def _in_turns(self, work: Work, repeats: int, task: str) -> dict[str, Timing]:
        """Return the timings; on Ctrl-C those so far, if there are any.

        When a result is due, a sentence says what is known so far.
        """
        so_far: dict[str, Timing] = {}
        with closing(Progress(repeats, "turn", task=task)) as progress:

            def note(found: dict[str, Timing]) -> None:
                so_far.update(found)
                progress.update(len(next(iter(found.values())).milliseconds))
                if time.monotonic() > self.due:
                    self.due = math.inf
                    own = {name: found[name] for name in self.opened}
                    self.on_stage(f"so far: {speed_sentence(self.model.name, own)}")

            try:
                return interleaved(work, repeats, on_turn=note)
            except KeyboardInterrupt:
                if not so_far:
                    raise
                self.is_interrupted = True
                return so_far

    def _batches(self) -> dict[str, Timing]:
        self.on_stage(f"throughput: {self.config.batch_size} images a call")
        work = self._work(self.opened, self.images)
        return self._timed(work, self._fewer_repeats(), "batches")

    def _streams(self) -> dict[str, Timing]:
        self.on_stage(f"throughput: {self.n_streams} streams")
        ready = {candidate.name: self._ready(candidate) for candidate in self.found}
        work = {
            name: in_streams(predict, self.n_streams, self.n_calls)
            for name, predict in self._work(ready, self.images[:1]).items()
        }
        with hardware.shared_threads(self.n_streams):
            return self._timed(work, self._fewer_repeats(), "streams")

    def _ready(self, candidate: Candidate) -> Predictor:
        """Return the predictor as `predict --streams` would open it."""
        if candidate.is_opened_for_streams and self.n_streams > 1:
            return candidate.open(n_streams=self.n_streams)
        return self.opened[candidate.name]

    def _memory(self, candidate: Candidate) -> dict[str, float] | None:
        if not self.config.memory:
            return None
        self.on_stage(f"peak memory: {candidate.name}")
        try:
            return peak_memory_mib(candidate, self.config.batch_size)
        except ModelFileError as error:  # the times stay
            self.on_stage(f"not known: {error}")
            return None

    @staticmethod
    def _work(predictors: Mapping[str, Predictor], images: Sequence[RGBImage]) -> Work:
        return {
            name: partial(_predict, predictor, images)
            for name, predictor in predictors.items()
        }

    def _timed(self, work: Work, repeats: int, task: str) -> dict[str, Timing]:
        if self.device == "cpu":
            return self._in_turns(work, repeats, task)
        return {k: consecutive(f, repeats, n_warm_up=repeats) for k, f in work.items()}

    def _fewer_repeats(self) -> int:
        """Return repeats of about as many images; on a GPU as the paper does."""
        if self.device == "cuda":
            return self.repeats
        return math.ceil(self.repeats / self.config.batch_size)


def _only_device(opened: Mapping[str, Predictor]) -> Literal["cpu", "cuda"]:
    """Return the device of all candidates.

    Raises:
        ConfigError: If they run on several; protocol and limit depend on the device.
    """
    names: dict[str, list[str]] = {"cpu": [], "cuda": []}
    for name, predictor in opened.items():
        names[predictor.engine.device].append(name)
    if names["cpu"] and names["cuda"]:
        raise ConfigError(
            f"a benchmark measures one device, got {', '.join(names['cpu'])} on the "
            f"CPU and {', '.join(names['cuda'])} on CUDA; give --device cpu or "
            "--device cuda, or leave some out"
        )
    return "cuda" if names["cuda"] else "cpu"


def _predict(predictor: Predictor, images: Sequence[RGBImage]) -> None:
    """Predict and draw the combined maps, which a prediction leaves for later."""
    for prediction in predictor.predict_batch(images):
        _ = prediction.anomaly_map
