"""The documentation site: its pages, its links, and the notebook."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import efficientad

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOK = REPOSITORY / "examples" / "quickstart.ipynb"
N_STEPS = 2


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location(
        "site_hooks", REPOSITORY / "docs" / "site_hooks.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_in_the_reference_once(hooks):
    pattern = re.compile(r"^::: efficientad\.\S*\b(\w+)$", re.MULTILINE)
    named = pattern.findall(hooks.python_reference())

    assert sorted(named) == sorted([*efficientad.__all__, "AnomalyDetector"])


def test_every_verb_is_in_the_reference_with_its_options(hooks):
    page = hooks.command_line_reference()

    for verb in ("demo", "train", "predict", "evaluate", "threshold", "doctor"):
        assert f"\n## {verb}\n" in page
    assert "--false-alarm-budget" in page
    assert "\x1b" not in page


def test_every_page_is_in_the_navigation():
    navigation = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    docs = REPOSITORY / "docs"

    for page in docs.rglob("*.md"):
        assert f": {page.relative_to(docs).as_posix()}\n" in navigation


@pytest.mark.parametrize(
    ("uri", "link", "expected"),
    [
        ("faq.md", "[a](method.md#x)", "[a](method.md#x)"),
        ("howto/camera.md", "[a](../speed.md)", "[a](../speed.md)"),
        (
            "howto/camera.md",
            "[a](../../examples/README.md)",
            "[a](../repository/examples/README.md)",
        ),
        ("faq.md", "[a](../pyproject.toml)", "a (`pyproject.toml`)"),
        ("repository/README.md", "[a](docs/faq.md)", "[a](../faq.md)"),
        ("faq.md", "[a](https://x.org/y.md)", "[a](https://x.org/y.md)"),
        ("faq.md", "[a](nothing.md)", "[a](nothing.md)"),
    ],
)
def test_links_stay_in_the_site(hooks, uri, link, expected):
    assert hooks.with_links_of_the_site(link, uri) == expected


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("nbconvert")

    finished = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", tmp_path],
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(efficientad.__file__).resolve().parents[1]),
        },
    )

    assert finished.returncode == 0, finished.stderr
    reference = (tmp_path / "reference" / "python.html").read_text(encoding="utf-8")
    for name in efficientad.__all__:
        assert f".{name}" in reference
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r'(?:src|<link[^>]* href)="(https?:[^"]*)"', page.read_text("utf-8")
        )
        assert not loaded


def cells_of(kind):
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [c for c in notebook["cells"] if c["cell_type"] == kind]


@pytest.mark.slow
def test_the_notebook_runs():
    """Its cells one after the other, with fewer steps."""
    names: dict[str, object] = {}
    for cell in cells_of("code"):
        source = re.sub(r"\bsteps=\d+", f"steps={N_STEPS}", "".join(cell["source"]))
        exec(compile(source, NOTEBOOK, "exec"), names)  # noqa: S102

    assert names["evaluation"] is not None


def test_the_notebook_has_its_outputs():
    """As `make notebook` stores them."""
    cells = cells_of("code")
    kinds = [each["output_type"] for cell in cells for each in cell["outputs"]]

    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    assert all(cell["outputs"] for cell in cells)
    assert set(kinds) == {"stream", "execute_result"}
