import re

import numpy as np
import pytest

from efficientad.errors import StorageError
from efficientad.judgement.report import Case, Report, ScoredImage, write_report
from efficientad.method.decision import Prediction


def report_of(name="test/scratch/000.png"):
    grid = np.linspace(0, 1, 56 * 56, dtype=np.float32).reshape(56, 56)
    prediction = Prediction(
        image_score=0.9,
        p_value=0.1,
        threshold=0.5,
        height=40,
        width=60,
        local_grid=grid,
        global_grid=grid.T.copy(),
    )
    image = np.full((40, 60, 3), 128, np.uint8)
    mask = np.zeros((40, 60), np.bool_)
    mask[10:20, 10:20] = True
    case = Case(name, "scratch", prediction, image, mask)
    return Report(
        title="plate: evaluation",
        metrics={"image_au_roc": 0.987, "au_pro": 0.5},
        metrics_by_defect_type={"scratch": {"image_au_roc": 0.987}},
        scores=[
            ScoredImage(name, "scratch", 0.9, 0.1, is_anomalous=True),
            ScoredImage("b", "scratch", 0.3, 0.5, is_anomalous=False),
            ScoredImage("c", "good", 0.2, 0.9, is_anomalous=False),
        ],
        threshold=0.5,
        missed=[case],
        found=[case],
        highest_normal=[],
        facts={"calibration": "20 held-out images & so on"},
    )


def test_the_page_needs_nothing_from_outside(tmp_path):
    write_report(report_of(), tmp_path / "report.html")

    page = (tmp_path / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,20})', page)
    assert len(sources) > 5
    assert all(source.startswith("data:image/") for source in sources)
    assert "<script" not in page
    assert "http" not in page


def test_the_page_counts_decisions_and_shows_metrics(tmp_path):
    write_report(report_of(), tmp_path / "report.html")

    page = (tmp_path / "report.html").read_text()
    assert "<b>1 <small>of 2</small></b><span>defects found" in page
    assert "<b>0 <small>of 1</small></b><span>false alarms" in page
    assert "0.987" in page
    assert "<td>–</td>" in page  # a metric that is undefined for this defect type


def test_names_from_outside_are_escaped(tmp_path):
    write_report(report_of("<b>&.png"), tmp_path / "report.html")

    page = (tmp_path / "report.html").read_text()
    assert "&lt;b&gt;&amp;.png" in page
    assert "<b>&.png" not in page


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "report.html"
    path.mkdir()

    with pytest.raises(StorageError, match="cannot write"):
        write_report(report_of(), path)
    assert path.is_dir()
