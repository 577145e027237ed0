"""The examples of README and tutorial, each run in its order, as a reader would.

Three things are smaller than there: every `--steps` and `steps=` becomes two, `make`
shows what it would do, and the demo, run for real, draws fewer parts.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import efficientad

REPOSITORY = Path(__file__).resolve().parents[2]
README = REPOSITORY / "README.md"
CONTRIBUTING = REPOSITORY / "CONTRIBUTING.md"
TUTORIAL = REPOSITORY / "docs" / "tutorial" / "own_images.md"
N_STEPS = 2

MAIN = """
from efficientad.cli.main import main
from efficientad.demo_parts import demo

demo._N_TRAIN, demo._N_TEST_GOOD, demo._N_PER_DEFECT = 12, 2, 1
raise SystemExit(main())
"""
PRELUDE = f"""
set -euo pipefail
efficientad() {{
    {shlex.quote(sys.executable)} -c {shlex.quote(MAIN)} "$@"
}}
make() {{
    command make --dry-run --directory {shlex.quote(str(REPOSITORY))} "$@"
    if [ "$1" = demo ]; then efficientad demo --steps {N_STEPS}; fi
}}
"""


class Block(NamedTuple):
    language: str
    line: int
    text: str


def blocks_of(document: str) -> list[Block]:
    return [
        Block(found[1], document.count("\n", 0, found.start()) + 1, found[2])
        for found in re.finditer(
            r"^```(\w*)\n(.*?)^```$", document, re.DOTALL | re.MULTILINE
        )
    ]


def with_few_steps(text: str) -> str:
    return re.sub(r"(--steps |\bsteps=)\d+", rf"\g<1>{N_STEPS}", text)


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


@pytest.mark.slow
@pytest.mark.parametrize("document", [README, TUTORIAL], ids=lambda path: path.stem)
def test_examples_run(tmp_path, monkeypatch, document):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks_of(document.read_text(encoding="utf-8")):
        if block.language == "bash":
            run_bash(block)
        elif block.language == "python":
            run_python(block, names)

    for written in (
        "demo/report.html",
        "part.ead",
        "predictions/predictions.csv",
        "predictions/predictions.jsonl",
        "evaluation/metrics.json",
        "evaluation/report.html",
    ):
        assert (tmp_path / written).stat().st_size > 0, written


def test_every_block_says_what_it_is():
    """A block in a language this test does not know would go unnoticed."""
    languages = {block.language for block in blocks_of(README.read_text("utf-8"))}

    assert languages == {"bash", "python"}


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


def test_every_file_the_documents_link_to_is_there():
    # The site's build checks the overview, which leads to pages that it makes.
    documents = {*REPOSITORY.glob("*.md"), *REPOSITORY.glob("*/*.md")}
    documents -= {REPOSITORY / "docs" / "index.md"}
    missing = [
        f"{document.name}: {target}"
        for document in documents
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text("utf-8"))
        if not (document.parent / target).exists()
    ]

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
