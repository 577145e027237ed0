"""Names of files as they come out."""

import json

import pytest

from efficientad.names import as_cell, as_text, printable


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("part 1.png", "part 1.png"),
        ("Teil_äöü_部品.png", "Teil_äöü_部品.png"),
        ("a\nefficientad: all is well", "a\\nefficientad: all is well"),
        ("a\r\tb", "a\\r\\tb"),
        ("\x1b[2K\x1b[1A", "\\x1b[2K\\x1b[1A"),
        ("\x9b31m", "\\x9b31m"),
        ("gnp.\u202etrap", "gnp.\\u202etrap"),
        ("line\u2028break", "line\\u2028break"),
        ("part\udce9.png", "part\\udce9.png"),
    ],
)
def test_a_name_stays_on_its_line_and_commands_no_terminal(name, expected):
    assert printable(name) == expected


def test_json_has_no_half_characters():
    row = {"path": "part\udce9.png", "images": ["\udc80", 3, None], "ä\udc80": "ä"}

    text = json.dumps(as_text(row), ensure_ascii=False)

    assert json.loads(text.encode("utf-8")) == {
        "path": "part\\udce9.png",
        "images": ["\\udc80", 3, None],
        "ä\\udc80": "ä",
    }


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
def test_a_path_in_a_table_is_no_formula(first):
    assert as_cell(f"{first}1+1.png") == f"./{first}1+1.png"


@pytest.mark.parametrize("value", [-0.25, None, True, "a=b.png", "folder/=1.png", ""])
def test_other_cells_stay(value):
    assert as_cell(value) is value
