"""Files of the page: small, copies of others unchanged, and nothing runs inline."""

import hashlib
import json
import re
import tomllib
from pathlib import Path

import pytest

from efficientad.station.http import page as module
from efficientad.station.http.security import _HEADERS

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = module.PAGE
VENDOR = PAGE / "vendor"
MODULES = sorted((PAGE / "modules").glob("*.js"))
MAX_BYTES = 150_000
POLICY = _HEADERS["Content-Security-Policy"]

HANDLER = re.compile(r"<[^>]*\son[a-z]+\s*=", re.IGNORECASE)
STYLE = re.compile(r"<style|\sstyle\s*=", re.IGNORECASE)
INLINE_SCRIPT = re.compile(r"<script(?![^>]*\ssrc=)", re.IGNORECASE)
ELSEWHERE = re.compile(r"""(?:src|href|from|import)\s*[=(]?\s*["'](?:https?:)?//""")
UNSAFE = re.compile(r"\b(eval|innerHTML|outerHTML|insertAdjacentHTML|unsafeHTML)\b")


def text(path):
    return path.read_text(encoding="utf-8")


def sent_files():
    """Return the files that a browser gets."""
    unsent = {"LICENSE", "vendored.json"}
    return [p for p in PAGE.rglob("*") if p.is_file() and p.name not in unsent]


def test_the_page_is_small():
    assert len(sent_files()) > 15
    assert sum(path.stat().st_size for path in sent_files()) <= MAX_BYTES


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_is_short_and_writes_no_html_by_hand(path):
    assert len(text(path).splitlines()) <= 300
    assert not UNSAFE.search(text(path))
    assert not HANDLER.search(text(path))
    assert not STYLE.search(text(path))
    assert not ELSEWHERE.search(text(path))


def test_the_document_has_no_script_style_or_address_of_its_own():
    document = text(PAGE / "index.html")

    for wrong in (INLINE_SCRIPT, HANDLER, STYLE, ELSEWHERE, UNSAFE):
        assert not wrong.search(document)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (INLINE_SCRIPT, "<script>go()</script>"),
        (HANDLER, '<p onclick="go()">'),
        (STYLE, '<p style="color: red">'),
        (ELSEWHERE, '<script src="https://example.org/a.js"></script>'),
        (ELSEWHERE, 'import x from "//example.org/a.js"'),
        (UNSAFE, "node.innerHTML = name"),
    ],
)
def test_what_is_wrong_is_noticed(wrong, code):
    assert wrong.search(code)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_import_is_a_file_of_the_page(path):
    for name in re.findall(r'(?:from|import) "(.+?)"', text(path)):
        assert (path.parent / name).resolve().is_file(), name


def test_the_policy_allows_the_page_alone():
    rules = dict(rule.strip().partition(" ")[::2] for rule in POLICY.split(";"))

    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert rules["trusted-types"] == "lit-html"
    assert rules["frame-ancestors"] == "'none'"
    assert "unsafe" not in POLICY


def vendored():
    return json.loads(text(VENDOR / "vendored.json"))


def test_vendored_files_are_those_of_the_recorded_versions():
    recorded = {
        name: digest
        for package in vendored()
        for name, digest in package["sha256"].items()
    }
    found = {
        path.relative_to(VENDOR).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path.name != "vendored.json"
    }

    assert found == recorded


@pytest.mark.parametrize("package", vendored(), ids=lambda package: package["name"])
def test_a_vendored_package_comes_with_its_license(package):
    license_file = f"src/efficientad/station/page/vendor/{package['name']}/LICENSE"
    project = tomllib.loads(text(REPOSITORY / "pyproject.toml"))["project"]

    assert package["integrity"].startswith("sha512-")
    assert (REPOSITORY / license_file).is_file()
    assert license_file in project["license-files"]
