"""Metadata of exports: changed beside the graph, and damage is noticed."""

import json
import shutil
from dataclasses import replace

import onnx
import openvino
import pytest

from efficientad.deployment import metadata
from efficientad.errors import ModelFileError

ENGINES = ["onnxruntime", "openvino"]


@pytest.fixture
def copied(exports, tmp_path):
    for path in exports["onnxruntime"].parent.iterdir():
        shutil.copy(path, tmp_path)
    return {name: tmp_path / path.name for name, path in exports.items()}


def with_text(path, change):
    """Change the text as an editor of the file would, the rest of it not."""
    text, rest = metadata._split(path)
    assert text is not None
    content = json.loads(text)
    change(content)
    path.write_bytes(metadata._joined(path, json.dumps(content), rest))


@pytest.mark.parametrize("engine", ENGINES)
def test_another_threshold_leaves_the_graph_to_the_byte(copied, engine):
    path = copied[engine]
    _, before = metadata._split(path)
    found = metadata.read(path)
    given = replace(
        found,
        calibration=replace(found.calibration, given_threshold=0.75),
        provenance={"note": 'quotes ", <tags> & ümlauts', "long": "x" * 300},
    )

    metadata.write(path, given)

    assert metadata.read(path) == given
    assert metadata._split(path)[1] == before


def test_who_runs_the_graph_without_this_package_reads_the_same(copied):
    by_onnx = onnx.load(copied["onnxruntime"]).metadata_props[0].value
    read = openvino.Core().read_model(copied["openvino"])
    by_openvino = read.get_rt_info(metadata.KEY).astype(str)

    for text in (by_onnx, by_openvino):
        content = json.loads(text)
        expected = metadata.read(copied["onnxruntime"]).calibration
        assert content["threshold"] == expected.threshold
        assert content["calibration"]["normal_scores"] == list(expected.normal_scores)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=99), "format 99, this version reads 2; export it"),
        (lambda c: c.pop("format"), "not an export of this package"),
        (lambda c: c.pop("calibration"), "not hold a complete calibration"),
        (lambda c: c.update(precision="fp8"), "bad entry: precision 'fp8'"),
        (lambda c: c.update(hash="0"), "is damaged"),
    ],
)
def test_a_file_of_another_kind_gets_a_sentence(copied, engine, change, message):
    with_text(copied[engine], change)

    with pytest.raises(ModelFileError, match=message):
        metadata.read(copied[engine])


@pytest.mark.parametrize("name", ["part.onnx", "part.xml", "part.bin"])
def test_one_wrong_byte_is_noticed(copied, name):
    path = copied["onnxruntime"].with_name(name)
    content = bytearray(path.read_bytes())
    place = content.index(b"ReLU") if name == "part.xml" else len(content) // 2
    content[place] ^= 1
    path.write_bytes(content)
    opened = path if name != "part.bin" else copied["openvino"]

    with pytest.raises(ModelFileError, match="damaged"):
        metadata.read(opened)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n_bytes", [0, 10, 5000])
def test_a_truncated_file_gets_a_sentence(copied, engine, n_bytes):
    path = copied[engine]
    path.write_bytes(path.read_bytes()[:n_bytes])

    with pytest.raises(ModelFileError, match=r"not an|damaged|export it again"):
        metadata.read(path)


def test_a_foreign_file_gets_a_sentence(tmp_path):
    for suffix in (".onnx", ".xml"):
        path = tmp_path / f"part{suffix}"
        path.write_bytes(b"\xff<html>no model</html>")
        with pytest.raises(ModelFileError, match=r"not an (export|ONNX file)"):
            metadata.read(path)


def test_missing_weights_are_named(copied):
    copied["openvino"].with_suffix(".bin").unlink()

    with pytest.raises(ModelFileError, match=r"part\.bin .* stay together"):
        metadata.read(copied["openvino"])


def test_a_copy_with_other_metadata_brings_its_weights(copied, tmp_path):
    target = tmp_path / "other" / "line2.xml"
    found = metadata.read(copied["openvino"])

    metadata.write(copied["openvino"], found, output=target)

    assert metadata.read(target) == found
    assert sorted(p.name for p in target.parent.iterdir()) == ["line2.bin", "line2.xml"]
