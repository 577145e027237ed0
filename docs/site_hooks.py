"""Pages of the site that come from elsewhere, for MkDocs.

The reference is made from the package's public names and from the command line's own
help, the notebook from its stored outputs. Markdown files outside of `docs` that a page
links to become pages of the site, too; a link to another file becomes its name.
"""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from unittest.mock import patch

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOK = REPOSITORY / "examples" / "quickstart.ipynb"
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in `docs`."""
    from mkdocs.structure.files import File  # noqa: PLC0415 - only MkDocs runs it

    added = {
        "reference/python.md": python_reference(),
        "reference/command_line.md": command_line_reference(),
        **notebook_page(),
    }
    for name in linked_pages():
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        added[f"repository/{name}"] = text
    for uri, content in added.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace links that leave `docs`."""
    return with_links_of_the_site(markdown, page.file.src_uri)


def python_reference() -> str:
    """Return the page of all public names."""
    import efficientad  # noqa: PLC0415

    homes = {
        **dict.fromkeys(efficientad.__all__, "errors"),
        **efficientad._HOME_OF,  # noqa: SLF001
    }
    groups: dict[str, list[str]] = {"Functions": [], "Classes": [], "Errors": []}
    for name in efficientad.__all__:
        kind = "Functions" if name.islower() else "Classes"
        groups["Errors" if homes[name] == "errors" else kind].append(name)
    lines = ["# Python", "", "Every name of `import efficientad`.", ""]
    for title, names in groups.items():
        lines += [f"## {title}", ""]
        for name in names:
            lines += [f"::: efficientad.{homes[name]}.{name}", ""]
    return "\n".join(lines)


def command_line_reference() -> str:
    """Return the page with the help of each verb, as the parser prints it."""
    from efficientad.cli.main import _VERBS, main  # noqa: PLC0415

    lines = ["# Command line", ""]
    for verb in ("", *_VERBS):
        printed = io.StringIO()
        width = patch.dict(os.environ, {"COLUMNS": "76", "NO_COLOR": "1"})
        with width, contextlib.redirect_stdout(printed):
            main([verb, "--help"] if verb else ["--help"])
        title = (
            f"## {verb}" if verb else "`efficientad VERB`, or `python -m efficientad`"
        )
        lines += [title, "", "```text", printed.getvalue().strip("\n"), "```", ""]
    return "\n".join(lines)


def notebook_page() -> dict[str, str | bytes]:
    """Return the notebook as a page, and its pictures."""
    from nbconvert import MarkdownExporter  # noqa: PLC0415

    body, resources = MarkdownExporter().from_filename(str(NOTEBOOK))
    pictures = {f"tutorial/{k}": v for k, v in resources["outputs"].items()}
    return {"tutorial/quickstart.md": body, **pictures}


def linked_pages() -> list[str]:
    """Return the Markdown files outside of `docs` that pages lead to."""
    waiting = [
        *(f"docs/{p.relative_to(REPOSITORY / 'docs').as_posix()}" for p in _pages()),
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    ]
    seen = set(waiting)
    while waiting:
        name = waiting.pop()
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        for _, target, _ in _LINK.findall(text):
            place = _place(name, target)
            if place.endswith(".md") and place not in seen:
                if (REPOSITORY / place).is_file():
                    seen.add(place)
                    waiting.append(place)
    return sorted(name for name in seen if not name.startswith("docs/"))


def with_links_of_the_site(markdown: str, uri: str) -> str:
    """Return a page whose links to other files of the repository stay in the site.

    Args:
        markdown: Content of the page.
        uri: Its place in the site, relative to the root.
    """
    name = uri.removeprefix("repository/") if _is_added(uri) else f"docs/{uri}"

    def replaced(link: re.Match[str]) -> str:
        text, target, part = link.groups(default="")
        place = _place(name, target)
        if "://" in target or not (REPOSITORY / place).exists():
            return link[0]  # MkDocs refuses it where it leads nowhere
        if place.startswith("docs/"):
            goal = place.removeprefix("docs/")
        elif place.endswith(".md"):
            goal = f"repository/{place}"
        else:
            return f"{text} (`{place}`)"
        folder = PurePosixPath(uri).parent
        return f"[{text}]({os.path.relpath(goal, folder.as_posix())}{part})"

    return _LINK.sub(replaced, markdown)


def _is_added(uri: str) -> bool:
    return uri.startswith("repository/")


def _place(name: str, target: str) -> str:
    """Return the place in the repository that a file's link leads to."""
    return os.path.normpath(PurePosixPath(name).parent / target).replace(os.sep, "/")


def _pages() -> Iterator[Path]:
    yield from sorted((REPOSITORY / "docs").rglob("*.md"))
