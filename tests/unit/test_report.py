"""The report: one file with everything in it, whatever the files are called."""

import base64
import io
import json
import re
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from efficientad.decisions.decision import Decision
from efficientad.decisions.rule import Rule
from efficientad.errors import StorageError
from efficientad.evaluation.pixel_results import RegionCounts
from efficientad.evaluation.report import Report, environment, write_report
from efficientad.evaluation.report_pictures import picture_of
from efficientad.evaluation.results import Evaluation, ScoredImage
from efficientad.evaluation.score_chart import score_chart
from efficientad.images.heatmaps import MASK_COLOR, THRESHOLD_COLOR
from efficientad.inspection.prediction import Prediction

VOID = {"meta", "img", "input"}
SCORES = st.floats(1e-3, 1e3)


class CheckedPage(HTMLParser):
    """Reads a page, and fails where an element is not closed in its turn."""

    def __init__(self, page):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"style", "script"}:
            self.texts.append(data.strip())

    def text_of_row(self, first):
        """The texts of a table's row, by the text of its first cell."""
        texts = [text for text in self.texts if text]
        start = texts.index(first, texts.index("Metrics"))
        return texts[start + 1 : start + 8]

    @property
    def cards(self):
        """The attributes of each image of the grid, in the order of the page."""
        return [a for tag, a in self.elements if tag == "button" and "data-name" in a]

    def sources(self, css_class):
        return [
            a["src"]
            for tag, a in self.elements
            if tag == "img" and a.get("class") == css_class and "src" in a
        ]


def scored(defect_type, image_score, name="a.png", threshold=0.5):
    decision: Decision = "anomalous" if image_score > threshold else "normal"
    return ScoredImage(name, defect_type, image_score, 0.1, decision)


def prediction_of(image_score=0.9, *, shape=(40, 60), grids=None, **changes):
    grid = np.linspace(0, 1, 56 * 56, dtype=np.float32).reshape(56, 56)
    return Prediction(
        image_score=image_score,
        p_value=1 / 16,
        n_normal=15,
        threshold=0.5,
        height=shape[0],
        width=shape[1],
        grids={"local": grid, "global": grid.T.copy()} if grids is None else grids,
        normal_range=(0.1, 0.5),
        **changes,
    )


def shown(
    defect_type="scratch", image_score=0.9, *, name="a.png", shape=(40, 60), **how
):
    image = how.pop("image", np.full((*shape, 3), 128, np.uint8))
    mask = None
    if defect_type != "good":
        mask = np.zeros(shape, np.bool_)
        mask[shape[0] // 2, shape[1] // 2] = True
    prediction = prediction_of(image_score, shape=shape, grids=how.pop("grids", None))
    return picture_of(name, defect_type, image, prediction, mask, **how)


def report_of(*, evaluation=(), **changes):
    """A report; any field of it and of its evaluation can be changed."""
    evaluated = Evaluation(
        category="plate",
        metrics={"image_au_roc": 0.987, "au_pro": 0.5},
        metrics_by_defect_type={
            "scratch": {"image_au_roc": 0.9, "au_pro": 0.4},
            "dent": {"image_au_roc": 0.99},
        },
        undefined={},
        undefined_by_defect_type={},
        scores=[
            *(scored("scratch", s) for s in (0.3, 0.9)),
            *(scored("dent", s) for s in (0.4, 0.8, 2.0)),
            *(scored("good", s) for s in (0.1, 0.2, 0.3, 0.6)),
        ],
        threshold=0.5,
        seconds=1.0,
    )
    report = Report(
        title="plate: evaluation",
        evaluation=replace(evaluated, **dict(evaluation)),
        made_on=date(2024, 1, 4),
    )
    return replace(report, **changes)


def written(report, tmp_path):
    path = tmp_path / "report.html"
    write_report(report, path)
    return path.read_text(encoding="utf-8")


def has_color_like(picture, color):
    return bool((np.abs(picture.astype(int) - color).max(axis=2) < 40).any())


# The page


def test_the_page_is_well_formed_and_needs_nothing_from_outside(tmp_path):
    page = written(report_of(pictures=[shown(), shown("good", 0.3)]), tmp_path)
    checked = CheckedPage(page)

    assert page.startswith("<!DOCTYPE html>")
    for tag, attributes in checked.elements:
        assert tag not in {"link", "iframe", "object"}
        assert not {"href", "srcset", "onload"} & set(attributes)
        assert str(attributes.get("src", "data:")).startswith("data:")
    assert "http" not in page
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp|import\(|eval\(", page)


def test_the_check_notices_an_element_that_is_not_closed():
    with pytest.raises(AssertionError):
        CheckedPage("<p><b>text</p>")


def test_the_decisions_are_the_first_that_is_said(tmp_path):
    texts = [t for t in CheckedPage(written(report_of(), tmp_path)).texts if t]

    start = texts.index("Found")
    assert " ".join(texts[start : start + 5]) == (
        "Found 3 of 5 defects, with 1 false alarm in 4 normal images"
    )
    assert "plate: evaluation" in texts[:start]
    assert "2024-01-04" in texts[:start]
    assert texts[start + 5].startswith(
        "An image is reported if its score is above the threshold of 0.5,"
    )


def test_a_report_may_be_undated(tmp_path):
    page = written(report_of(made_on=None), tmp_path)

    assert "2024-01-04" in written(report_of(), tmp_path)
    assert not re.search(r"20\d\d-\d\d-\d\d", page)


def test_each_defect_type_has_its_metrics_and_counts(tmp_path):
    checked = CheckedPage(written(report_of(), tmp_path))

    assert checked.text_of_row("all defects")[:4] == ["5", "3", "0.987", "0.500"]
    assert checked.text_of_row("scratch")[:4] == ["2", "1", "0.900", "0.400"]
    assert checked.text_of_row("dent")[:4] == ["3", "2", "0.990", "\N{EN DASH}"]


def test_why_a_metric_is_undefined_is_said_once(tmp_path):
    reason = "AU-PRO needs a mask"
    undefined = {"au_pro": reason, "other": reason}
    by_type = {"dent": undefined, "<crack>": {"au_pro": reason}}
    page = written(
        report_of(evaluation={"undefined_by_defect_type": by_type}), tmp_path
    )
    texts = CheckedPage(page).texts

    assert page.count(reason) == 1
    assert texts[texts.index("dent, <crack>") + 1] == f": {reason}."
    assert "needs a mask" not in written(report_of(), tmp_path)


def test_a_metric_that_the_report_does_not_know_is_shown_all_the_same(tmp_path):
    metrics = {"au_pro": 0.5, "image_au_roc": 0.75, "recall_at_<1": 0.25}
    page = written(report_of(evaluation={"metrics": metrics}), tmp_path)

    columns = re.findall(r'<th scope="col">([^<]*)</th>', page)
    assert columns[2:] == ["found", "image\nAU-ROC", "AU-PRO", "recall at &lt;1"]


def test_what_the_calibration_can_guarantee_stands_with_the_decisions(tmp_path):
    report = report_of(calibration="20 images & so on", facts={"size": "small"})
    page = written(report, tmp_path)

    assert "Calibration: 20 images &amp; so on." in page
    assert page.count("20 images") == 1
    assert "<dt>size</dt><dd>small</dd>" in page


def test_nothing_is_said_about_an_unknown_model(tmp_path):
    page = written(report_of(), tmp_path)

    assert "<h2>Model</h2>" not in page
    assert "Calibration" not in page
    assert "<h2>Images</h2>" not in page


HOSTILE = "<script>alert(1)</script>\"'&\u202egnp.\x1b[31m"


def test_everything_from_outside_is_escaped(tmp_path):
    report = report_of(
        title=HOSTILE,
        evaluation={
            "metrics": {HOSTILE: 0.5},
            "metrics_by_defect_type": {HOSTILE: {}},
            "undefined": {HOSTILE: HOSTILE},
            "scores": [scored(HOSTILE, 0.7, name=HOSTILE), scored("good", 0.1)],
        },
        pictures=[shown(HOSTILE, name=HOSTILE)],
        calibration=HOSTILE,
        facts={HOSTILE: HOSTILE},
    )
    page = written(report, tmp_path)

    assert "<script>alert" not in page
    checked = CheckedPage(page)
    assert checked.texts.count(HOSTILE) >= 6
    assert checked.cards[0]["data-name"] == HOSTILE


def test_all_scores_are_there_for_another_threshold(tmp_path):
    page = written(report_of(), tmp_path)

    found = re.search(r'id="all-scores">(.*?)</script>', page)
    assert found is not None
    scores = json.loads(found[1])
    assert [True, 2.0] in scores
    assert [False, 0.6] in scores
    assert len(scores) == 9


def test_a_file_name_of_foreign_bytes_is_written(tmp_path):
    name = b"pi\xe8ce.png".decode("utf-8", errors="surrogateescape")

    assert "pi\\udce8ce.png" in written(
        report_of(pictures=[shown(name=name)]), tmp_path
    )


# Images


@pytest.mark.parametrize(
    ("defect_type", "image_score", "verdict"),
    [
        ("scratch", 0.9, "found"),
        ("scratch", 0.5, "missed"),
        ("good", 0.9, "false alarm"),
        ("good", 0.1, "passed"),
    ],
)
def test_a_card_shows_the_score_and_whether_the_decision_is_right(
    tmp_path, defect_type, image_score, verdict
):
    picture = shown(defect_type, image_score, name="test/x/000.png")
    checked = CheckedPage(written(report_of(pictures=[picture]), tmp_path))
    (card,) = checked.cards

    assert card["data-verdict"] == verdict
    assert float(str(card["data-score"])) == image_score
    assert card["data-p"] == "below 1 in 16"
    start = checked.texts.index("test/x/000.png")
    assert {verdict, f"{image_score:g}"} <= set(checked.texts[start - 6 : start])


def test_every_map_is_a_layer_under_its_name(tmp_path):
    grid = np.zeros((56, 56), np.float32)
    picture = shown(grids=dict.fromkeys(("texture", "<shape>"), grid))
    (card,) = CheckedPage(written(report_of(pictures=[picture]), tmp_path)).cards

    layers = json.loads(str(card["data-layers"]))
    assert [name for name, _ in layers] == ["texture", "<shape>"]
    assert all(layer.startswith("data:image/png") for _, layer in layers)


def test_local_and_global_map_are_not_mixed_up():
    """The local one grows downwards, the global one to the right."""
    layers = shown(shape=(60, 60)).layers
    local, overall = (opacity_of(layers[name]) for name in ("local", "global"))

    assert local[80, 30] > local[30, 80] + 40
    assert overall[30, 80] > overall[80, 30] + 40


def opacity_of(source):
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as layer:
        return np.asarray(layer.convert("RGBA"))[:, :, 3].astype(int)


def test_a_layer_has_the_shape_of_its_image_and_is_clear_where_normal():
    grid = np.zeros((56, 56), np.float32)
    layer = shown(shape=(300, 600), grids={"local": grid}).layers["local"]

    opacity = opacity_of(layer)
    assert opacity.shape == (56, 112)
    assert (opacity == 0).all()


def test_outlines_show_the_annotated_defect_and_what_is_above_the_threshold():
    both = picture_of_lines(shown())
    annotated = picture_of_lines(shown(grids={"local": np.zeros((56, 56), np.float32)}))

    assert has_color_like(both, MASK_COLOR)
    assert has_color_like(both, THRESHOLD_COLOR)
    assert has_color_like(annotated, MASK_COLOR)
    assert not has_color_like(annotated, THRESHOLD_COLOR)
    assert not shown("good", grids={"local": np.zeros((56, 56), np.float32)}).lines


def picture_of_lines(picture):
    with Image.open(io.BytesIO(base64.b64decode(picture.lines.partition(",")[2]))) as p:
        drawn = np.array(p.convert("RGBA"))
    return drawn[drawn[:, :, 3] == 255][None, :, :3]


def flat(value):
    return np.full((56, 56), value, np.float32)


@pytest.mark.parametrize(
    ("score", "local", "overall", "source", "reason"),
    [
        (0.9, 1.5, 0.3, "local", "a patch looks unlike"),
        (0.9, 0.3, 1.5, "global", "the arrangement is unlike"),
        (0.9, 0.2, 0.2, "image", "the image as a whole is unlike"),
        (0.25, 0.2, 0.2, "", "the score is 50% of the threshold"),
    ],
)
def test_the_reason_of_a_decision_is_one_sentence(
    score, local, overall, source, reason
):
    grids = {"local": flat(local), "global": flat(overall)}
    picture = shown(image_score=score, grids=grids)

    assert picture.source == source
    assert reason in picture.reason


def test_a_reason_says_where_the_largest_region_is():
    grid = np.zeros((56, 56), np.float32)
    grid[20:30, 20:40] = grid[5, 5] = 4

    picture = shown(shape=(256, 256), grids={"local": grid})

    assert "2 regions, the largest" in picture.reason
    assert re.search(r"8\d x 4\d pixels at x 9\d, y 9\d$", picture.reason)


def test_an_unsure_image_is_neither_found_nor_missed():
    prediction = prediction_of(0.4, unsure_threshold=0.3)
    image = np.zeros((40, 60, 3), np.uint8)

    assert picture_of("a.png", "scratch", image, prediction).verdict == "unsure"


def test_unsure_images_are_counted_though_the_page_does_not_show_them(tmp_path):
    scores = [scored("scratch", 0.9), scored("good", 0.1)]
    scores.append(ScoredImage("b.png", "good", 0.4, 0.2, "unsure"))
    regions = RegionCounts(1, 1, 0)
    report = report_of(evaluation={"scores": scores, "regions": regions})

    assert str(report.evaluation) == (
        "found 1 of 1 defects, 0 of 2 false alarms, 1 unsure"
    )
    assert "1 image is unsure" in written(report, tmp_path)


def test_the_region_of_interest_is_outlined():
    mask = np.zeros((40, 60), np.bool_)
    mask[10:30, 10:50] = True
    prediction = prediction_of(0.1, grids={"local": flat(0)}, rule=rule_of(mask))

    lines = picture_of(
        "a.png", "good", np.zeros((40, 60, 3), np.uint8), prediction
    ).lines

    with Image.open(io.BytesIO(base64.b64decode(lines.partition(",")[2]))) as layer:
        drawn = np.asarray(layer.convert("RGBA"))[:, :, 3] > 0
    assert drawn[9, 30]
    assert not drawn[20, 30]
    assert not drawn[2, 2]


def rule_of(mask):
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    return Rule(base64.b64encode(stream.getvalue()).decode())


def test_the_normal_images_with_the_highest_scores_are_shown_apart(tmp_path):
    pictures = [shown("good", k / 10, name=f"{k}.png") for k in range(1, 9)]
    checked = CheckedPage(written(report_of(pictures=pictures), tmp_path))
    apart = [
        a["data-index"]
        for tag, a in checked.elements
        if tag == "button" and "data-index" in a and "data-name" not in a
    ]

    assert apart == ["7", "6", "5", "4", "3", "2"]


@pytest.mark.parametrize("shape", [(2000, 1000), (300, 1200), (8, 1200)])
def test_large_images_are_shown_small_and_their_smallest_defect_stays(shape):
    picture = shown(shape=shape, grids={"local": flat(0)})

    assert max(picture_at(picture.photo).shape) == 1024
    assert has_color_like(picture_of_lines(picture), MASK_COLOR)


def picture_at(source):
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGB"))


def test_500_images_take_less_than_15_megabytes(tmp_path, rng):
    """Noise is the hardest to compress: no photograph takes more."""
    noise = rng.integers(0, 256, (1200, 900, 3), np.uint8)
    rows = np.linspace(0, 6, 56, dtype=np.float32)
    grids = {"local": np.outer(np.sin(rows), np.cos(rows)) ** 2}
    grids["global"] = grids["local"] + rng.random((56, 56), np.float32) / 50
    picture = shown(shape=(1200, 900), image=noise, grids=grids, n_pictures=500)

    page = written(report_of(pictures=[picture] * 500), tmp_path)

    assert 5_000_000 < len(page) < 15_000_000


@pytest.mark.parametrize("threshold", [-1.0, 0.01])
def test_a_threshold_set_by_hand_may_be_strange(tmp_path, threshold):
    page = written(
        report_of(evaluation={"threshold": threshold}, pictures=[shown()]), tmp_path
    )

    CheckedPage(page)
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page)


# Writing


def test_a_folder_is_made_and_an_old_report_replaced(tmp_path):
    path = tmp_path / "new" / "report.html"
    for title in ("first", "second"):
        write_report(report_of(title=title), path)

    assert "<title>second</title>" in path.read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_a_report_that_cannot_be_written_leaves_what_was_there(tmp_path):
    path = tmp_path / "report.html"
    path.mkdir()

    with pytest.raises(
        StorageError, match=r"cannot write .*report\.html \(.+\); check"
    ):
        write_report(report_of(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match="cannot write"):
        write_report(report_of(), tmp_path / "file" / "report.html")


# The chart


def drawn(scores, threshold):
    """The chart as SVG."""
    chart = score_chart(scores, threshold)
    return environment().get_template("score_chart.svg.j2").render(chart=chart)


def number(element, name):
    return float(element.get(name, "nan"))


def elements_of(chart):
    """The chart's rectangles and circles: class, horizontal middle, count or 1."""
    for element in ET.fromstring(chart):  # noqa: S314 - made by the package
        if element.tag == "rect":
            middle = number(element, "x") + number(element, "width") / 2
            yield "rect", element.get("class"), middle, int(str(element[0].text))
        elif element.tag == "circle":
            yield "circle", element.get("class"), number(element, "cx"), 1


def threshold_place(chart):
    root = ET.fromstring(chart)  # noqa: S314 - made by the package
    (line,) = [e for e in root if e.get("class") == "threshold"]
    return number(line, "x1")


@given(
    normal=st.lists(SCORES, max_size=30),
    defects=st.lists(SCORES, min_size=1, max_size=30),
    threshold=SCORES,
)
def test_bars_and_dots_are_on_the_side_of_the_threshold_where_scores_are(
    normal, defects, threshold
):
    chart = drawn({"good": normal, "dent": defects}, threshold)
    at = threshold_place(chart)

    for name, scores in (("normal", normal), ("defect", defects)):
        n_above = sum(score > threshold * (1 + 1e-6) for score in scores)
        n_close = sum(abs(score / threshold - 1) <= 1e-6 for score in scores)
        bars = [
            (x, n) for tag, c, x, n in elements_of(chart) if (tag, c) == ("rect", name)
        ]
        assert sum(n for _, n in bars) == len(scores)
        assert 0 <= sum(n for x, n in bars if x > at) - n_above <= n_close
        dots = [
            x for tag, c, x, _ in elements_of(chart) if (tag, c) == ("circle", name)
        ]
        assert len(dots) == len(scores)
        assert all(120 < x < 850 for x in dots)


def test_a_score_at_the_threshold_is_not_above_it():
    chart = drawn({"good": [0.2], "dent": [0.5, 0.8]}, 0.5)
    at = threshold_place(chart)
    below = [n for tag, c, x, n in elements_of(chart) if tag == "rect" and x < at]

    assert sum(below) == 2


@pytest.mark.parametrize(
    ("scores", "is_log"),
    [([0.1, 0.5], False), ([0.1, 9.0], True), ([-1.0, 9.0], False)],
)
def test_scores_of_very_different_size_are_shown_logarithmically(scores, is_log):
    chart = drawn({"good": scores[:1], "dent": scores[1:]}, 0.3)

    assert ("image score (logarithmic)" in chart) == is_log


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.0, 1.0], ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ([0.02, 60.0], ["0.03", "0.1", "0.3", "1", "3", "10", "30"]),
        ([1e-9, 1e9], ["1e-09", "1"]),
        ([0.5, 0.5], ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
    ],
)
def test_ticks_are_round(scores, expected):
    chart = drawn({"good": scores}, scores[0])
    root = ET.fromstring(chart)  # noqa: S314 - made by the package
    ticks = [
        e.text
        for e in root
        if e.get("class") == "tick" and e.get("text-anchor") == "middle"
    ]

    assert ticks[: len(expected)] == expected or set(expected) <= set(ticks)
    assert 2 <= len(ticks) <= 12 or scores[0] == 1e-9


def test_a_long_name_is_cut():
    chart = drawn({"good": [0.1], "a very long defect type": [0.2]}, 0.15)

    assert ">a very long defe…<" in chart
