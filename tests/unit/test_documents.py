"""The documents agree with the code."""

import json
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "src" / "efficientad"


def missing_deviations(package: Path, document: str) -> list[str]:
    """Modules that tell of a deviation which the document's list does not name."""
    listed = document.partition("## Deviations")[2]
    return [
        module
        for path in sorted(package.rglob("*.py"))
        if re.search(r"\bDeviations?: ", path.read_text(encoding="utf-8"))
        and f"`{(module := path.relative_to(package).as_posix())}`" not in listed
    ]


def test_every_deviation_from_the_paper_is_listed():
    document = (REPOSITORY / "docs" / "method.md").read_text(encoding="utf-8")

    assert not missing_deviations(PACKAGE, document)


def test_an_unlisted_deviation_is_noticed(tmp_path):
    (tmp_path / "maps.py").write_text('"""Maps. Deviations: others."""\n')

    assert missing_deviations(tmp_path, "## Deviations\n") == ["maps.py"]
    assert not missing_deviations(tmp_path, "## Deviations\n| `maps.py` | other |")


def code_of_sentences(document: str) -> list[list[tuple[str, str]]]:
    """Return module and name of each place in the table of the paper's sentences."""
    table = document.partition("## The paper in the code")[2].partition("\n## ")[0]
    rows = [re.findall(r"`([\w/]+\.py): (\w+)`", row) for row in table.splitlines()]
    return [places for places in rows if places]


def is_defined(package: Path, module: str, name: str) -> bool:
    """Return whether a module defines a function, class, method or constant."""
    code = (package / module).read_text(encoding="utf-8")
    definition = rf"^\s*(def|class) {name}\b|^{name}\b.* ="
    return re.search(definition, code, re.MULTILINE) is not None


def test_ten_sentences_of_the_paper_are_in_at_most_two_files_each():
    document = (REPOSITORY / "docs" / "method.md").read_text(encoding="utf-8")
    sentences = code_of_sentences(document)

    assert len(sentences) == 10
    for places in sentences:
        assert len({module for module, _ in places}) <= 2
        for module, name in places:
            assert is_defined(PACKAGE, module, name), f"{module}: {name}"


def test_a_sentence_whose_code_is_gone_is_noticed(tmp_path):
    (tmp_path / "maps.py").write_text("SCALE: int = 1\n\ndef scaled(map):\n    pass\n")
    row = "| scaled | `maps.py: scaled` |"

    assert code_of_sentences(f"## The paper in the code\n{row}\n## Next\n{row}") == [
        [("maps.py", "scaled")]
    ]
    assert is_defined(tmp_path, "maps.py", "scaled")
    assert is_defined(tmp_path, "maps.py", "SCALE")
    assert not is_defined(tmp_path, "maps.py", "scale")


@pytest.mark.parametrize(
    "page", sorted((REPOSITORY / "docs").glob("*.md")), ids=lambda page: page.stem
)
def test_the_readme_leads_to_each_page(page):
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")

    assert f"(docs/{page.name})" in readme


def test_the_figure_is_of_the_shipped_small_teacher():
    results = REPOSITORY / "lab" / "experiments" / "teacher_figure" / "results"
    record = results / "teacher_figure_drawn_pictures_small_seed0.json"
    drawn = json.loads(record.read_text(encoding="utf-8"))["teacher"]["hash"]
    hashes = json.loads((PACKAGE / "weights" / "hashes.json").read_text())

    assert drawn == hashes["teacher_small.safetensors"]
