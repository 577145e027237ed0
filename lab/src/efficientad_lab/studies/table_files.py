"""Tables as Markdown and as one HTML page that opens anywhere. No torch here."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from efficientad import evaluation
from efficientad.storage import write_atomically


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its first columns are words, the others numbers."""

    title: str
    note: str
    """What stands beneath it; may be empty."""
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_word_columns: int = 1


def write_tables(title: str, tables: Sequence[Table], path: Path) -> None:
    """Write tables to two files, whole or not at all.

    Args:
        title: Of the page.
        tables: In their order.
        path: Without suffix; `.md` and `.html` are added.

    Raises:
        StorageError: If one cannot be written; what stood there stays.
    """
    markdown = "\n".join([f"# {title}", "", *map(_markdown_section, tables)])
    for suffix, text in (("md", markdown), ("html", _page(title, tables))):
        content = text.encode(errors="backslashreplace")  # names may be no UTF-8
        write_atomically(path.with_name(f"{path.name}.{suffix}"), content)


def markdown_table(table: Table) -> str:
    """Give a table in Markdown, without title and note."""
    n_numbers = len(table.head) - table.n_word_columns
    rule = ["---"] * table.n_word_columns + ["---:"] * n_numbers
    return "\n".join(map(markdown_row, [table.head, rule, *table.rows]))


def markdown_row(cells: Iterable[str]) -> str:
    """Give a row of a Markdown table: no line break, no bar within a cell."""
    return f"| {' | '.join(' '.join(c.replace('|', '/').split()) for c in cells)} |"


def _markdown_section(table: Table) -> str:
    note = f"{table.note}\n\n" if table.note else ""
    return f"## {table.title}\n\n{markdown_table(table)}\n\n{note}"


def _page(title: str, tables: Sequence[Table]) -> str:
    style = files(evaluation).joinpath("report.css").read_text(encoding="utf-8")
    body = "\n".join(map(_html_section, tables))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n<header>\n<h1>{escape(title)}</h1>\n</header>\n{body}\n"
        "</main>\n</body>\n</html>\n"
    )


def _html_section(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    rows = "".join(f"<tr>{_html_cells(row)}</tr>\n" for row in table.rows)
    note = f'<p class="quiet">{escape(table.note)}</p>\n' if table.note else ""
    return (
        f"<section>\n<h2>{escape(table.title)}</h2>\n{note}"
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody>\n</table></div>\n</section>"
    )


def _html_cells(row: Sequence[str]) -> str:
    first, *others = map(escape, row)
    cells = "".join(f"<td>{cell}</td>" for cell in others)
    return f'<th scope="row">{first}</th>{cells}'
