"""The demo at a few steps: the same seed gives the same bytes."""

import re
import sys

import pytest

from efficientad.demo_parts import demo


@pytest.fixture
def tiny_demo(monkeypatch):
    monkeypatch.setattr(demo, "_N_TRAIN", 12)
    monkeypatch.setattr(demo, "_N_TEST_GOOD", 2)
    monkeypatch.setattr(demo, "_N_PER_DEFECT", 1)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_demo")
def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name in ("one", "other"):
        demo.demo(tmp_path / name, steps=4)

    for name in ("metrics.json", "report.html", "region/report.html"):
        one = (tmp_path / "one" / name).read_bytes()
        assert one == (tmp_path / "other" / name).read_bytes()
        assert not re.search(rb"\b20\d\d-\d\d-\d\d\b", one), "a date differs tomorrow"
    # As the loop left it: the report of the region. It says what it is of.
    assert b"<title>Demo on parts drawn by code: defects of 20 pixels" in one
    assert b"gray the region of interest" in one


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_demo")
def test_no_standard_error_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)

    found = demo.demo(tmp_path, steps=1)

    assert "image_au_roc" in found.metrics
    assert (tmp_path / "report.html").is_file()
