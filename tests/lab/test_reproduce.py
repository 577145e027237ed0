"""Reproduction: what is recorded, skipped, tried again and resumed.

Trainings are faked by a detector of random weights, so that only the machinery runs.
"""

import json
import os
import pickle
import shutil
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.fake_engines import brightness_predictor
from tests.lab.study_fakes import CONFIG, FakeTraining

import efficientad
from efficientad.cli import main as cli
from efficientad.datasets import open_category
from efficientad.demo_parts import write_category
from efficientad.errors import DatasetError, ImageError, ResultError, StorageError
from efficientad.evaluation.evaluate import evaluate
from efficientad.model_files.teachers import open_teacher
from efficientad_lab.studies import jobs
from efficientad_lab.studies.records import read_runs
from efficientad_lab.studies.reproduce import planned, reproduce
from efficientad_lab.studies.study import JobTask
from lab.experiments.main_job import run as main_job


@pytest.fixture
def training(monkeypatch):
    fake = FakeTraining(lambda provenance, _output: brightness_predictor(**provenance))
    monkeypatch.setattr(jobs, "train", fake)
    return fake


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    root = tmp_path_factory.mktemp("collection")
    for name, seed in (("axle", 1), ("bolt", 2)):
        write_category(
            root / name, n_train=10, n_test_good=2, n_per_defect=1, seed=seed, size=64
        )
    return root


def failed(runs):
    return {(r["category"], r["seed"]): r["failure"] for r in runs if "failure" in r}


@pytest.mark.usefixtures("training")
def test_every_scenario_is_recorded_for_every_seed(collection, tmp_path):
    assert reproduce([collection], tmp_path, CONFIG) == []

    runs = read_runs(tmp_path)
    assert [(run["category"], run["seed"]) for run in runs] == [
        *(("axle", 0), ("axle", 1), ("bolt", 0), ("bolt", 1))
    ]
    assert {run["variant"] for run in runs} == {"small, quick, 4 steps"}
    for run in runs:
        assert run["settings"]["recipe"]["steps"] == 4
        assert run["settings"]["config"]["seed"] == str(run["seed"])
        assert run["settings"]["teacher"] == open_teacher("small").file_hash
        assert 0 <= run["metrics"]["image_au_roc"] <= 1
        assert len(run["metrics"]["defect_types"]) == 7
        assert set(run["seconds"]) == {"train", "this_process", "evaluate"}
        assert {"machine", "versions", "commit", "latency_ms"} <= set(run)
    assert "2 others" in (tmp_path / "reproduce.md").read_text()
    assert "<table>" in (tmp_path / "reproduce.html").read_text()


def test_one_seed_of_everything_comes_before_the_next(collection, training, tmp_path):
    reproduce([collection], tmp_path, CONFIG)

    assert [seed for _, _, seed in training.trained] == [0, 0, 1, 1]


def test_finished_runs_are_skipped(collection, training, tmp_path):
    reproduce([collection], tmp_path, replace(CONFIG, seeds=(0,)))
    training.trained.clear()

    reproduce([collection], tmp_path, CONFIG)

    assert training.trained == [("axle", "small", 1), ("bolt", "small", 1)]


def test_a_failed_run_is_recorded_and_the_others_go_on(collection, training, tmp_path):
    training.fails_for["axle"] = ImageError("a picture was needed, got a torn one")

    failures = reproduce([collection], tmp_path, CONFIG)

    reason = "ImageError: a picture was needed, got a torn one"
    runs = read_runs(tmp_path)
    assert failed(runs) == {("axle", 0): reason, ("axle", 1): reason}
    assert len(runs) == 4
    assert failures == [training.fails_for["axle"]] * 2
    assert reason in (tmp_path / "reproduce.md").read_text()


def test_a_failed_run_is_tried_again(collection, training, tmp_path):
    training.fails_for["axle"] = RuntimeError("out of memory")
    reproduce([collection], tmp_path, CONFIG)
    training.fails_for.clear()
    training.trained.clear()

    assert reproduce([collection], tmp_path, CONFIG) == []

    assert {name for name, _, _ in training.trained} == {"axle"}
    assert not failed(read_runs(tmp_path))


def test_ctrl_c_is_no_failed_run(collection, training, tmp_path):
    training.fails_for["bolt"] = KeyboardInterrupt()

    with pytest.raises(KeyboardInterrupt):
        reproduce([collection], tmp_path, CONFIG)
    assert [run["category"] for run in read_runs(tmp_path)] == ["axle"]


def test_a_scenario_without_defects_fails_before_its_training(
    collection, training, tmp_path
):
    only_good = tmp_path / "only_good"
    for part in ("train/good", "test/good"):
        (only_good / part).parent.mkdir(parents=True)
        (only_good / part).symlink_to(collection / "axle" / part)

    (failure,) = reproduce([only_good], tmp_path / "out", replace(CONFIG, seeds=(0,)))

    assert f"{only_good} has no defective ones" in str(failure)
    assert training.trained == []


def test_a_scenario_with_too_few_normal_images_fails_before_its_training(
    collection, training, tmp_path
):
    only_test = tmp_path / "only_test"
    only_test.mkdir()
    for part in ("test", "ground_truth"):
        (only_test / part).symlink_to(collection / "axle" / part)

    (failure,) = reproduce([only_test], tmp_path / "out", replace(CONFIG, seeds=(0,)))

    assert f"{only_test} has 0; add some" in str(failure)
    assert training.trained == []


def test_an_annotation_that_cannot_be_used_fails_before_the_training(
    collection, training, tmp_path
):
    broken = tmp_path / "axle"
    shutil.copytree(collection / "axle", broken)
    mask = min(broken.glob("ground_truth/*/*.png"))
    Image.new("L", (9, 8), 255).save(mask)
    settings = replace(CONFIG, seeds=(0,))

    (failure,) = reproduce([broken], tmp_path / "out", settings)
    (broken / "defects_config.json").write_text("[")
    (other,) = reproduce([broken], tmp_path / "another", settings)

    assert f"{mask} has 9 x 8 pixels" in str(failure)
    assert str(broken / "defects_config.json") in str(other)
    assert training.trained == []


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (("recipe", "learning_rate"), r"other settings .*\(recipe\)"),
        (("config", "size"), r"other settings .*\(config\)"),
        (("teacher",), r"other settings .*\(teacher\)"),
        (("images",), r"other settings .*\(images\)"),
        (("annotations",), r"other settings .*\(annotations\)"),
    ],
)
def test_a_run_of_other_settings_is_refused_before_anything_is_done(
    collection, training, tmp_path, place, words
):
    reproduce([collection / "bolt"], tmp_path, CONFIG)
    path = tmp_path / "reproduce_bolt_small_quick_4_steps_seed1.json"
    run = json.loads(path.read_text())
    *outer, name = place
    inner = reduce(dict.__getitem__, outer, run["settings"])
    inner[name] = "7"
    path.write_text(json.dumps(run))
    training.trained.clear()

    with pytest.raises(ResultError, match=words) as raised:
        reproduce([collection], tmp_path, CONFIG)
    assert str(path) in str(raised.value)
    assert training.trained == []


@pytest.mark.usefixtures("training")
def test_a_run_is_not_taken_for_that_of_other_images_of_the_same_name(
    collection, tmp_path
):
    reproduce([collection / "bolt"], tmp_path / "out", CONFIG)
    shutil.copytree(collection / "bolt", tmp_path / "copy" / "bolt")
    shutil.copytree(collection / "axle", tmp_path / "other" / "bolt")

    assert reproduce([tmp_path / "copy"], tmp_path / "out", CONFIG) == []
    with pytest.raises(ResultError, match=r"other settings .*\(annotations, images\)"):
        reproduce([tmp_path / "other"], tmp_path / "out", CONFIG)


@pytest.mark.usefixtures("training")
def test_a_run_is_not_taken_for_that_of_other_masks(collection, tmp_path):
    own = Path(shutil.copytree(collection / "bolt", tmp_path / "bolt"))
    reproduce([own], tmp_path / "out", CONFIG)
    assert reproduce([own], tmp_path / "out", CONFIG) == []
    mask = min((own / "ground_truth").glob("*/*"))
    Image.fromarray(np.asarray(Image.open(mask))[::-1]).save(mask)

    with pytest.raises(ResultError, match=r"other settings .*\(annotations\)"):
        reproduce([own], tmp_path / "out", CONFIG)


def test_two_scenarios_of_one_name_are_refused(collection, tmp_path):
    (tmp_path / "axle").symlink_to(collection / "axle")

    with pytest.raises(DatasetError, match="have the same"):
        reproduce([collection, tmp_path / "axle"], tmp_path / "out", CONFIG)


@pytest.fixture
def real_files(training, predictor, monkeypatch):
    """Trainings that leave a real detector file; a fake is evaluated in its place."""

    def make(provenance, output):
        made = replace(predictor, provenance=provenance)
        efficientad.save(made, output)
        return made

    def evaluate_fake(_predictor, category, output):
        return evaluate(brightness_predictor(), category, output=output)

    monkeypatch.setattr(jobs, "evaluate", evaluate_fake)
    training.make = make
    return training


def test_a_detector_whose_evaluation_was_killed_is_not_trained_again(
    collection, real_files, tmp_path, monkeypatch
):
    config = replace(CONFIG, seeds=(0,))

    def killed(*_arguments, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            reproduce([collection / "axle"], tmp_path, config)
    reproduce([collection / "axle"], tmp_path, config)

    assert real_files.trained == [("axle", "small", 0)]
    (run,) = read_runs(tmp_path)
    assert run["seconds"]["train"] == 60.0


@pytest.mark.usefixtures("real_files")
def test_a_saved_detector_of_other_settings_is_refused(collection, tmp_path):
    config = replace(CONFIG, seeds=(0,))
    reproduce([collection / "axle"], tmp_path, config)
    (tmp_path / "reproduce_axle_small_quick_4_steps_seed0.json").unlink()
    path = tmp_path / "work" / "reproduce_axle_small_quick_4_steps_seed0" / "part.ead"
    saved = efficientad.load(path)
    recipe = {**saved.provenance["recipe"], "p_hard": 0.5}
    provenance = {**saved.provenance, "recipe": recipe}
    efficientad.save(replace(saved, provenance=provenance), path)

    (failure,) = reproduce([collection / "axle"], tmp_path, config)

    assert f"{path} is a detector of other settings" in str(failure)


@pytest.mark.usefixtures("real_files")
def test_a_saved_detector_of_other_images_is_refused(collection, tmp_path):
    config = replace(CONFIG, seeds=(0,))
    axle = tmp_path / "axle"
    shutil.copytree(collection / "axle", axle)
    reproduce([axle], tmp_path / "out", config)
    (tmp_path / "out" / "reproduce_axle_small_quick_4_steps_seed0.json").unlink()
    first = min((axle / "train" / "good").iterdir())
    Image.new("RGB", (64, 64)).save(first)

    (failure,) = reproduce([axle], tmp_path / "out", config)

    assert "part.ead is a detector of other settings or images" in str(failure)


def test_a_task_can_be_sent_to_another_process(collection, tmp_path):
    (job, *_) = planned([collection], CONFIG)
    task = JobTask(job, jobs.Place(tmp_path, tmp_path / "work"))

    assert pickle.loads(pickle.dumps(task)) == task  # noqa: S301 - our own bytes


def test_a_test_image_to_train_on_is_found_before_the_training(
    collection, training, tmp_path
):
    axle = tmp_path / "axle"
    shutil.copytree(collection / "axle", axle)
    original = min((axle / "train" / "good").iterdir())
    shutil.copy(original, axle / "test" / "good" / "again.png")

    (failure,) = reproduce([axle], tmp_path / "out", replace(CONFIG, seeds=(0,)))

    assert f"again.png is a duplicate of {original}" in str(failure)
    assert training.trained == []


def test_no_folder_is_bad_input(tmp_path, capsys):
    assert cli.main(["reproduce", "--output", str(tmp_path)]) == 2
    assert "needed a category or a folder of categories" in capsys.readouterr().err


def test_names_that_would_share_a_file_are_refused(collection, tmp_path):
    for name in ("part 1", "Part-1"):
        shutil.copytree(collection / "axle", tmp_path / "parts" / name)

    with pytest.raises(DatasetError, match="scenarios need different names"):
        reproduce([tmp_path / "parts"], tmp_path / "out", CONFIG)


def test_a_result_that_cannot_be_written_ends_everything(
    collection, training, tmp_path, monkeypatch
):
    def full(run, _folder):
        raise StorageError(f"no space left for {run['category']}")

    monkeypatch.setattr(jobs, "write_run", full)

    with pytest.raises(StorageError, match="no space left for axle"):
        reproduce([collection], tmp_path, CONFIG)
    assert training.trained == [("axle", "small", 0)]


@pytest.mark.usefixtures("training")
def test_tables_are_written_again_where_everything_is_finished(collection, tmp_path):
    reproduce([collection / "axle"], tmp_path, CONFIG)
    (tmp_path / "reproduce.md").unlink()

    reproduce([collection / "axle"], tmp_path, CONFIG)

    assert "axle" in (tmp_path / "reproduce.md").read_text()


@pytest.mark.usefixtures("training")
def test_names_may_be_no_utf_8(collection, tmp_path):
    axle = tmp_path / "axle"
    shutil.copytree(collection / "axle", axle)
    first = min((axle / "train" / "good").iterdir())
    first.rename(first.with_name(os.fsdecode(b"Pr\xfcfling.png")))

    assert reproduce([axle], tmp_path / "out", CONFIG) == []


@pytest.mark.parametrize(("keep", "kept"), [("first_seed", {0}), ("all", {0, 1})])
@pytest.mark.usefixtures("real_files")
def test_detectors_of_further_seeds_stay_where_asked(collection, tmp_path, keep, kept):
    config = replace(CONFIG, keep_detectors=keep, seeds=(1, 0))

    reproduce([collection / "axle"], tmp_path, config)

    # The lowest seed is the one the figures take.
    stems = [path.parent.name for path in tmp_path.glob("work/*/part.ead")]
    assert {int(stem[-1]) for stem in stems} == kept


def test_the_command_line_tells_what_failed(collection, training, tmp_path, capsys):
    training.fails_for["axle"] = ImageError("a picture was needed, got a torn one")
    options = [*("--steps", "4", "--sizes", "small", "--seeds", "0")]
    command = ["reproduce", str(collection), "--output", str(tmp_path), *options]

    assert cli.main(command) == 2

    told = capsys.readouterr()
    assert "axle, small, quick, 4 steps, seed 0 failed: ImageError: a pic" in told.err
    assert "bolt, small, quick, 4 steps, seed 0: recorded" in told.out
    training.fails_for["axle"] = RuntimeError("out of memory")
    assert cli.main(command) == 1
    training.fails_for.clear()
    assert cli.main(command) == 0


OF_ANOTHER_VERSION = {
    "experiment": "reproduce",
    "category": "a",
    "variant": "b",
    "seed": 0,
    "format": 99,
}


@pytest.mark.parametrize(
    "text", ["{", '{"experiment": 1}', json.dumps(OF_ANOTHER_VERSION)]
)
def test_an_unusable_result_is_one_line_and_exit_code_2(
    collection, training, tmp_path, capsys, text
):
    (tmp_path / "broken.json").write_text(text)

    code = cli.main(["reproduce", str(collection), "--output", str(tmp_path)])

    assert code == 2
    assert str(tmp_path / "broken.json") in capsys.readouterr().err.splitlines()[-1]
    assert training.trained == []


def test_the_main_job_records_what_it_did_before(collection, training, tmp_path):
    """Its options and the names of its files are older than the machinery it uses."""
    arguments = [
        *(str(collection / "axle"), "--seeds", "4", "--steps", "2"),
        *("--experiment", "quick_preset", "--variant", "Random start, alone"),
        *("--without-penalty", "--set", "student_start=random", "p_hard=0.5"),
        *("--work", str(tmp_path / "work"), "--results", str(tmp_path)),
    ]

    assert main_job.main(arguments) == 0

    path = tmp_path / "quick_preset_axle_random_start_alone_seed4.json"
    run = json.loads(path.read_text())
    assert run["settings"]["recipe"]["student_start"] == "random"
    assert run["settings"]["recipe"]["p_hard"] == 0.5
    assert run["settings"]["config"]["has_pretraining_penalty"] == "False"
    training.trained.clear()
    assert main_job.main(arguments) == 0
    assert training.trained == []


@pytest.mark.parametrize(
    ("options", "variant"),
    [
        ((), "small, quick"),
        (("--size", "medium"), "medium, quick"),
        (("--size", "medium", "--preset", "paper"), "medium, paper"),
        (("--size", "medium", "--variant", "all channels"), "all channels"),
    ],
)
def test_the_main_job_is_called_what_it_is(options, variant):
    assert main_job.parsed(["axle", *options]).variant == variant


def test_the_main_job_knows_the_names_of_a_recipe(collection, capsys):
    assert main_job.main([str(collection / "axle"), "--set", "stepz=3"]) == 2

    assert "needed NAME=VALUE with a name of the recipe" in capsys.readouterr().err


def test_training_takes_an_opened_category(collection):
    from efficientad.calibration.normal_images import training_and_validation

    split = partial(
        training_and_validation, validation=None, validation_share=0.1, seed=0
    )
    by_folder = split(collection / "axle")
    by_category = split(open_category(collection / "axle"))

    assert [part.hashes for part in by_category] == [part.hashes for part in by_folder]
