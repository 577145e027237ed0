"""What is not whole is not read."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from efficientad.errors import ConfigError, ModelFileError
from efficientad.model_files import container

CONTENT = {"calibration": {"high": 2.163}, "steps": 3}


@pytest.fixture
def path(tmp_path):
    arrays: dict[str, np.ndarray] = {
        "a": np.arange(5000.0, dtype=np.float32),
        "b": np.array([[1, 2], [3, 4]], np.float16),
        "step": np.array(7.0),
        "none": np.empty(0),
    }
    container.write(tmp_path / "part.ead", "detector", arrays, CONTENT)
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


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.bool_])
def test_weights_that_are_no_floats_are_refused(path, dtype):
    container.write(path, "detector", {"a": np.ones(4, dtype)}, CONTENT)

    with pytest.raises(ModelFileError, match=r"a has numbers of type (u?int32|bool)"):
        container.read(path, "detector")


def test_a_checkpoint_may_count_in_whole_numbers(path):
    container.write(path, "checkpoint", {"n": np.array(4)}, CONTENT)

    assert container.read(path, "checkpoint")[0]["n"] == 4


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[" * 1000 + "]" * 1000, "nested too deep"),
        ('{"a": ' * 1000 + "1" + "}" * 1000, "nested too deep"),
        ('{"a": ' * 100_000, "nested too deep"),
        ('{"steps": 1' + "0" * 399 + "}", "an integer has more than 64 bits"),
        ('{"steps": 1' + "0" * 5000 + "}", "Exceeds the limit"),
        ('{"high": 1e999}', "a number is not finite"),
        ('{"high": NaN}', "a number is not finite"),
        ("[1, 2]", "needed a table, got list"),
        ("null", "needed a table, got NoneType"),
    ],
    ids=range(9),
)
def test_a_description_that_is_none_of_ours_is_refused(path, content, reason):
    metadata = {
        "efficientad": "detector",
        "efficientad_version": "1",
        "content": content,
    }
    save_file({"a": np.ones(2)}, path, metadata)

    with pytest.raises(ModelFileError, match=reason):
        container.read(path, "detector")


def test_numbers_of_numpy_and_paths_are_written_as_plain_ones(path):
    content = {
        "steps": np.int64(3),
        "share": np.float32(0.5),
        "is_quick": np.arange(3)[1] == 1,
        "scores": np.arange(3),
        "folder": Path("a/b"),
        "channels": (1, 2),
    }

    container.write(path, "detector", {}, content)

    assert container.read(path, "detector")[1] == {
        "steps": 3,
        "share": 0.5,
        "is_quick": True,
        "scores": [0, 1, 2],
        "folder": "a/b",
        "channels": [1, 2],
    }


@pytest.mark.parametrize("value", [{1}, float("nan"), 10**400, b"text", object()])
def test_a_value_that_no_file_holds_is_refused_and_the_file_stays(path, value):
    before = path.read_bytes()

    with pytest.raises(ConfigError, match="what a model file says of itself must be"):
        container.write(path, "detector", {}, {"provenance": {"extra": value}})

    assert path.read_bytes() == before


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
