"""What is not whole is not read."""

import json
import logging

import numpy as np
import pytest
from safetensors.numpy import save_file

from efficientad.errors import ModelFileError
from efficientad.model_files import container

CONTENT = {"calibration": {"high": 2.163}, "steps": 3}


@pytest.fixture
def path(tmp_path):
    tensors = {
        "a": np.arange(5000.0, dtype=np.float32),
        "b": np.array([[1, 2], [3, 4]]),
        "step": np.array(7),
        "none": np.empty(0),
    }
    container.write(tmp_path / "part.ead", "detector", tensors, CONTENT)
    return tmp_path / "part.ead"


def test_what_is_written_is_read(path, caplog):
    arrays, content = container.read(path, "detector")

    assert content == CONTENT
    assert np.array_equal(arrays["a"], np.arange(5000.0))
    assert arrays["step"] == 7
    assert "checksum" not in caplog.text


def test_every_flipped_bit_is_noticed(path):
    data = path.read_bytes()
    unnoticed = []
    for position in range(0, len(data), 37):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            container.read(path, "detector")
        except ModelFileError:
            continue
        unnoticed.append(position)

    # Spaces behind the header and the names of its entries may change without harm.
    assert not unnoticed


def test_a_zeroed_sector_is_noticed(path):
    data = bytearray(path.read_bytes())
    data[8192:12288] = bytes(4096)
    path.write_bytes(data)

    with pytest.raises(ModelFileError, match="its checksum is not the recorded one"):
        container.read(path, "detector")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(path, value):
    weights = np.zeros(4)
    weights[2] = value
    container.write(path, "detector", {"a": weights}, CONTENT)

    with pytest.raises(ModelFileError, match="a has numbers that are not finite"):
        container.read(path, "detector")


def test_a_file_without_a_checksum_is_read_with_a_message(path, caplog):
    metadata = {
        "efficientad": "detector",
        "efficientad_version": "1",
        "content": json.dumps(CONTENT),
    }
    save_file({"a": np.ones(2)}, path, metadata)

    with caplog.at_level(logging.INFO):
        assert container.read(path, "detector")[1] == CONTENT
    assert "has no checksum: it is of an earlier version" in caplog.text


@pytest.mark.parametrize(
    "data", [b"", b"12345678", b"\xff" * 100, b"\x02" + bytes(7) + b"[]"]
)
def test_a_file_of_something_else_is_refused(path, data):
    path.write_bytes(data)

    with pytest.raises(ModelFileError, match="is not a readable detector file"):
        container.read(path, "detector")
