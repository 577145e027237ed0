"""A day's commands in other environments: users, paths, networks, versions.

    python lab/experiments/environments/run.py
    python lab/experiments/environments/run.py --python "oldest=old/bin/python"

`--python` names an interpreter that has other versions of the dependencies, or is
another version of Python. It needs no PyTorch: there the commands only predict, with a
model and exports that this interpreter has made. This package itself is taken from the
source tree.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import efficientad
from efficientad.demo_parts import write_category
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import Run, write_run

RESULTS: Final = Path(__file__).resolve().with_name("results")
_NOBODY: Final = 65534
_TRAIN: Final = (
    *("--steps", "3", "--batch-size", "1", "--device", "cpu", "--preset", "paper"),
    "--no-has-pretraining-penalty",
)
TRAINING: Final = (
    ("train", "parts/train/good", "--output", "part.ead", *_TRAIN),
    ("calibrate", "part.ead", "others/train/good", "--output", "part.ead"),
    ("evaluate", "part.ead", "parts", "--output", "report"),
    ("export", "part.ead", "--output", "part.onnx"),
    ("export", "part.ead", "--output", "part.xml"),
)
PREDICTING: Final = (
    ("doctor",),
    ("check", "parts"),
    ("card", "part.ead"),
    ("threshold", "part.ead", "--at", "0.2", "--force"),
    ("predict", "part.ead", "parts/test", "--output", "native", "--maps"),
    ("predict", "part.onnx", "parts/test", "--output", "onnx"),
    ("predict", "part.xml", "parts/test", "--output", "openvino"),
)
_VERSIONS: Final = """
import json, platform
from importlib.metadata import distributions
found = {d.name.lower(): d.version for d in distributions()}
print(json.dumps({"python": platform.python_version(), **found}))
"""
_SHOWN: Final = (
    *("python", "numpy", "onnxruntime", "openvino", "pillow", "platformdirs"),
    *("safetensors", "tifffile", "torch", "tqdm", "tyro"),
)


class Place(NamedTuple):
    """Where the commands run."""

    prefix: tuple[str, ...] = ()
    """Command in front of each of them."""
    folder: str = "work"
    python: str = sys.executable
    variables: Mapping[str, str] = {}


KINDS: Final = {
    "as usual": Place(),
    "no network": Place(("unshare", "--net")),
    "a path with spaces and other alphabets": Place(folder="検査 é проба 'a"),
    "a user without rights or home": Place(
        (
            *("setpriv", "--reuid", str(_NOBODY), "--regid", str(_NOBODY)),
            "--clear-groups",
        ),
        variables={"HOME": "/nonexistent"},
    ),
    "the locale C": Place(variables={"LC_ALL": "C", "PYTHONUTF8": "0"}),
}


def done(command: tuple[str, ...], place: Path, kind: Place) -> str | None:
    """Run a command; return None, or what it says if its exit code is not 0."""
    sources = Path(efficientad.__file__).parents[1]
    finished = subprocess.run(  # noqa: S603 - our own program
        [*kind.prefix, kind.python, "-m", "efficientad", *command],
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(sources), **kind.variables},
    )
    return None if finished.returncode == 0 else finished.stderr[-500:]


def versions(python: str) -> dict[str, str]:
    """Return the versions that an interpreter has."""
    told = subprocess.check_output([python, "-c", _VERSIONS], text=True)  # noqa: S603
    found = json.loads(told)
    return {name: found[name] for name in _SHOWN if name in found}


def run_in(name: str, kind: Place, folder: Path, made: Path) -> Run:
    """Return the recorded run of one environment."""
    place = folder / kind.folder
    shutil.copytree(made, place)
    for path in (place, *place.rglob("*")):
        os.chown(path, _NOBODY, _NOBODY)
    has_torch = "torch" in versions(kind.python)
    commands = (*(TRAINING if has_torch else ()), *PREDICTING)
    said = {" ".join(c[:2]): done(c, place, kind) for c in commands}
    shutil.rmtree(place)
    failures = {command: text for command, text in said.items() if text is not None}
    return {
        "experiment": "environments",
        "category": "a day's commands",
        "variant": name,
        "seed": 0,
        "settings": {"commands": [list(c) for c in commands]},
        "metrics": {
            "n_commands": len(commands),
            "n_done": len(commands) - len(failures),
        },
        "installed": versions(kind.python),
        "failures": failures,
    }


def main() -> None:
    """Run the commands in all environments, and record what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH")
    given = parser.parse_args()
    others = dict[str, Any](text.split("=", 1) for text in given.python)
    pythons = {n: Place(python=str(Path(p).absolute())) for n, p in others.items()}
    facts = environment()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        made = folder / "made"
        for seed, kind in enumerate(("parts", "others")):
            write_category(
                made / kind,
                n_train=10,
                n_test_good=2,
                n_per_defect=1,
                seed=seed,
                size=64,
            )
        for command in TRAINING:
            if problem := done(command, made, Place()):
                raise SystemExit(problem)
        for kind_name, kind in (KINDS | pythons).items():
            run = run_in(kind_name, kind, folder, made)
            print(write_run(run | facts, RESULTS), run["failures"], flush=True)


if __name__ == "__main__":
    main()
