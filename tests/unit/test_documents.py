"""The documents tell what the code does."""

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


@pytest.mark.parametrize(
    "page", sorted((REPOSITORY / "docs").glob("*.md")), ids=lambda page: page.stem
)
def test_the_readme_leads_to_each_page(page):
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")

    assert f"(docs/{page.name})" in readme


def test_the_figure_is_of_the_shipped_small_teacher():
    results = REPOSITORY / "lab" / "experiments" / "teacher_figure" / "results"
    record = results / "teacher_figure_natural_images_small_seed0.json"
    drawn = json.loads(record.read_text(encoding="utf-8"))["teacher"]["hash"]
    hashes = json.loads((PACKAGE / "weights" / "hashes.json").read_text())

    assert drawn == hashes["teacher_small.safetensors"]
