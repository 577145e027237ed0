"""The tables of README and docs come from recorded runs, and from nowhere else."""

import json
import re

import pytest

from efficientad_lab.studies.records import file_name
from lab.experiments import make_tables


def recorded_run(**changes):
    return {
        "experiment": "main_job",
        "category": "bottle",
        "variant": "small, quick",
        "seed": 0,
        "metrics": {"image_au_roc": 0.99, "au_pro": 0.9},
        "seconds": {"train": 540.0},
        "machine": "2 cores",
        "versions": {"torch": "2.13.0"},
        "commit": "0123456789abcdef",
        **changes,
    }


@pytest.mark.parametrize(
    "document",
    make_tables.documents(),
    ids=lambda document: f"{document.parent.name}_{document.stem}",
)
def test_a_document_shows_what_the_recorded_runs_say(document):
    text = document.read_text(encoding="utf-8")

    assert make_tables.with_tables(text, make_tables.recorded_runs()) == text


def misplaced(experiments):
    """Return the recorded files that lie in another folder, or have another name."""
    return [
        path.name
        for path in experiments.glob("*/results/*.json")
        if (run := json.loads(path.read_text()))["experiment"] != path.parents[1].name
        or file_name(run) != path.name
    ]


def test_every_run_lies_in_the_folder_of_its_experiment(tmp_path):
    assert not misplaced(make_tables.EXPERIMENTS)

    stray = tmp_path / "peers" / "results" / "main_job_bottle_small_quick_seed0.json"
    stray.parent.mkdir(parents=True)
    stray.write_text(json.dumps(recorded_run()))
    assert misplaced(tmp_path) == [stray.name]


@pytest.mark.parametrize(
    "folder",
    sorted(path.parent for path in make_tables.EXPERIMENTS.glob("*/results")),
    ids=lambda folder: folder.name,
)
def test_every_experiment_names_its_question_answer_and_script(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")

    assert "**Question.**" in text
    assert "**Answer.**" in text
    if "Finished. The script was" in text:
        assert re.search(r"at commit `[0-9a-f]{9}`", text)
    else:
        assert "    " in text, "a command"


def test_the_readme_asks_for_its_small_tables():
    readme = (make_tables.REPOSITORY / "README.md").read_text(encoding="utf-8")

    assert [
        name for name in make_tables.VIEWS if f"<!-- table: {name} -->" in readme
    ] == [
        "readme_accuracy",
        "readme_speed",
    ]


def test_a_typed_number_is_replaced():
    """The positive control: a table that says something else must not survive."""
    text = "<!-- table: main_job -->\n| bottle | 100.0 |\n<!-- end of table -->\nend"

    after = make_tables.with_tables(text, [recorded_run()])

    assert "100.0" not in after
    assert "| bottle | small, quick | 99.0 | 90.0 | 9.0 | 1 |" in after
    assert after.endswith("<!-- end of table -->\nend")
    assert make_tables.with_tables(after, [recorded_run()]) == after


def test_the_ablation_of_table_3_has_the_papers_rows():
    text = "<!-- table: ablation_3_small -->\n<!-- end of table -->\n"
    run = recorded_run(experiment="ablation", variant="small, quick, b 0.98")

    after = make_tables.with_tables(text, [run, recorded_run()])

    assert "| b = 0.98 | bottle | 99.0 | 90.0 | 95.9 | 1 |" in after
    assert "| p_hard = 0.9999 |  | \u2013 | \u2013 | 95.8 | 0 |" in after
    assert make_tables.with_tables(after, [run]) == after


def test_the_time_of_an_interrupted_run_is_left_out():
    runs = [recorded_run(), recorded_run(seed=1, interrupted=True)]
    runs[1]["seconds"] = {"train": 5400.0}

    table = make_tables.table(runs)

    assert "| bottle | small, quick | 99.0 ± 0.0 | 90.0 ± 0.0 | 9.0 | 2 |" in table


def test_runs_of_one_row_are_a_mean_and_a_deviation_over_seeds():
    runs = [
        recorded_run(seed=seed, metrics={"image_au_roc": value})
        for seed, value in enumerate([0.97, 0.98, 0.99])
    ]

    assert "| bottle | small, quick | 98.0 ± 1.0 | 9.0 ± 0.0 | 3 |" in (
        make_tables.table(runs)
    )


def test_a_table_names_machine_versions_and_commit():
    shown = make_tables.table([recorded_run()])

    assert "Recorded on 2 cores; torch 2.13.0; commit `012345678`." in shown


def test_an_experiment_without_runs_says_so():
    text = "<!-- table: other -->\n<!-- end of table -->"

    after = make_tables.with_tables(text, [recorded_run()])

    assert "No run is recorded yet." in after


def test_checking_reports_a_stale_table_and_writing_mends_it(
    tmp_path, monkeypatch, capsys
):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table: main_job -->\nold\n<!-- end of table -->\n")
    results = tmp_path / "main_job" / "results"
    results.mkdir(parents=True)
    (results / "run.json").write_text(json.dumps(recorded_run()))
    monkeypatch.setattr(make_tables, "REPOSITORY", tmp_path)
    monkeypatch.setattr(make_tables, "EXPERIMENTS", tmp_path)

    assert make_tables.main(["--check"]) == 1
    assert "README.md" in capsys.readouterr().out
    assert make_tables.main([]) == 0
    assert make_tables.main(["--check"]) == 0
    assert "bottle" in readme.read_text()


def test_a_small_table_shows_some_rows_and_columns():
    runs = [
        recorded_run(
            experiment="deployment_avx2",
            category=category,
            variant=variant,
            metrics={"milliseconds": 80.0, "speedup": 7.0, "au_pro": 0.9},
        )
        for category, variant in (("bottle", "small, native"), ("screw", "other"))
    ]

    text = make_tables.with_tables(
        "<!-- table: readme_speed -->\n<!-- end of table -->\n", runs
    )

    assert "| bottle | small, native | 80 | 12.5 | 7.0 | 1 |" in text
    assert "screw" not in text
    assert "AU-PRO" not in text
