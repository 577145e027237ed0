"""The command line itself; what its verbs do is tested where they are made."""

import io
import json
import os
import runpy
import sys
from pathlib import Path

import pytest
from tests.dataset_files import draw
from tests.fake_engines import brightness_predictor

import efficientad
from efficientad.cli import main as cli
from efficientad.cli.printing import prediction_lines, settings_lines
from efficientad.errors import DatasetError
from efficientad.inspection.files import PredictionSummary
from efficientad.training.config import TrainConfig


def test_the_help_names_every_verb_with_its_sentence(capsys):
    assert cli.main(["--help"]) == 0

    lines = capsys.readouterr().out.splitlines()
    for name, verb in cli._VERBS.items():
        sentence = str(verb.__doc__).partition("\n")[0]
        assert f"  {name:10} {sentence}" in lines


def test_no_arguments_print_the_overview(capsys):
    assert cli.main([]) == 0
    without = capsys.readouterr().out

    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out == without


def test_the_version_is_that_of_the_package(capsys):
    assert cli.main(["--version"]) == 0

    assert capsys.readouterr().out == f"efficientad {efficientad.__version__}\n"


@pytest.mark.parametrize(
    ("verb", "meant"), [("trian", "train"), ("evalute", "evaluate"), ("bench", None)]
)
def test_a_misspelt_verb_has_a_suggestion(capsys, verb, meant):
    assert cli.main([verb]) == 2

    sentence = capsys.readouterr().err
    suggestion = f"got {verb}; perhaps you meant {meant}; see"
    assert (suggestion in sentence) == (meant is not None)


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Two images here, and any model file has their brightness for a score."""
    from efficientad.inspection import opening

    predictor = brightness_predictor()
    monkeypatch.setattr(opening, "load", lambda *_, **__: predictor)
    monkeypatch.chdir(tmp_path)
    draw(Path("a.png"), 9)
    draw(Path("b.png"), 255)


@pytest.mark.usefixtures("images")
def test_the_summary_names_the_anomalous_images(capsys):
    assert cli.main(["predict", "part.ead", "*.png", "--output", "out"]) == 0

    assert capsys.readouterr().out.splitlines() == [
        "2 images predicted, 1 anomalous, 0 failed; see out/predictions.csv",
        "  anomalous: b.png",
    ]


def test_a_long_summary_counts_the_rest():
    many = tuple(Path(f"{n}.png") for n in range(23))
    summary = PredictionSummary(30, 23, 0, 0, anomalous=many)

    lines = prediction_lines(summary, None)

    assert lines[0] == "30 images predicted, 23 anomalous, 0 failed"
    assert lines[-2:] == ["  anomalous: 19.png", "  and 3 more"]


@pytest.mark.usefixtures("images")
def test_rows_come_as_json_lines_and_the_summary_on_standard_error(capsys):
    assert cli.main(["predict", "part.ead", "a.png", "b.png", "--json", "-"]) == 0

    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [(row["path"], row["is_anomalous"]) for row in rows] == [
        ("a.png", False),
        ("b.png", True),
    ]
    assert "2 images predicted, 1 anomalous" in captured.err
    assert {path.name for path in Path().iterdir()} == {"a.png", "b.png"}


@pytest.mark.usefixtures("images")
def test_names_are_read_from_standard_input(capsys, monkeypatch):
    odd = draw(Path(os.fsdecode(b"c\xe9.png")), 255)
    names = b"a.png\r\n\n" + os.fsencode(odd) + b"\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(names)))

    assert cli.main(["predict", "part.ead", "-", "--json", "-"]) == 0

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["path"] for row in rows] == ["a.png", "c\\udce9.png"]


def test_settings_are_a_list_with_what_none_became():
    config = TrainConfig(steps=7)
    became = {"preset": "quick", "steps": 1000, "batch_size": 4, "device": "cpu"}

    lines = settings_lines(config, became)

    assert lines[0] == "settings:"
    named = {line[2:27].strip(): line[27:] for line in lines[1:]}
    assert named["steps"] == "7"
    assert named["batch size"] == "4"
    assert named["device"] == "cpu"
    assert "teacher" not in named
    assert "None" not in "".join(lines)


def test_python_runs_the_package_as_the_command_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["efficientad", "--help"])

    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("efficientad", run_name="__main__")

    assert stopped.value.code == 0
    assert "  train " in capsys.readouterr().out


@pytest.mark.parametrize("verb", cli._VERBS)
def test_every_verb_has_its_own_help(capsys, verb):
    assert cli.main([verb, "--help"]) == 0

    assert f"usage: efficientad {verb} " in capsys.readouterr().out


def test_settings_stand_flat_among_the_options(capsys):
    assert cli.main(["train", "--help"]) == 0

    out = capsys.readouterr().out
    assert "--steps" in out
    assert "--config" not in out


@pytest.mark.parametrize(
    ("verb", "text"),
    [
        ("predict", "reads their names from standard input, one a line"),
        ("train", "white where defects count, or polygons in JSON"),
    ],
)
def test_help_breaks_lines_at_the_width_of_the_terminal_alone(
    monkeypatch, capsys, verb, text
):
    monkeypatch.setenv("COLUMNS", "300")
    assert cli.main([verb, "--help"]) == 0

    assert text in capsys.readouterr().out


@pytest.mark.parametrize("code", [0, 1])
def test_the_exit_code_is_the_verb_s(monkeypatch, code):
    monkeypatch.setitem(cli._VERBS, "doctor", lambda: code)

    assert cli.main(["doctor"]) == code


def test_a_name_in_an_error_cannot_forge_a_line(monkeypatch, capsys):
    def doctor() -> int:
        raise DatasetError("x\nefficientad: all is well\x1b[8m is no folder")

    monkeypatch.setitem(cli._VERBS, "doctor", doctor)

    assert cli.main(["doctor"]) == 2
    expected = r"efficientad: x\nefficientad: all is well\x1b[8m is no folder"
    assert capsys.readouterr().err == f"{expected}\n"


@pytest.mark.parametrize("path", ["x" * 300, "folder/" * 700])
@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "{}", "--output", "part.ead"),
        ("predict", "{}", "images", "--output", "out"),
        ("evaluate", "{}", "images", "--output", "out"),
        ("check", "{}"),
        ("check", "{}.csv"),
        ("check", "{}", "--output", "{}"),
        ("threshold", "{}"),
        ("export", "{}", "--output", "part.onnx"),
        ("distill", "{}", "--source", "{}", "--output", "teacher.safetensors"),
    ],
    ids=lambda arguments: " ".join(arguments) if arguments[0] else "",
)
def test_a_path_that_is_too_long_is_one_sentence(
    tmp_path, monkeypatch, capsys, arguments, path
):
    monkeypatch.chdir(tmp_path)

    assert cli.main([argument.format(path) for argument in arguments]) == 2

    (sentence,) = capsys.readouterr().err.splitlines()[-1:]
    assert sentence.startswith("efficientad: ")
    assert "too long" in sentence


def test_an_error_raised_on_purpose_is_one_line(monkeypatch, capsys):
    def doctor() -> int:
        raise DatasetError("an image was needed, got none")

    monkeypatch.setitem(cli._VERBS, "doctor", doctor)

    assert cli.main(["doctor"]) == 2
    assert capsys.readouterr().err == "efficientad: an image was needed, got none\n"


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    def doctor() -> int:
        raise ZeroDivisionError

    monkeypatch.setitem(cli._VERBS, "doctor", doctor)

    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])


@pytest.mark.parametrize(
    ("verb", "words"),
    [("train", "interrupted; --resume continues"), ("doctor", "interrupted")],
)
def test_ctrl_c_is_one_line(monkeypatch, capsys, verb, words):
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli._VERBS, verb, interrupted)

    assert cli.main([verb]) == 130
    assert capsys.readouterr().err == f"efficientad: {words}\n"


@pytest.mark.parametrize("package", ["torch", "jaxtyping"])
def test_a_verb_that_needs_torch_says_so(capsys, monkeypatch, package):
    def doctor() -> int:
        raise ModuleNotFoundError(name=package)

    monkeypatch.setitem(cli._VERBS, "doctor", doctor)

    assert cli.main(["doctor"]) == 2

    name = {"torch": "PyTorch"}.get(package, package)
    assert capsys.readouterr().err == (
        f"efficientad: doctor needs {name}, which is not installed; "
        "run: pip install 'efficientad[train]'\n"
    )


def test_a_package_that_is_no_extra_keeps_its_traceback(monkeypatch):
    def doctor() -> int:
        raise ModuleNotFoundError(name="efficientad.mistyped")

    monkeypatch.setitem(cli._VERBS, "doctor", doctor)

    with pytest.raises(ModuleNotFoundError):
        cli.main(["doctor"])


def test_help_is_no_failure_and_what_a_verb_exits_with_stays(monkeypatch, capsys):
    def doctor() -> int:
        raise SystemExit(3)

    monkeypatch.setitem(cli._VERBS, "doctor", doctor)

    assert cli.main(["doctor", "--help"]) == 0
    assert "usage: efficientad doctor" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="3"):
        cli.main(["doctor"])


@pytest.mark.parametrize("verb", ["train", "distill"])
def test_a_name_among_the_settings_cannot_move_the_cursor(verb, tmp_path, capsys):
    option = "--validation" if verb == "train" else "--source"

    code = cli.main(
        [verb, str(tmp_path / "a"), "--output", "b", option, "x\x1b[2Jy\nz"]
    )

    assert code == 2
    assert "x\\x1b[2Jy\\nz" in capsys.readouterr().err
