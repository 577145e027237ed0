"""The command line itself; what its verbs do is tested where they are made."""

import runpy
import sys

import pytest

from efficientad.cli import main as cli
from efficientad.errors import DatasetError


def test_the_help_names_every_verb_with_its_sentence(capsys):
    assert cli.main(["--help"]) == 0

    lines = capsys.readouterr().out.splitlines()
    for name, verb in cli._VERBS.items():
        sentence = str(verb.__doc__).partition("\n")[0]
        assert f"  {name:10} {sentence}" in lines


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
