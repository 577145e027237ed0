"""Metadata of exports: changed beside the graph, and damage is noticed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import openvino
import pytest

from efficientad.errors import ModelFileError, StorageError
from efficientad.model_files import export_metadata as metadata

ENGINES = ["onnxruntime", "openvino"]


@pytest.fixture
def copied(exports, tmp_path):
    for path in exports["onnxruntime"].parent.iterdir():
        shutil.copy(path, tmp_path)
    return {name: tmp_path / path.name for name, path in exports.items()}


def with_text(path, change):
    """Change the text as another version would write it, the rest of it not."""
    text, rest = metadata._split(path)
    assert text is not None
    content = json.loads(text)
    del content["text_hash"]
    change(content)
    content["text_hash"] = metadata._text_hash(content)
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
    assert list(metadata.read(path).calibration.scales) == ["local", "global"]
    assert metadata._split(path)[1] == before


@pytest.mark.parametrize("engine", ENGINES)
def test_names_that_are_no_utf8_are_spelled_out_for_strict_readers(copied, engine):
    path = copied[engine]
    odd = b"part\xe9.png".decode("utf-8", "surrogateescape")
    given = {"training_images": {odd: "ab"}, "images": [odd, 3]}

    metadata.write(path, replace(metadata.read(path), provenance=given))

    spelled = "part\\udce9.png"
    expected = {"training_images": {spelled: "ab"}, "images": [spelled, 3]}
    assert metadata.read(path).provenance == expected
    text, _ = metadata._split(path)
    assert text is not None
    json.loads(text)["provenance"]["images"][0].encode("utf-8")


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
        (lambda c: c.update(format=99), "format 99, this version reads 4; export it"),
        (lambda c: c.update(format=1), "format 1, this version reads 4; export it"),
        (lambda c: c.pop("format"), "not an export of this package"),
        (lambda c: c.pop("calibration"), "not hold a complete calibration"),
        (lambda c: c.update(calibration="abc"), "bad entry: string indices must be"),
        (lambda c: c["calibration"].update(scales="abc"), "bad entry: dictionary up"),
        (lambda c: c.update(provenance=["abc"]), "bad entry: provenance is no"),
        (
            lambda c: c["calibration"].update(normal_scores=[0.1, float("nan")]),
            r"or a damaged one \(a number is not finite\)",
        ),
        (lambda c: c.update(size=10**400), r"an integer has more than 64 bits\)"),
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
@pytest.mark.parametrize("entry", ["threshold", "normal_scores"])
def test_one_wrong_digit_of_the_decision_is_noticed(copied, engine, entry):
    path = copied[engine]
    content = bytearray(path.read_bytes())
    place = content.index(b"0.", content.index(entry.encode())) + 2
    content[place] ^= 1
    path.write_bytes(content)

    with pytest.raises(ModelFileError, match="damaged"):
        metadata.read(path)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_without_a_hash_of_its_text_is_read(copied, engine):
    """As files of this format were at first."""
    path = copied[engine]
    expected = metadata.read(path)
    text, rest = metadata._split(path)
    assert text is not None
    content = json.loads(text)
    del content["text_hash"]
    path.write_bytes(metadata._joined(path, json.dumps(content), rest))

    assert metadata.read(path) == expected


def test_a_number_has_ten_bytes_at_most():
    """Else a file of such bytes alone is one number, and takes hours to read."""
    longest = b"\xff" * 9 + b"\x01"

    assert metadata._varint(longest, 0) == (2**64 - 1, 10)
    with pytest.raises(ValueError, match="more than 70 bits"):
        metadata._varint(b"\xff" + longest, 0)


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


FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("ending", "error"),
    [
        (".xml", FULL),
        (".bin", FULL),
        (".bin", KeyboardInterrupt()),
        (".xml", KeyboardInterrupt()),
    ],
)
@pytest.mark.parametrize("has_earlier", [True, False])
def test_of_two_files_none_is_replaced_alone(
    copied, tmp_path, monkeypatch, has_earlier, ending, error
):
    folder = tmp_path / "other"
    folder.mkdir()
    target = folder / "line2.xml"
    if has_earlier:
        target.write_bytes(b"an earlier graph")
        target.with_suffix(".bin").write_bytes(b"its weights")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    found, moved = metadata.read(copied["openvino"]), Path.replace

    def fails_once(path, place):
        if place != target.with_suffix(ending) or failures:
            return moved(path, place)
        failures.append(path)
        if isinstance(error, KeyboardInterrupt):  # comes when the move is done
            moved(path, place)
        raise error

    failures: list[Path] = []
    monkeypatch.setattr(Path, "replace", fails_once)
    with pytest.raises((StorageError, KeyboardInterrupt)) as caught:
        metadata.write(copied["openvino"], found, output=target)

    assert failures
    if error is FULL:
        assert "No space left" in str(caught.value)
        assert "is untouched" in str(caught.value)

    if ending == ".xml" and error is not FULL:  # both were moved
        assert metadata.read(target) == found
        return
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
