"""Processor and commit, as provenance names them."""

import pytest

from efficientad.cli import environment


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("model name\t: Chip\nflags\t\t: fpu avx2 avx512f\n", "Chip (AVX-512, AVX2)"),
        ("model name\t: Chip\nflags\t\t: fpu\n", "Chip"),
    ],
)
def test_a_processor_is_named_with_what_it_can(tmp_path, monkeypatch, text, name):
    information = tmp_path / "cpuinfo"
    information.write_text(text)
    monkeypatch.setattr(environment, "Path", lambda _: information)

    assert environment.processor() == name


def test_an_installed_package_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "_CHECKOUT", tmp_path)

    assert environment.commit() == "none"
