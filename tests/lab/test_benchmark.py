"""The reports of a benchmark; how long things take is never tested."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.fake_engines import brightness_predictor

import efficientad
from efficientad.cli import main as cli
from efficientad.engines.engine import EngineOutput
from efficientad.errors import ConfigError, ModelFileError, StorageError
from efficientad_lab import cli as lab_cli
from efficientad_lab.benchmark import candidates as candidates_module
from efficientad_lab.benchmark import clock, hardware, memory
from efficientad_lab.benchmark import compare as benchmark_module
from efficientad_lab.benchmark.candidates import (
    Candidate,
    available_engines,
    candidates,
)
from efficientad_lab.benchmark.clock import Timing
from efficientad_lab.benchmark.compare import benchmark
from efficientad_lab.benchmark.config import BenchmarkConfig
from efficientad_lab.benchmark.costs import network_cost
from efficientad_lab.benchmark.hardware import Peak
from efficientad_lab.benchmark.peak_memory import peak_memory_mib
from efficientad_lab.benchmark.report import (
    BenchmarkReport,
    EngineReport,
    speed_sentence,
)

TINY = BenchmarkConfig(repeats=1, batch_size=2, streams=1, memory=False)


# The clock


def test_functions_are_called_in_turn_and_the_first_turn_does_not_count():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "ab"}

    timings = clock.interleaved(functions, 2)

    assert calls == list("ababab")
    assert {name: len(t.milliseconds) for name, t in timings.items()} == {
        "a": 2,
        "b": 2,
    }


def test_the_clock_stops_when_the_device_is_done():
    events = []

    timing = clock.consecutive(
        lambda: events.append("run"),
        2,
        n_warm_up=1,
        wait=lambda: events.append("wait"),
    )

    assert events == ["run", *["wait", "run", "wait"] * 2]
    assert len(timing.milliseconds) == 2


def test_streams_run_at_the_same_time():
    """Each call waits for another thread's: a single thread would wait for ever."""
    both = threading.Barrier(2, timeout=60)
    n_calls = []

    def meet():
        both.wait()
        n_calls.append(1)

    clock.in_streams(meet, n_streams=2, n_calls=3)()

    assert len(n_calls) == 6


def test_a_failure_in_a_stream_is_not_lost():
    with pytest.raises(ZeroDivisionError):
        clock.in_streams(lambda: 1 / 0, n_streams=2, n_calls=1)()


def test_quantiles_of_a_timing():
    timing = Timing((4.0, 1.0, 2.0, 3.0, 5.0))

    assert timing.summary() == {
        "n": 5,
        "p50": 3.0,
        "p99": pytest.approx(4.96),
        "p25": 2.0,
        "p75": 4.0,
        "mean": 3.0,
    }
    assert timing.fastest == 1.0


# Costs


@pytest.mark.parametrize(
    ("size", "n_parameters", "flops"),
    [("small", 8.06e6, 75.9e9), ("medium", 20.74e6, 235.4e9)],
)
def test_costs_are_those_of_the_paper(size, n_parameters, flops):
    cost = network_cost(size)

    assert cost.n_parameters == pytest.approx(n_parameters, rel=1e-3)
    assert cost.flops == pytest.approx(flops, rel=1e-3)


def test_a_layer_is_counted_by_its_definition():
    second = network_cost("small").layers[3]

    assert (second.network, second.name) == ("teacher", "conv 4x4, 128 to 256")
    assert second.output == (256, 123, 123)
    assert second.n_parameters == 256 * (128 * 16 + 1)
    assert second.flops == 2 * 256 * 123**2 * 128 * 16


# The machine's limit


def product(precision, engine="PyTorch", n=10):
    return hardware.MatrixProduct(precision, engine, n, lambda: None)


def test_a_limit_is_that_of_the_fastest_product():
    products = [product("fp32"), product("int8"), product("int8", "ONNX Runtime")]
    times = {"fp32": (4.0, 2.0), "int8": (8.0, 9.0)}
    timings = {p.name: Timing(times[p.precision]) for p in products[:2]}
    timings[products[2].name] = Timing((1.0, 7.0))

    limits = hardware.peaks(products, timings)

    assert limits["fp32"].flops_per_second == pytest.approx(2 * 10**3 / 2e-3)
    assert limits["int8"].engine == "ONNX Runtime"
    assert limits["int8"].flops_per_second == pytest.approx(2 * 10**3 / 1e-3)


def test_a_precision_that_is_slow_here_has_the_limit_of_single_precision():
    products = [product("fp32"), product("bf16")]
    timings = {p.name: Timing((t,)) for p, t in zip(products, (1.0, 50.0), strict=True)}

    assert hardware.peaks(products, timings)["bf16"].precision == "fp32"


def test_products_of_all_precisions_can_be_run(monkeypatch):
    monkeypatch.setattr(hardware, "_SMALLEST", {"cpu": 32})
    monkeypatch.setattr(hardware, "_LARGEST", {"cpu": 64})

    products = hardware.matrix_products("cpu")

    assert {p.precision for p in products} == {"fp32", "fp16", "bf16", "int8"}
    assert all(p.n in {32, 64} for p in products)


def test_integer_products_are_right():
    run: Callable[[], Any] = hardware._onnx_int8(32)

    (result,) = run()

    rng = np.random.default_rng(0)
    weights = rng.integers(-63, 64, (32, 32), dtype=np.int8)
    left = rng.integers(0, 256, (32, 32), dtype=np.uint8)
    np.testing.assert_array_equal(result, left.astype(int) @ weights.astype(int))


def test_streams_share_the_threads_and_give_them_back():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with hardware.shared_threads(3):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


# The baseline


# The comparison, with predictors that compute nothing


class ConstantEngine:
    """An engine that computes the same value for every image, and notes the batches."""

    is_concurrent = True

    def __init__(self, value, precision="fp32", device="cpu"):
        self.value, self.precision, self.device = value, precision, device
        self.n_images = []

    def run(self, pixels):
        self.n_images.append(len(pixels))
        grids = np.full((len(pixels), 56, 56), self.value, np.float32)
        return EngineOutput({"local": grids, "global": grids})


def constant(value, *settings):
    """Return a predictor of a constant combined map."""
    engine: Any = ConstantEngine(value, *settings)
    return replace(brightness_predictor(), engine=engine)


@pytest.fixture
def fakes(monkeypatch):
    """Two predictors, the second of which differs by a twentieth, as candidates."""
    fakes = {"one": constant(2.0), "other": constant(2.1, "int8")}
    found = [Candidate(name, Path("part.ead")) for name in fakes]
    monkeypatch.setattr(benchmark_module, "candidates", lambda *_: found)
    monkeypatch.setattr(Candidate, "open", lambda self, **_: fakes[self.name])
    monkeypatch.setattr(
        hardware, "matrix_products", lambda _: [product("fp32"), product("int8")]
    )
    return fakes


@pytest.fixture
def measured(fakes):
    """A report about them."""
    stages: list[str] = []
    report = benchmark(Path("part.ead"), (), TINY, on_stage=stages.append)
    return report, fakes, stages


def test_the_report_tells_all_that_was_measured(measured):
    report, fakes, stages = measured
    content = json.loads(json.dumps(report.as_json(), allow_nan=False))

    one, other = content["engines"]
    assert [one["engine"], other["engine"]] == ["one", "other"]
    assert one["speedup"] == 1
    assert one["largest_difference"] == 0
    assert other["largest_difference"] == pytest.approx(0.05)
    assert other["precision"] == "int8"
    assert one["latency_ms"]["n"] == 1
    assert one["peak_memory_mib"] is None
    assert content["cost"]["n_parameters"] == 8_057_856
    assert len(content["cost"]["layers"]) == 57
    assert set(content["limits"]) == {"fp32", "fp16", "bf16", "int8"}
    assert content["settings"]["repeats"] == 1
    assert {"machine", "versions", "commit", "load"} <= set(content)
    assert any("latency: one, other" in stage for stage in stages)
    # Compared on two images; then each once to warm up: latency, batch, stream.
    assert fakes["one"].engine.n_images == [2, 1, 1, 2, 2, 1, 1, 1, 1]


@pytest.fixture
def opened(monkeypatch):
    """The settings of opened files, whose predictors compute nothing."""
    asked = []

    def load(path, **settings):
        asked.append((path.name, settings))
        return constant(2.0)

    monkeypatch.setattr(candidates_module, "load", load)
    monkeypatch.setattr(hardware, "matrix_products", lambda _: [product("fp32")])
    return asked


@pytest.mark.parametrize(("streams", "expected"), [(3, [1, 1, 3, 3]), (1, [1, 1])])
def test_exports_get_ready_for_the_streams_they_are_measured_with(
    opened, streams, expected
):
    config = BenchmarkConfig(repeats=1, batch_size=3, streams=streams, memory=False)

    benchmark(Path("part.onnx"), [Path("part.xml")], config)

    assert [settings["n_streams"] for _, settings in opened] == expected
    assert {name for name, _ in opened} == {"part.onnx", "part.xml"}


def test_speeds_are_ratios_to_the_first(measured):
    report, _, _ = measured
    slow, fast = Timing((100.0,)), Timing((25.0,))
    cost = network_cost("small")
    results = tuple(
        EngineReport(
            name=name,
            precision="fp32",
            flops=cost.flops,
            latency=timing,
            batch=timing,
            streams=timing,
            peak_memory_mib={"opened": 10.0, "batch": 300.4},
            largest_difference=0.0,
        )
        for name, timing in (("one", slow), ("other", fast))
    )
    limit = Peak("fp32", "PyTorch", 1000, Timing((1.0, 2.0)))
    report = BenchmarkReport(
        model="part.ead",
        settings={"batch_size": 2, "streams": 3},
        is_on_gpu=False,
        n_images_of_streams=6,
        results=results,
        is_complete=True,
        limits={"fp32": limit},
        cost=cost,
        environment={"machine": "a machine"},
    )

    other = report.as_json()["engines"][1]
    assert other["speedup"] == 4
    assert other["images_per_second_of_batch"] == 80
    assert other["images_per_second_of_streams"] == 240
    assert other["flops_per_second"] == pytest.approx(75.9e9 / 0.025, rel=1e-3)
    assert other["share_of_limit"] == pytest.approx(75.9e9 / 0.025 / 2e12, rel=1e-3)
    last = report.table().splitlines()[-1].split()
    assert last == [
        *("other", "fp32", "25.0", "25.0", "-", "25.0", "25.0", "4.00", "80.0", "4.00"),
        *("240.0", "4.00", "300", "3035.8", "151.8", "0.0e+00"),
    ]


@pytest.mark.parametrize(
    ("milliseconds", "sentence"),
    [
        (
            {"baseline": 1120.0, "native": 140.0, "openvino": 200.0},
            "7.1 pictures a second on this machine by native, 8 times the plain",
        ),
        (
            {"baseline": 50.0, "native": 100.0},
            "20 pictures a second on this machine by",
        ),
        ({"a.onnx": 40.0}, "25 pictures a second on this machine by a.onnx"),
    ],
)
def test_a_sentence_tells_the_speed(milliseconds, sentence):
    latencies = {name: Timing((time,)) for name, time in milliseconds.items()}

    assert speed_sentence("part.ead", latencies).startswith(f"part.ead: {sentence}")


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize("stage", ["_batches", "_streams", "_memory"])
def test_what_is_measured_before_ctrl_c_is_kept(monkeypatch, stage):
    monkeypatch.setattr(benchmark_module._Measurement, stage, interrupt)

    report = benchmark(Path("part.ead"), (), TINY)

    assert not report.is_complete
    one, _ = json.loads(json.dumps(report.as_json()))["engines"]
    assert one["latency_ms"]["n"] == 1
    assert (one["images_per_second_of_batch"] is None) == (stage == "_batches")
    assert (one["images_per_second_of_streams"] is None) == (stage != "_memory")
    assert report.table().splitlines()[1].startswith("one")


def test_ctrl_c_after_a_turn_ends_with_the_turns_before_it(fakes, monkeypatch):
    engine = fakes["other"].engine
    run = engine.run

    def third_time(pixels):
        return run(pixels) if len(engine.n_images) < 3 else interrupt()

    monkeypatch.setattr(engine, "run", third_time)

    report = benchmark(Path("part.ead"), (), replace(TINY, repeats=5))

    assert [len(r.latency.milliseconds) for r in report.results] == [1, 1]
    assert report.results[0].batch is None


def test_ctrl_c_before_any_result_is_an_interrupt(fakes, monkeypatch):
    monkeypatch.setattr(fakes["one"].engine, "run", interrupt)

    with pytest.raises(KeyboardInterrupt):
        benchmark(Path("part.ead"), (), TINY)


@pytest.mark.usefixtures("fakes")
def test_after_a_minute_a_sentence_says_what_is_known(monkeypatch):
    monkeypatch.setattr(benchmark_module, "_SECONDS_TO_A_RESULT", -1)
    stages: list[str] = []

    benchmark(Path("part.ead"), (), replace(TINY, repeats=3), on_stage=stages.append)

    assert sum(stage.startswith("so far: part.ead: ") for stage in stages) == 1


def test_the_text_has_the_tables(measured):
    report, _, _ = measured

    text = report.text()

    assert text.startswith("part.ead: ")
    assert "images/s by 2" in text
    assert "limit of int8" in text
    assert "plain networks, small: 8.06 M parameters, 75.9 GFLOP an image" in text


@pytest.mark.parametrize(
    ("devices", "is_refused"), [(["cuda", "cpu"], True), (["cuda", "cuda"], False)]
)
def test_all_that_is_compared_runs_on_one_device(devices, is_refused):
    names = ("baseline", "native")
    opened = {
        name: constant(2.0, "fp32", device)
        for name, device in zip(names, devices, strict=True)
    }

    if not is_refused:
        assert benchmark_module._only_device(opened) == "cuda"
        return
    with pytest.raises(ConfigError, match="got native on the CPU and baseline on CUDA"):
        benchmark_module._only_device(opened)


def test_the_report_tells_which_anomalib_was_measured(measured, monkeypatch):
    _, fakes, _ = measured
    provenance = {"anomalib": {"anomalib": "2.7.0"}}
    fakes["anomalib"] = replace(constant(2.0), provenance=provenance)
    found = [Candidate("anomalib", Path("part.ead"), anomalib=Path("python"))]
    monkeypatch.setattr(benchmark_module, "candidates", lambda *_: found)
    config = replace(TINY, anomalib=Path("python"))

    content = benchmark(Path("part.ead"), (), config).as_json()

    assert content["settings"]["anomalib"] == {"anomalib": "2.7.0"}
    json.dumps(content)


def test_memory_that_cannot_be_measured_costs_nothing_else(monkeypatch):
    def fail(candidate, _n):
        raise ModelFileError(f"the process of {candidate.name} was killed")

    one = [Candidate("one", Path("part.ead"))]
    monkeypatch.setattr(benchmark_module, "candidates", lambda *_: one)
    monkeypatch.setattr(Candidate, "open", lambda *_, **__: constant(2.0))
    monkeypatch.setattr(benchmark_module, "peak_memory_mib", fail)
    monkeypatch.setattr(hardware, "matrix_products", lambda _: [product("fp32")])
    stages: list[str] = []

    report = benchmark(
        Path("part.ead"), (), replace(TINY, memory=True), on_stage=stages.append
    )

    assert report.as_json()["engines"][0]["peak_memory_mib"] is None
    assert stages[-1] == "not known: the process of one was killed"
    assert "one" in report.text()


def test_a_file_given_twice_is_refused(monkeypatch):
    twice = [Candidate("part.onnx", Path("part.onnx"))] * 2
    monkeypatch.setattr(benchmark_module, "candidates", lambda *_: twice)

    with pytest.raises(ConfigError, match="files of different names"):
        benchmark(Path("part.onnx"), (), TINY)


# What is compared


@pytest.fixture(scope="module")
def saved(predictor, tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmark") / "part.ead"
    efficientad.save(predictor, path)
    return path


def test_the_baseline_comes_first_and_exports_last(saved, tmp_path):
    config = BenchmarkConfig(engines=("pytorch",))

    found = candidates(saved, [Path("a.onnx")], config, tmp_path)

    assert [candidate.name for candidate in found] == ["baseline", "pytorch", "a.onnx"]
    assert [candidate.plain for candidate in found] == ["fp32", None, None]


@pytest.mark.parametrize("n_streams", [1, 3])
def test_engines_are_opened_for_the_streams(saved, monkeypatch, n_streams):
    asked = []

    def load(_path, **settings):
        asked.append(settings)
        return brightness_predictor()

    monkeypatch.setattr(candidates_module, "load", load)

    for name in ("native", "native_bf16", "auto"):
        candidate = Candidate(name, saved, "cpu", name)
        assert candidate.is_opened_for_streams
        candidate.open(n_streams=n_streams)

    assert [settings["n_streams"] for settings in asked] == [n_streams] * 3
    assert not Candidate("pytorch", saved, "cpu", "pytorch").is_opened_for_streams


def test_an_openvino_file_is_refused_where_cuda_is_asked_for(tmp_path):
    (tmp_path / "part.xml").touch()
    config = BenchmarkConfig(device="cuda")
    (candidate,) = candidates(tmp_path / "part.xml", [], config, tmp_path)

    with pytest.raises(ConfigError, match="runs on the CPU, device cuda was asked for"):
        candidate.open()


@pytest.mark.parametrize(
    ("has_bf16", "engines"),
    [
        (True, ("native", "native_bf16", "pytorch")),
        (False, ("native", "pytorch")),
    ],
)
def test_engines_of_the_medium_size_round_where_the_processor_can(
    make_detector, monkeypatch, has_bf16, engines
):
    monkeypatch.setattr("efficientad.kernels.layers.is_available", lambda: True)
    monkeypatch.setattr("efficientad.kernels.layers.has_bf16", lambda: has_bf16)

    assert available_engines(make_detector("medium", 32, 32)) == engines


def test_an_exported_file_has_one_engine(tmp_path):
    config = BenchmarkConfig(engines=("native",))

    with pytest.raises(ConfigError, match=r"give the \.ead file"):
        candidates(Path("part.onnx"), [], config, tmp_path)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_export_for_the_cpu_is_not_taken_for_one_on_the_gpu(engine, tmp_path):
    with pytest.raises(ConfigError, match="runs on the CPU, device cuda was asked for"):
        candidates_module._exported(engine, Path("part.ead"), "cuda", tmp_path)


def test_an_engine_that_does_not_work_here_is_refused(saved, tmp_path, monkeypatch):
    monkeypatch.setattr("efficientad.kernels.layers.is_available", lambda: False)
    config = BenchmarkConfig(engines=("native",))

    with pytest.raises(ConfigError, match="needs a C\\+\\+ compiler"):
        candidates(saved, [], config, tmp_path)


def test_bf16_is_refused_where_single_precision_would_be_measured(
    saved, tmp_path, monkeypatch
):
    monkeypatch.setattr("efficientad.kernels.layers.is_available", lambda: True)
    config = BenchmarkConfig(engines=("native_bf16",))

    with pytest.raises(
        ConfigError, match="native_bf16 needs a detector of size medium"
    ):
        candidates(saved, [], config, tmp_path)


def test_without_a_choice_all_that_works_is_measured_and_exported(saved, tmp_path):
    found = candidates(saved, [], BenchmarkConfig(), tmp_path)

    detector = efficientad.load(saved).detector
    assert detector is not None
    own = available_engines(detector)
    names = [candidate.name for candidate in found]
    assert names == ["baseline", *own, "onnxruntime", "openvino"]
    assert [c.path.suffix for c in found[-3:]] == [".ead", ".onnx", ".xml"]
    assert all(c.path.is_file() for c in found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repeats": 0}, "repeats must be a whole number from 1 to 10000000, got 0"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1"),
        ({"streams": -1}, "streams must be a whole number from 1"),
        ({"engines": ()}, "engines needs at least one name"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        BenchmarkConfig(**settings)


# Memory


def test_memory_is_that_of_another_process(saved):
    ballast = np.ones(3 * 2**25)  # 768 MiB that are not the child's

    measured = peak_memory_mib(Candidate("pytorch", saved, "cpu", "pytorch"), 2)

    assert set(measured) == {"opened", "one_image", "batch"}
    assert 50 < measured["opened"] <= measured["one_image"] <= measured["batch"]
    assert measured["opened"] < ballast.nbytes / 2**20


def test_the_peak_is_what_the_system_says(tmp_path, monkeypatch):
    for process, kib in (("self", 2048), ("7", 1024)):
        status = tmp_path / process / "status"
        status.parent.mkdir()
        status.write_text(f"VmRSS:\t  10 kB\nVmHWM:\t  {kib} kB\n")
    monkeypatch.setattr(memory, "_PROCESSES", tmp_path)
    assert (memory.own_peak_mib(), memory.peak_mib(7)) == (2, 1)

    monkeypatch.setattr(memory, "_PROCESSES", tmp_path / "nothing")
    assert memory.own_peak_mib() > 10  # an interpreter with NumPy
    with pytest.raises(ConfigError, match="needs a system that reports"):
        memory.peak_mib(7)


def test_a_failing_process_is_told(tmp_path):
    with pytest.raises(ModelFileError, match=r"no model file at .*--no-memory"):
        peak_memory_mib(Candidate("gone", tmp_path / "gone.ead"), 1)


# The command line


def test_the_command_line_measures_and_writes(saved, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        hardware, "matrix_products", lambda _: [product("fp32"), product("int8")]
    )
    target = tmp_path / "speed.json"
    options = ["--engines", "pytorch", "--repeats", "1", "--batch-size", "1"]
    options += ["--streams", "1", "--no-memory", "--output", str(target)]

    assert cli.main(["benchmark", str(saved), *options]) == 0

    content = json.loads(target.read_text())
    assert [r["engine"] for r in content["engines"]] == ["baseline", "pytorch"]
    assert content["engines"][1]["largest_difference"] < 1e-4
    assert all(r["flops_per_second"] > 0 for r in content["engines"])
    assert content["cost"]["layers"][3]["name"] == "conv 4x4, 128 to 256"
    assert "plain networks, small: 8.06 M parameters" in capsys.readouterr().out


def test_a_missing_model_is_one_line(capsys, tmp_path):
    assert cli.main(["benchmark", str(tmp_path / "gone.ead")]) == 2
    assert "no model file at" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_found_first(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match="cannot write to"):
        lab_cli.benchmark(
            tmp_path / "gone.ead",
            output=tmp_path / "file" / "speed.json",
            config=BenchmarkConfig(),
        )


def test_settings_can_be_read_without_torch():
    program = (
        "import sys\nsys.modules['torch'] = None\n"
        "from efficientad_lab.benchmark.config import BenchmarkConfig\n"
        "from efficientad_lab.benchmark import candidates, memory\n"
        "print(BenchmarkConfig().batch_size)"
    )
    sources = (Path(efficientad.__file__), Path(benchmark_module.__file__).parent)
    paths = os.pathsep.join(str(source.parents[1]) for source in sources)
    finished = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )

    assert finished.stdout == "16\n", finished.stderr
