"""Options of a verb: wrong ones become one sentence."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import tyro._errors

import efficientad
from efficientad.cli.main import main
from efficientad.cli.options import call_of
from efficientad.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a verb."""

    steps: int | None = None
    """Optimizer steps, at least 1."""
    speed: float = 0.5
    """Share of the full speed."""

    def __post_init__(self):
        if self.steps == 0:
            raise ConfigError("steps must be at least 1, got 0")


def drill(
    part: Path,
    /,
    *,
    tool: Literal["fine", "coarse"] | None = None,
    depths: tuple[int, ...] = (1,),
    is_dry: bool = False,
    config: Settings,
) -> int:
    """Drill a part."""
    assert str(part) == "part"
    return 3 if (tool, depths, is_dry, config.steps) == ("fine", (4, 5), True, 7) else 0


def refusal_of(*options):
    with pytest.raises(ConfigError) as refused:
        call_of(drill, "drill", options)
    sentence, _, advice = str(refused.value).rpartition("; ")
    assert advice == "see efficientad drill --help"
    return sentence


def test_options_reach_the_verb_as_values_of_their_types():
    options = "part --tool fine --depths 4 5 --is-dry --steps 7"

    call = call_of(drill, "drill", options.split())

    assert call is not None
    assert call() == 3


def test_help_is_printed_and_nothing_is_called(capsys):
    assert call_of(drill, "drill", ["--help"]) is None

    out = capsys.readouterr().out
    assert "usage: efficientad drill" in out
    assert "--speed FLOAT" in out
    assert "--steps INT" in out
    assert "--tool {fine,coarse}" in out
    assert "{None}" not in out


@pytest.mark.parametrize(
    ("options", "sentence"),
    {
        "": "missing: part",
        "--speed 1": "missing: part",
        "part --colour red": "unrecognized options: --colour, red",
        "part --sped=1": "unrecognized options: --sped=1; perhaps you meant --speed",
        "part --is_dri --tol fine": "unrecognized options: --is_dri, --tol, fine; "
        "perhaps you meant --is-dry, --tool",
        "part other": "unrecognized options: other",
        "part --tool blunt": "--tool needs one of coarse, fine, got 'blunt'",
        "part --tool ('b','a')": "--tool needs one of coarse, fine, got \"('b','a')\"",
        "part --speed": "--speed needs a value, got none",
        "part --speed high": "--speed needs FLOAT, got 'high'",
        "part --steps many": "--steps needs INT, got 'many'",
        "part --steps 0": "steps must be at least 1, got 0",
        f"part --tool {'long_path/' * 20}": "--tool needs one of coarse, fine, "
        f"got '{'long_path/' * 20}'",
    }.items(),
)
def test_wrong_options_are_one_sentence(options, sentence):
    assert refusal_of(*options.split()) == sentence


def test_without_tyro_s_hook_its_own_box_and_exit_code_stay(monkeypatch, capsys):
    monkeypatch.delattr(tyro._errors, "on_parse_error")

    with pytest.raises(SystemExit, match="2"):
        call_of(drill, "drill", ["part", "--colour", "red"])

    assert "--colour" in capsys.readouterr().err


def test_an_error_that_no_verb_can_have_keeps_tyro_s_box_and_exit_code(capsys):
    def mill(*, config: Settings | Path) -> int:
        return len(str(config))

    with pytest.raises(SystemExit, match="2"):
        call_of(mill, "mill", [])

    assert "Missing subcommand" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [""],
        ["trian"],
        ["train"],
        ["train", "images"],
        ["train", "images", "--output", "part.ead", "--steps", "many"],
        ["train", "images", "--output", "part.ead", "--colour", "red"],
        ["train", "images", "more images", "--output", "part.ead"],
        ["predict", "part.ead", "a.png", "--output", "out", "--device", "abacus"],
        ["doctor", "who"],
    ],
)
def test_wrong_arguments_end_with_exit_code_2(capsys, arguments):
    assert main(arguments) == 2

    captured = capsys.readouterr()
    (sentence,) = captured.err.splitlines()
    assert sentence.startswith("efficientad: ")
    assert sentence.endswith("--help")
    assert not captured.out


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_sentence_is_the_same_on_every_terminal(encoding):
    finished = subprocess.run(
        [sys.executable, "-m", "efficientad", "export", "a.ead", "--ouput", "a.onnx"],
        check=False,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONIOENCODING": encoding,
            "PYTHONPATH": str(Path(efficientad.__file__).parents[1]),
            "COLUMNS": "40",
        },
    )

    assert finished.returncode == 2
    assert finished.stderr == (
        "efficientad: missing: --output; unrecognized options: --ouput, a.onnx; "
        "perhaps you meant --output; see efficientad export --help\n"
    )
