"""Tasks on a Ray cluster of one node, which the tests start on loopback and stop."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image
from pyarrow import parquet

import efficientad
from efficientad.cli.main import main
from efficientad.errors import ConfigError, ResultError, StorageError
from efficientad.executors import executor, ray_tasks
from efficientad.executors.config import PartsConfig
from efficientad.shards.parts import predict_parts
from efficientad_lab.ray_cluster import SETTINGS, loopback_cluster, workers

ray = pytest.importorskip("ray")
N_IMAGES = 12


@pytest.fixture(scope="module")
def address():
    """A cluster with two CPUs, for this machine alone."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        # What Ray reads when it is imported, as it may have been.
        patch.setattr(ray._private.ray_constants, "ENABLE_RAY_CLUSTER", False)
        with loopback_cluster(2) as found:
            yield found


@pytest.fixture(scope="module")
def model(predictor, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "part.ead"
    efficientad.save(predictor, path)
    return path


@pytest.fixture(scope="module")
def images(photograph, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for n in range(N_IMAGES):
        Image.fromarray(photograph(80 + n, 90, n)).save(folder / f"{n:02}.png")
    return folder


@pytest.fixture(scope="module")
def plain_rows(model, images):
    predictor = efficientad.load(model, device="cpu")
    rows = []
    for path in sorted(images.iterdir()):
        found = predictor.predict(path)
        rows.append((str(path), found.image_score, found.p_value, found.is_anomalous))
    return rows


def rows_of(output):
    found: list[tuple[object, ...]] = []
    for path in output.glob("*.parquet"):
        columns = parquet.read_table(path).to_pydict()
        names = ("path", "image_score", "p_value", "is_anomalous")
        found += zip(*(columns[name] for name in names), strict=True)
    return sorted(found, key=str)


def on_ray(address, **settings):
    return PartsConfig(executor="ray", address=address, part_size=1, **settings)


def test_parts_from_ray_are_the_plain_results_to_the_bit(
    address, model, images, plain_rows, tmp_path
):
    summary, failures = predict_parts(model, [images], tmp_path, on_ray(address))

    assert rows_of(tmp_path) == plain_rows
    assert (summary.n_images, failures) == (N_IMAGES, [])


def test_killed_workers_change_nothing(address, model, images, plain_rows, tmp_path):
    killed = []

    def kill(n_done, _n_parts):
        if n_done in {2, 5}:
            killed.extend(workers(address))
            for process in workers(address):
                os.kill(process, signal.SIGKILL)

    _, failures = predict_parts(
        model, [images], tmp_path, on_ray(address), on_part=kill
    )

    assert len(killed) >= 2
    assert rows_of(tmp_path) == plain_rows
    assert failures == []


@pytest.mark.slow
def test_after_a_killed_driver_finished_parts_are_not_done_again(
    address, model, images, plain_rows, tmp_path
):
    command = ["predict", str(model), str(images), "--output", str(tmp_path)]
    command += ["--executor", "ray", "--address", address, "--part-size", "1"]
    driver = subprocess.Popen([sys.executable, "-m", "efficientad", *command])
    while not list(tmp_path.glob("*.parquet")):
        assert driver.poll() is None
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    while workers(address):
        time.sleep(0.05)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.parquet")}

    predict_parts(model, [images], tmp_path, on_ray(address))

    assert 1 <= len(before) < N_IMAGES
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert rows_of(tmp_path) == plain_rows


@dataclass(frozen=True)
class FakeTask:
    """A task that adds its process and number of threads to a file."""

    path: Path
    error: Exception | None = None
    n_kills: int = 0
    is_fatal: bool = False

    @property
    def name(self):
        return self.path.name

    def run(self):
        with self.path.open("a") as file:
            file.write(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}\n")
        if len(self.path.read_text().splitlines()) <= self.n_kills:
            os._exit(9)
        if self.is_fatal:
            raise StorageError("the disk is full")
        return self.error


def test_tasks_end_with_their_errors_and_lost_ones_are_done_again(address, tmp_path):
    tasks = [
        FakeTask(tmp_path / "a"),
        FakeTask(tmp_path / "b", ResultError("bad")),
        FakeTask(tmp_path / "c", n_kills=1),
        FakeTask(tmp_path / "d", n_kills=9),
    ]

    ended = [(t.name, str(e)) for t, e in on_ray(address, cpus=2).run(tasks)]

    assert sorted(ended)[:3] == [("a", "None"), ("b", "bad"), ("c", "None")]
    assert sorted(ended)[3][1].startswith("the process of d was killed 3 times; give")
    runs = {t.name: t.path.read_text().splitlines() for t in tasks}
    assert [len(runs[name]) for name in "abcd"] == [1, 1, 2, 3]
    assert len({line.split()[0] for lines in runs.values() for line in lines}) == 7
    assert {line.split()[1] for lines in runs.values() for line in lines} == {"2"}


def test_an_error_of_storage_ends_the_other_tasks(address, tmp_path):
    tasks = [FakeTask(tmp_path / name, is_fatal=True) for name in "abcd"]

    with pytest.raises(StorageError, match=r"^the disk is full$"):
        list(on_ray(address).run(tasks, keeps_processes=True))

    assert len(list(tmp_path.iterdir())) <= 2


def test_workers_of_other_versions_are_refused(address, tmp_path, monkeypatch):
    versions = {**executor._versions(), "numpy": "1.0"}
    monkeypatch.setattr(executor, "_versions", lambda: versions)

    with pytest.raises(ConfigError, match=r"has numpy \d.* in place of 1\.0; install"):
        list(on_ray(address).run([FakeTask(tmp_path / "a")]))

    assert not list(tmp_path.iterdir())


def test_a_machine_without_the_package_is_one_sentence(address, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def outcome(order):\n    return None\n")
    monkeypatch.syspath_prepend(tmp_path)
    only_here = import_module("only_here")
    (tmp_path / "only_here.py").unlink()
    monkeypatch.setattr(ray_tasks, "_outcome", only_here.outcome)

    with pytest.raises(ConfigError, match="needs efficientad, one cannot import it"):
        list(on_ray(address).run([FakeTask(tmp_path / "a")]))


def test_a_folder_that_only_the_driver_has_is_refused(address, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "cwd", lambda: tmp_path / "of the driver")

    with pytest.raises(ConfigError, match="start from a folder that all machines"):
        list(on_ray(address).run([FakeTask(tmp_path / "a")]))


def test_more_than_a_node_has_is_refused(address, tmp_path):
    with pytest.raises(ConfigError, match="needs 64 CPU and 1 GPU on one node, the"):
        list(on_ray(address, cpus=64, gpus=1).run([FakeTask(tmp_path / "a")]))


@pytest.mark.usefixtures("address")
def test_without_a_cluster_the_command_line_says_so(model, images, tmp_path, capsys):
    command = ["predict", str(model), str(images), "--output", str(tmp_path / "out")]

    assert main([*command, "--executor", "ray", "--address", "127.0.0.1:9"]) == 2

    (sentence,) = capsys.readouterr().err.splitlines()
    assert "there is none at 127.0.0.1:9 (" in sentence


def test_without_ray_the_command_line_names_the_extra(
    model, images, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ["predict", str(model), str(images), "--output", str(tmp_path / "out")]

    assert main([*command, "--executor", "ray"]) == 2

    assert "run: pip install 'efficientad[ray]'" in capsys.readouterr().err
