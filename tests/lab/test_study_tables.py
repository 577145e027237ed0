"""Means of recorded runs, and the tables beside the paper's numbers."""

from tests.lab.study_fakes import loco_run, run_of

from efficientad_lab.studies.records import FAILURE
from efficientad_lab.studies.summary import (
    detection,
    groups,
    overall,
    segmentation,
)
from efficientad_lab.studies.table_files import Table, markdown_table, write_tables
from efficientad_lab.studies.tables import (
    AblationRow,
    ablation_table,
    reproduction_tables,
)


def table_named(title, runs):
    return next(t for t in reproduction_tables(runs) if t.title == title)


def test_logical_and_structural_defects_weigh_the_same():
    assert detection(loco_run(0.8, 0.9)) == (0.8 + 0.9) / 2
    assert segmentation(loco_run(0.8, 0.9)) == (0.6 + 0.8) / 2


def test_elsewhere_all_defects_count_together():
    assert detection(run_of("screw", 0.7)) == 0.7
    assert segmentation(run_of("screw", 0.7)) == 0.9


def test_collections_weigh_the_same_however_many_scenarios_they_have():
    runs = [run_of("bottle", 0.9), run_of("screw", 0.7), loco_run(0.5, 0.5)]

    (mean,) = overall(groups(runs, "small, quick"), detection)

    assert abs(mean - (0.8 + 0.5) / 2) < 1e-12


def test_a_seed_counts_only_where_every_scenario_has_finished():
    runs = [
        run_of("bottle", 0.9),
        run_of("bottle", 1.0, seed=1),
        run_of("screw", 0.7),
        run_of("screw", 0.0, seed=1, **{FAILURE: "killed", "metrics": {}}),
    ]

    (group,) = groups(runs, "small, quick")

    assert group.by_seed(detection) == {0: 0.8}
    assert overall([group], detection) == [0.8]


def test_the_paper_s_numbers_stand_beside_those_of_its_collections():
    table = table_named("By collection", [run_of("bottle", 0.9), loco_run(0.8, 0.9)])

    absent = "\N{EN DASH}"
    shown = [(row[0], row[2], *row[3:]) for row in table.rows]
    loco = "1 of 5 of MVTec LOCO"
    assert shown == [
        ("MVTec AD", "1 of 15 of MVTec AD", "90.0", "98.8", "90.0", "1"),
        ("MVTec LOCO", loco, "85.0", "90.0", "70.0", "1"),
        ("MVTec LOCO, logical", loco, "80.0", "85.8", absent, "1"),
        ("MVTec LOCO, structural", loco, "90.0", "94.1", absent, "1"),
    ]


def test_a_scenario_shows_mean_and_deviation_over_seeds():
    runs = [run_of("bottle", value, seed=k) for k, value in enumerate((0.9, 1.0))]

    (row,) = table_named("By scenario", runs).rows

    assert row[:4] == ("MVTec AD", "bottle", "small, quick", "95.0 ± 7.1")
    assert row[-2:] == ("99.9 / 95.2", "2")


def test_the_paper_s_table_1_follows_ours():
    table = table_named("Detection and segmentation", [run_of("bottle", 0.9)])
    names = [row[0] for row in table.rows]

    assert names[0] == "small, quick"
    assert names[-2:] == ["EfficientAD-S, paper", "EfficientAD-M, paper"]
    assert table.rows[0][1:5] == ("1 of 15 of MVTec AD", "90.0", "90.0", "100.0")
    assert table.rows[-2][2:] == ("95.4", "92.5", "2.2", "614")


def test_a_failed_run_is_listed_with_its_reason():
    runs = [
        run_of("bottle", 0.9),
        run_of("screw", 0.0, **{FAILURE: "ImageError: torn", "metrics": {}}),
    ]

    table = table_named("Runs that failed", runs)

    assert table.rows == (("screw", "small, quick", "0", "ImageError: torn"),)
    titles = {each.title for each in reproduction_tables(runs[:1])}
    assert "Runs that failed" not in titles


def test_an_ablation_shows_ours_beside_the_paper_s():
    rows = [
        AblationRow("the method", "small, quick", 95.4),
        AblationRow("without penalty", "small, quick, without penalty", 95.0),
    ]

    table = ablation_table("Table 5", "", rows, [run_of("bottle", 0.9)])

    assert table.rows[0] == ("the method", "bottle", "90.0", "90.0", "95.4", "1")
    assert table.rows[1][2:] == ("–", "–", "95.0", "0")  # noqa: RUF001 - absent values


def test_tables_are_written_as_markdown_and_as_html(tmp_path):
    rows = (("a|b\nc", "1"), ("<i>", "2"))
    table = Table("A <b>", "x & y", ("name", "value"), rows)

    write_tables("Title", [table], tmp_path / "tables")

    assert markdown_table(table).splitlines()[1:3] == [
        "| --- | ---: |",
        "| a/b c | 1 |",
    ]
    markdown = (tmp_path / "tables.md").read_text()
    assert markdown.startswith("# Title\n\n## A <b>\n\n| name | value |")
    html = (tmp_path / "tables.html").read_text()
    assert "<h2>A &lt;b&gt;</h2>" in html
    assert "&lt;i&gt;" in html
    assert "<i>" not in html
