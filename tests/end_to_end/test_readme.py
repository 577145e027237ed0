"""The examples of README and documentation, each page from its start to its end.

Some things are smaller than there: a training takes two steps, a benchmark one turn,
`make` shows what it would do, and the demo, run for real, draws fewer parts. A block
that cannot run here has a comment above it: `<!-- not run: REASON -->`.
"""

import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

import efficientad
from efficientad.cli.main import main
from efficientad.demo_parts import demo
from efficientad.station.config import StationConfig

REPOSITORY = Path(__file__).resolve().parents[2]
README = REPOSITORY / "README.md"
CONTRIBUTING = REPOSITORY / "CONTRIBUTING.md"
TUTORIAL = REPOSITORY / "docs" / "tutorial" / "own_images.md"
PAGES = [README, *sorted((REPOSITORY / "docs").rglob("*.md"))]
FROM_NOTHING = (README, TUTORIAL)
N_STEPS = 2
LANGUAGES = {"bash", "python", "c", "toml", "nginx", "text"}
SETTINGS = {field.name for field in fields(StationConfig)}


def smaller(given: list[str]) -> list[str]:
    if given[0] in {"demo", "train"} and "--steps" not in given:
        return [*given, "--steps", "2"]
    if given[0] == "benchmark":
        return [*given, "--repeats", "1", "--streams", "1", "--batch-size", "1"]
    return given


MAIN = f"""
import sys
from efficientad.cli.main import main
from efficientad.demo_parts import demo
from efficientad.station.config import StationConfig

{inspect.getsource(smaller)}
demo._N_TRAIN, demo._N_TEST_GOOD, demo._N_PER_DEFECT = 12, 2, 1
raise SystemExit(main(smaller(sys.argv[1:])))
"""
PRELUDE = f"""
set -euo pipefail
efficientad() {{
    {shlex.quote(sys.executable)} -c {shlex.quote(MAIN)} "$@"
}}
make() {{
    command make --dry-run --directory {shlex.quote(str(REPOSITORY))} "$@"
    if [ "$1" = demo ]; then efficientad demo; fi
}}
"""


class Block(NamedTuple):
    language: str
    line: int
    text: str
    is_run: bool = True


def blocks_of(document: str) -> list[Block]:
    pattern = r"^(<!-- not run: [^\n]+ -->\n\n)?```(\w*)\n(.*?)^```$"
    return [
        Block(
            found[2],
            document.count("\n", 0, found.start(2)) + 1,
            found[3],
            is_run=found[2] in {"bash", "python"} and not found[1],
        )
        for found in re.finditer(pattern, document, re.DOTALL | re.MULTILINE)
    ]


def runs_something(page: Path) -> bool:
    return any(block.is_run for block in blocks_of(page.read_text(encoding="utf-8")))


def with_few_steps(text: str) -> str:
    return re.sub(r"(--steps |\b(?:steps|repeats)=)\d+", rf"\g<1>{N_STEPS}", text)


def run_bash(block: Block) -> None:
    finished = subprocess.run(
        ["bash", "-c", PRELUDE + with_few_steps(block.text)],
        check=False,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(efficientad.__file__).resolve().parents[1]),
        },
    )
    if finished.returncode:
        pytest.fail(f"line {block.line}: {finished.stdout}{finished.stderr}")


def run_python(block: Block, names: dict[str, object]) -> None:
    source = "\n" * block.line + with_few_steps(block.text)
    exec(compile(source, README, "exec"), names)  # noqa: S102


def run_here(block: Block) -> None:
    """Run a block in this process, which has imported PyTorch already."""
    lines = with_few_steps(block.text).splitlines()
    if not all(re.fullmatch("efficientad [^|&;>]+", line) for line in lines):
        run_bash(block)
        return
    for line in lines:
        words = shlex.split(line, comments=True)
        assert main(smaller(words[1:])) == 0, line


def run_page(page: Path, shell: Callable[[Block], None]) -> None:
    names: dict[str, object] = {}
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if block.is_run and block.language == "bash":
            shell(block)
        elif block.is_run:
            run_python(block, names)


class Camera:
    """Two black frames, as OpenCV reads them."""

    def __init__(self, _: int) -> None:
        self.frames = [np.zeros((256, 256, 3), np.uint8)] * 2

    def read(self):
        return (True, self.frames.pop()) if self.frames else (False, None)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """What pages begin with: the demo's parts, a detector, and a list of the parts."""
    folder = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, n in (("_N_TRAIN", 12), ("_N_TEST_GOOD", 2), ("_N_PER_DEFECT", 1)):
            patch.setattr(demo, name, n)
        run_here(Block("bash", 0, "efficientad demo"))
    shutil.copy(folder / "demo" / "part.ead", folder)
    project = shutil.copytree(folder / "demo" / "parts", folder / "project")
    entries = [
        {
            "source-ref": f"s3://bucket/{path.relative_to(project).as_posix()}",
            "anomaly-label": int(path.parent.name != "good"),
            "anomaly-label-metadata": {"type": "groundtruth/image-classification"},
        }
        for kind in ("train", "test")
        for path in sorted((project / kind).rglob("*.png"))
    ]
    lines = "\n".join(map(json.dumps, entries))
    (project / "train.manifest").write_text(lines, encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", FROM_NOTHING, ids=lambda page: page.stem)
def test_the_first_examples_run_from_nothing(tmp_path, monkeypatch, page):
    monkeypatch.chdir(tmp_path)
    run_page(page, run_bash)

    for written in (
        "demo/report.html",
        "part.ead",
        "predictions/predictions.csv",
        "predictions/predictions.jsonl",
        "evaluation/metrics.json",
        "evaluation/report.html",
    ):
        assert (tmp_path / written).stat().st_size > 0, written


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page not in FROM_NOTHING and runs_something(page)],
    ids=lambda page: page.stem,
)
def test_the_examples_run(tmp_path, monkeypatch, parts, page):
    monkeypatch.chdir(shutil.copytree(parts, tmp_path / "copy"))
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(VideoCapture=Camera))

    run_page(page, run_here)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs_or_says_why_not(page):
    """A block in a language this test does not know would go unnoticed."""
    text = page.read_text(encoding="utf-8")
    command = r"(?:efficientad|pip|python|make|curl|import|from) "

    assert 2 * len(blocks_of(text)) == len(re.findall("^```", text, re.MULTILINE))
    for block in blocks_of(text):
        assert block.language in LANGUAGES, block.line
        if block.language == "toml":
            assert tomllib.loads(block.text).keys() <= SETTINGS, block.line
        if block.language == "text":
            assert not re.search(f"^{command}", block.text, re.MULTILINE), block.line
    assert not re.search(f"^ {{4}}{command}", text, re.MULTILINE)


def test_every_training_in_the_readme_says_how_long():
    """Without steps a training takes minutes, here and for the reader in a hurry."""
    for block in blocks_of(README.read_text(encoding="utf-8")):
        for line in block.text.splitlines():
            if "efficientad train" in line:
                assert "--steps" in line
            if "TrainConfig(" in line:
                assert "steps=" in line


def test_a_failing_example_fails_the_test(tmp_path, monkeypatch):
    """The positive control, for both languages."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(pytest.fail.Exception, match="line 3"):
        run_bash(Block("bash", 3, "efficientad no-such-verb\n"))
    with pytest.raises(AttributeError):
        run_python(Block("python", 3, "import efficientad; efficientad.teach\n"), {})


def anchors_of(document: Path) -> set[str]:
    text = re.sub(
        r"^```.*?^```$", "", document.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


def test_every_place_the_documents_link_to_is_there():
    # The site's build checks the overview, which leads to pages that it makes.
    folders = ("docs", "examples", "lab", "teachers")
    documents = {*REPOSITORY.glob("*.md")}
    documents.update(p for f in folders for p in (REPOSITORY / f).rglob("*.md"))
    documents -= {REPOSITORY / "docs" / "index.md"}
    missing = []
    for document in documents:
        links = re.findall(
            r"\]\(([^)#:]*)(?:#([^):]*))?\)", document.read_text("utf-8")
        )
        for target, anchor in links:
            place = document.parent / target if target else document
            if not place.exists() or (anchor and anchor not in anchors_of(place)):
                missing.append(f"{document.name}: {target}#{anchor}")

    assert not missing


def test_the_tree_names_only_what_is_there():
    tree = next(
        block.text
        for block in blocks_of(CONTRIBUTING.read_text(encoding="utf-8"))
        if "──" in block.text
    )
    named = re.findall(r"── (\S+)", tree)

    assert named
    for name in named:
        assert (REPOSITORY / name).exists() or (
            REPOSITORY / "src" / "efficientad" / name
        ).exists(), name
