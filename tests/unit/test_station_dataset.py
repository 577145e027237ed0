"""Reviewed parts come out as a data set that the other verbs read."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from efficientad.datasets import open_category
from efficientad.errors import DatasetError
from efficientad.station.reviewing.dataset import (
    ReviewedPart,
    export_dataset,
    folder_of,
)


def reviewed(folder, number, verdict, defect_type=None):
    path = folder / f"{number}.png"
    Image.new("RGB", (64, 64), (number % 256, 90, 20)).save(path)
    return ReviewedPart(
        id=f"part-{number}",
        path=path,
        color="rgb",
        verdict=verdict,
        defect_type=defect_type,
        note="ä",
        by="Ann",
        at="2026-11-29T14:07:00+00:00",
        source="line 1",
    )


def test_reviewed_parts_are_a_category(tmp_path):
    parts = [reviewed(tmp_path, n, "normal") for n in range(40)]
    parts += [reviewed(tmp_path, 40 + n, "defect", "deep scratch") for n in range(3)]
    parts += [reviewed(tmp_path, 50, "defect"), reviewed(tmp_path, 51, "unsure")]
    parts.append(reviewed(tmp_path, 52, "normal"))
    parts[-1].path.unlink()

    made = export_dataset(parts, tmp_path / "set")

    category = open_category(tmp_path / "set")
    kinds = [sample.defect_type for sample in category.test if sample.is_defect]
    assert sorted(kinds) == ["deep_scratch"] * 3 + ["defect"]
    assert made.n_train == len(category.train)
    assert made.n_test_good == len(category.test) - 4
    assert made.n_train + made.n_test_good == 40
    assert 0 < made.n_test_good < 20
    assert (made.n_defects, made.n_unsure, made.n_missing) == (4, 1, 1)
    notes = json.loads((tmp_path / "set" / "reviews.json").read_text("utf-8"))
    assert len(notes) == 44
    assert all((tmp_path / "set" / note["path"]).is_file() for note in notes)
    assert notes[0]["by"] == "Ann"


def test_a_part_stays_on_its_side_of_the_split(tmp_path):
    parts = [reviewed(tmp_path, n, "normal") for n in range(30)]

    export_dataset(parts[:20], tmp_path / "one")
    export_dataset(parts[10:], tmp_path / "two")

    first, second = (open_category(tmp_path / name) for name in ("one", "two"))
    assert not {s.path.name for s in first.train} & {s.path.name for s in second.test}
    assert not {s.path.name for s in first.test} & {s.path.name for s in second.train}


def test_a_part_with_blue_first_is_exported_in_its_colors(tmp_path):
    part = replace(reviewed(tmp_path, 200, "defect"), color="bgr")

    export_dataset([part], tmp_path / "set")

    with Image.open(tmp_path / "set" / "test" / "defect" / "part-200.png") as picture:
        assert picture.getpixel((0, 0)) == (20, 90, 200)


def test_an_empty_export_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="review some first"):
        export_dataset([reviewed(tmp_path, 1, "unsure")], tmp_path / "set")

    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("defect_type", "folder"),
    [
        (None, "defect"),
        ("", "defect"),
        ("../../etc", "etc"),
        ("Kratzer, tief", "Kratzer_tief"),
        ("傷", "傷"),
        ("good", "defect_good"),
        ("OK", "defect_OK"),
        ("ground_truth", "defect_ground_truth"),
        ("..", "defect"),
        ("x" * 300, "x" * 80),
    ],
)
def test_defect_types_are_folder_names(defect_type, folder):
    assert folder_of(defect_type) == folder
