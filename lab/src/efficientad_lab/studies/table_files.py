"""Tables as Markdown and as one HTML page that opens anywhere. No torch here."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from efficientad.storage import write_atomically


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose first columns are words and the others numbers."""

    title: str
    note: str
    """Text beneath the table; may be empty."""
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_word_columns: int = 1


def write_tables(title: str, tables: Sequence[Table], path: Path) -> None:
    """Write tables to two files: the path with `.md` and with `.html`.

    Raises:
        StorageError: If a file cannot be written; the previous one stays.
    """
    markdown = "\n".join([f"# {title}", "", *map(_markdown_section, tables)])
    for suffix, text in (("md", markdown), ("html", _html_page(title, tables))):
        content = text.encode(errors="backslashreplace")  # names may be no UTF-8
        write_atomically(path.with_name(f"{path.name}.{suffix}"), content)


def markdown_table(table: Table) -> str:
    """Return a table in Markdown, without title and note."""
    n_numbers = len(table.head) - table.n_word_columns
    rule = ["---"] * table.n_word_columns + ["---:"] * n_numbers
    return "\n".join(map(markdown_row, [table.head, rule, *table.rows]))


def markdown_row(cells: Iterable[str]) -> str:
    """Return a row of a Markdown table, without line breaks and bars in its cells."""
    return f"| {' | '.join(' '.join(c.replace('|', '/').split()) for c in cells)} |"


def _markdown_section(table: Table) -> str:
    note = f"{table.note}\n\n" if table.note else ""
    return f"## {table.title}\n\n{markdown_table(table)}\n\n{note}"


def _html_page(title: str, tables: Sequence[Table]) -> str:
    folders = (__package__, "efficientad.evaluation")  # the latter has the style sheet
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name) for name in folders]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("tables.html.j2").render(title=title, tables=tables)
