"""Prediction of files and folders: each has a row, and one at fault stops none."""

import csv
import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import tifffile
from PIL import Image
from tests.dataset_files import draw, nested_folders
from tests.fake_engines import brightness_predictor

from efficientad.errors import DatasetError, StorageError
from efficientad.inspection.files import predict
from efficientad.storage import temporary_path


def rows_of(output):
    with (output / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = (output / "predictions.jsonl").read_text(encoding="ascii").splitlines()
    assert len(lines) == len(rows)
    return rows


def run(paths, output=None, **options):
    return predict(brightness_predictor(), paths, output, **options)


@pytest.fixture
def images(tmp_path):
    return tmp_path / "images"


def test_images_are_predicted_by_content_and_the_rest_is_counted(images, tmp_path):
    images.mkdir()
    for name, kind in (("a", "PNG"), ("b.jpe", "JPEG"), ("c.x", "GIF"), ("d", "BMP")):
        Image.new("L", (16, 12), 9).save(images / name, kind)
    for name in ("e.avif", "f.pgm", "g.txt", "Thumbs.db"):
        (images / name).write_bytes(b"no image")
    os.mkfifo(images / "pipe.png")

    summary = run([images], tmp_path / "out", has_maps=True)

    assert (summary.n_images, summary.n_failed) == (4, 0)
    (unused,) = summary.unused
    for kind in (".avif files (1)", ".pgm files (1)", "pipes and devices (1)", "4 in"):
        assert kind in unused


def test_results_of_an_earlier_run_are_neither_predicted_nor_counted(images):
    draw(images / "a.png")
    run([images], images / "out")

    summary = run([images], images / "out")

    assert (summary.n_images, summary.unused) == (1, ())


def test_an_image_beside_a_folder_of_its_result_s_name(images, tmp_path):
    draw(images / "a.jpg")
    draw(images / "a.png" / "b.png")
    draw(images / "a.tiff" / "c.png")

    summary = run([images], tmp_path / "out", has_maps=True)

    assert (summary.n_images, summary.n_failed) == (3, 0)
    heatmaps = (tmp_path / "out" / "heatmaps").rglob("*.*")
    assert sorted(path.name for path in heatmaps if path.is_file()) == [
        "a_2.png",
        "b.png",
        "c.png",
    ]


def test_a_picture_that_cannot_be_written_is_an_error_in_its_row(images, tmp_path):
    for name in "abc":
        draw(images / f"{name}.png")
    (tmp_path / "out" / "heatmaps" / "b.png").mkdir(parents=True)

    summary = run([images], tmp_path / "out")

    assert (summary.n_images, summary.n_failed) == (3, 1)
    rows = rows_of(tmp_path / "out")
    assert ["cannot write" in row["error"] for row in rows] == [False, True, False]
    assert all(row["image_score"] for row in rows)
    assert (tmp_path / "out" / "heatmaps" / "c.png").is_file()


def test_a_full_disk_ends_the_run(images, tmp_path, monkeypatch):
    def write(_path, _array):
        raise OSError(errno.ENOSPC, "No space left on device")

    draw(images / "a.png")
    monkeypatch.setattr(tifffile, "imwrite", write)

    with pytest.raises(StorageError, match="No space left on device"):
        run([images], tmp_path / "out", has_maps=True)
    assert not (tmp_path / "out" / "predictions.csv").exists()


def test_a_list_that_the_disk_refuses_at_the_end_leaves_neither(
    images, tmp_path, monkeypatch
):
    synchronize, output = os.fsync, tmp_path / "out"
    table = temporary_path(output / "predictions.csv").name

    def refuse(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == table:
            raise OSError(errno.ENOSPC, "No space left on device")
        synchronize(descriptor)

    draw(images / "a.png")
    monkeypatch.setattr(os, "fsync", refuse)

    with pytest.raises(StorageError, match="No space left on device"):
        run([images], output, has_heatmaps=False)
    assert {path.name for path in output.iterdir()} == {
        "predictions.csv.partial",
        "predictions.jsonl.partial",
    }


def test_a_folder_too_deep_for_a_path_has_a_row(images, tmp_path):
    draw(images / "a.png")
    draw(images / "c" / "b.png")

    with nested_folders(images / "c"):
        summary = run([images], tmp_path / "out")

    assert (summary.n_images, summary.n_failed) == (2, 1)
    (failed,) = [row for row in rows_of(tmp_path / "out") if row["error"]]
    assert "cannot be listed (File name too long)" in failed["error"]


def test_paths_that_lead_to_nothing_have_a_row_beside_others(images, tmp_path):
    draw(images / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "gone")
    given = [
        images,
        tmp_path / "missing.png",
        tmp_path / ("x" * 300 + ".png"),
        tmp_path / "pipe.png",
        tmp_path / "broken.png",
    ]

    summary = run(given, tmp_path / "out")

    assert (summary.n_images, summary.n_failed) == (1, 4)
    errors = [row["error"] for row in rows_of(tmp_path / "out")]
    for words, error in zip(
        ("", "there is none", "too long", "a pipe or device", "there is none"),
        errors,
        strict=True,
    ):
        assert words in error


def test_nothing_but_a_missing_path_is_refused_at_once(tmp_path):
    with pytest.raises(DatasetError, match=r"gone, there is none; check the path"):
        run([tmp_path / "gone"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"found none in .*empty"):
        run([tmp_path / "empty"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_odd_names_come_out_harmless(images, tmp_path, monkeypatch):
    monkeypatch.chdir(draw(images / "a.png").parent)
    odd = [Path(os.fsdecode(b"part\xe9.png")), Path("=1+1.png"), Path("-2.png")]
    for path in odd:
        shutil.copy("a.png", path)

    run(odd, tmp_path / "out")

    rows = rows_of(tmp_path / "out")
    assert [row["path"] for row in rows] == [
        "part\\udce9.png",
        "./=1+1.png",
        "./-2.png",
    ]
    assert not any(row["error"] for row in rows)
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    paths = [json.loads(line)["path"] for line in lines]
    assert paths == ["part\\udce9.png", "=1+1.png", "-2.png"]


def test_one_path_or_pattern_is_enough(images):
    first, second = draw(images / "a.png"), draw(images / "b.png")
    draw(images / "c.jpg")
    rows: list[dict[str, object]] = []

    for given in (str(first), images / "a*.png", [f"{images}/[ab].png"]):
        run(given, on_row=rows.append)

    assert [row["path"] for row in rows] == list(
        map(str, (first, first, first, second))
    )


def test_a_pattern_that_matches_nothing_has_a_row(images, tmp_path):
    draw(images / "a.png")

    summary = run([images, images / "x*.png"], tmp_path / "out")

    assert (summary.n_images, summary.n_failed) == (1, 1)
    assert "there is none" in rows_of(tmp_path / "out")[1]["error"]


def test_without_an_output_rows_are_given_and_nothing_is_written(images, tmp_path):
    dark, light = draw(images / "a.png", 10), draw(images / "b.png", 250)
    rows: list[dict[str, object]] = []

    summary = run([images], on_row=rows.append)

    assert [(row["path"], row["is_anomalous"]) for row in rows] == [
        (str(dark), False),
        (str(light), True),
    ]
    assert summary.anomalous == (light,)
    assert {path.name for path in tmp_path.iterdir()} == {"images"}


def test_rows_are_those_of_the_json_list(images, tmp_path):
    draw(images / "a.png")
    rows: list[dict[str, object]] = []

    run([images], tmp_path / "out", on_row=rows.append)

    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
