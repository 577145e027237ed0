"""A checkpoint is of one run, and whole."""

import numpy as np
import pytest
import torch

from efficientad.errors import ModelFileError
from efficientad.model_files import container
from efficientad.training.checkpoint import (
    CheckpointFile,
    open_checkpoint,
    read_indices,
    read_progress,
    require_like,
    save_checkpoint,
)


@pytest.fixture
def optimizer():
    """An optimizer of two tensors after one step."""
    layer = torch.nn.Linear(2, 1)
    made = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    made.step()
    return made


def test_a_checkpoint_is_opened_by_its_identity_alone(tmp_path, optimizer):
    layer = torch.nn.Linear(2, 1)
    path = tmp_path / "checkpoint"
    identity = {"settings": {"seed": 0, "shares": (0.1, 0.3)}}
    states = {"network": layer.state_dict()}

    save_checkpoint(path, states, optimizer, identity | {"steps": 1})

    again = torch.optim.Adam(layer.parameters())
    restored, content = open_checkpoint(path, identity, again)
    assert content["steps"] == 1
    assert torch.equal(restored["network"]["weight"], layer.weight)
    assert again.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()
    for other in ({"settings": {"seed": 1}}, identity | {"images": "others"}):
        with pytest.raises(ModelFileError, match="is a checkpoint of other settings"):
            open_checkpoint(path, other, again)


@pytest.mark.parametrize("name", ["optimizer.0.exp_avg", "optimizer.1.exp_avg"])
def test_an_optimizers_state_of_other_networks_is_refused(tmp_path, optimizer, name):
    path = tmp_path / "checkpoint"
    save_checkpoint(path, {}, optimizer, {})
    tensors, content = container.read(path, "checkpoint")
    tensors[name] = np.zeros(7)
    container.write(path, "checkpoint", tensors, content)

    with pytest.raises(ModelFileError, match=r"bad entry: the optimizer's exp_avg of"):
        open_checkpoint(path, {}, optimizer)


@pytest.mark.parametrize("left_out", ["optimizer", "optimizer.1"])
def test_a_checkpoint_without_the_optimizers_state_is_refused(
    tmp_path, optimizer, left_out
):
    path = tmp_path / "checkpoint"
    save_checkpoint(path, {}, optimizer, {})
    tensors, content = container.read(path, "checkpoint")
    kept = {k: v for k, v in tensors.items() if not k.startswith(left_out)}
    container.write(path, "checkpoint", kept, content)

    with pytest.raises(ModelFileError, match=r"bad entry: the optimizer's state"):
        open_checkpoint(path, {}, optimizer)


@pytest.mark.parametrize("steps", [10**9, 0, -1, "3", 2.0, True, None, [3]])
def test_a_number_of_steps_that_cannot_be_is_refused(steps):
    with pytest.raises(ValueError, match="of 10 steps"):
        read_progress({"steps": steps, "seconds": 1.0}, 10)


@pytest.mark.parametrize("seconds", [-1.0, "1", None, True, []])
def test_a_time_that_cannot_be_is_refused(seconds):
    with pytest.raises(ValueError, match="seconds"):
        read_progress({"steps": 1, "seconds": seconds}, 10)


def test_progress_that_can_be_is_read():
    assert read_progress({"steps": 10, "seconds": 0}, 10) == (10, 0)


@pytest.mark.parametrize("indices", [["1"], [-1], [1.0], [True], "12", 5])
def test_indices_that_are_none_are_refused(indices):
    with pytest.raises((TypeError, ValueError)):
        read_indices({"unreadable": indices}, "unreadable")
    assert read_indices({"unreadable": [0, 3]}, "unreadable") == [0, 3]
    assert read_indices({}, "unreadable") == []


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"a": torch.zeros(2)},
        {"a": torch.zeros(3, dtype=torch.int32)},
        {"a": torch.zeros(3), "b": torch.zeros(3)},
    ],
)
def test_tensors_of_other_networks_are_refused(found):
    with pytest.raises(ValueError, match=r"^[ab]$"):
        require_like(found, {"a": torch.zeros(3)})
    require_like({"a": torch.ones(3)}, {"a": torch.zeros(3)})


def test_the_checkpoint_of_another_run_stays(tmp_path):
    path = tmp_path / "part.ead.checkpoint"
    first, second = CheckpointFile(path), CheckpointFile(path)
    first.write(lambda place: place.write_text("of the first"))
    first.write(lambda place: place.write_text("of the first, later"))

    with pytest.raises(ModelFileError, match="was written by another run while this"):
        second.write(lambda place: place.write_text("of the second"))
    second.remove()

    assert path.read_text() == "of the first, later"
    CheckpointFile(path).write(lambda place: place.write_text("of a resumed one"))
    with pytest.raises(ModelFileError, match="give each run its own --output"):
        first.write(lambda place: place.write_text("of the first"))
    first.remove()
    assert path.read_text() == "of a resumed one"
    path.unlink()
    first.write(lambda place: place.write_text("of the first, the only one"))
    first.remove()
    assert not path.exists()
