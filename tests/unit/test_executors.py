"""Running the tasks of a study, in this process and in others."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from efficientad.errors import ResultError, StorageError
from efficientad.executors.executor import run_locally


@dataclass(frozen=True)
class FakeTask:
    """A task that writes its process and number of threads to a file."""

    path: Path
    error: Exception | None = None
    is_fatal: bool = False
    seconds: float = 0.0

    @property
    def name(self):
        return self.path.name

    def run(self):
        import torch

        time.sleep(self.seconds)
        self.path.write_text(f"{os.getpid()} {torch.get_num_threads()}")
        if self.is_fatal:
            raise StorageError("the disk is full")
        return self.error


class KilledTask(FakeTask):
    """A task whose process is killed."""

    def run(self):
        os._exit(9)


def test_one_worker_runs_all_tasks_in_this_process(tmp_path):
    tasks = [FakeTask(tmp_path / "a"), FakeTask(tmp_path / "b", ValueError("bad"))]

    outcomes = list(run_locally(tasks, 1))

    assert [task for task, _ in outcomes] == tasks
    assert [str(error) for _, error in outcomes] == ["None", "bad"]
    assert (tmp_path / "a").read_text().split()[0] == str(os.getpid())


def test_several_workers_run_each_task_in_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("efficientad.executors.executor.usable_cores", lambda: 2)
    tasks = [
        FakeTask(tmp_path / "a"),
        FakeTask(tmp_path / "b", ResultError("bad")),
        KilledTask(tmp_path / "c"),
    ]

    errors = {task.name: error for task, error in run_locally(tasks, 2)}

    assert errors["a"] is None
    assert str(errors["b"]) == "bad"
    assert "the process of c was killed" in str(errors["c"])
    written = [(tmp_path / name).read_text().split() for name in "ab"]
    assert len({os.getpid(), *(int(process) for process, _ in written)}) == 3
    assert {threads for _, threads in written} == {"1"}


def test_an_error_of_storage_ends_the_other_tasks(tmp_path):
    tasks = [
        FakeTask(tmp_path / "a", is_fatal=True),
        *(FakeTask(tmp_path / f"b{n}", seconds=3) for n in range(3)),
    ]

    with pytest.raises(StorageError, match="the disk is full"):
        list(run_locally(tasks, 2))

    assert len(list(tmp_path.glob("b*"))) < 3
