"""CSV and JSON lists of images."""

import json

import pytest
from PIL import Image
from tests.dataset_files import HEIGHT, LIST, WIDTH, draw, write_list

from efficientad.datasets import normal_image_paths, open_category, read_defect_mask
from efficientad.errors import DatasetError, ImageError


def changed(position, **changes):
    rows = [dict(row) for row in LIST]
    rows[position] |= changes
    return rows


@pytest.mark.parametrize("name", ["parts.csv", "parts.json"])
def test_a_list_names_split_defect_type_and_mask_of_each_image(tmp_path, name):
    path = write_list(tmp_path / name)

    category = open_category(path)
    training, validation = normal_image_paths(path)

    assert (category.name, category.collection) == ("parts", "plain")
    assert [len(part) for part in category.splits.values()] == [12, 1, 2]
    assert read_defect_mask(category.test[1], HEIGHT, WIDTH).sum() == 2 * WIDTH
    assert (len(training), len(validation)) == (12, 1)
    assert category.name_of(category.train[0].path) == "shots/000.png"


def test_an_image_outside_of_the_list_s_folder_has_its_whole_path_as_name(tmp_path):
    path = write_list(tmp_path / "lists" / "parts.csv")
    elsewhere = draw(tmp_path / "elsewhere.png")
    row = {"image": str(elsewhere), "split": "test", "defect_type": "dent"}
    write_list(path, [*LIST, row])

    category = open_category(path)

    assert str(elsewhere) in [category.name_of(sample.path) for sample in category.test]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (changed(0, split="training"), r"line 2, has 'training'; correct it"),
        (changed(0, defect_type="dent"), r"line 2, has the defect type dent; move 000"),
        (changed(3, image="shots/000.png"), r"line 5, has .*000\.png again \(first in"),
        (changed(4, image="gone.png"), r"gone\.png \(.*line 6\); there is none"),
        (changed(14, mask="gone.png"), r"mask was needed .*line 16\); there is none"),
        (changed(13, mask="masks/014.png"), r"normal images need no mask, .*013\.png"),
        (changed(1, split=""), r"has '' for split in line 3; fill it in"),
        ([], "holds none; name the columns image, split, defect_type"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, rows, message):
    path = write_list(tmp_path / "parts.csv", rows)

    with pytest.raises(DatasetError, match=message):
        open_category(path)


def test_training_refuses_a_list_with_a_missing_image(tmp_path):
    path = write_list(tmp_path / "parts.csv", changed(4, image="gone.png"))

    with pytest.raises(DatasetError, match=r"gone\.png \(.*line 6\); there is none"):
        normal_image_paths(path)


def test_a_missing_mask_of_a_defect_type_with_masks_is_refused(tmp_path):
    second = LIST[-1] | {"image": "shots/011.png", "mask": ""}
    path = write_list(tmp_path / "parts.csv", [*LIST[:11], *LIST[12:], second])

    with pytest.raises(DatasetError, match=r"image of scratch needs .* 1 of 2 .*011"):
        open_category(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", r"parts\.json cannot be read \(.*\); correct the file"),
        ('{"image": "a.png"}', "a JSON list of objects with image, split, defect_type"),
        ('[{"image": 3}]', "has 3 for image in entry 1; fill it in"),
        (
            '[{"image": "a", "split": "test", "defect_type": "x", "mask": ["b"]}]',
            r"a mask must be a path as text, .* has \['b'\] in entry 1",
        ),
        ("[]", "holds none; name the columns"),
    ],
)
def test_wrong_json_is_described(tmp_path, text, message):
    path = tmp_path / "parts.json"
    path.write_text(text)

    with pytest.raises(DatasetError, match=message):
        open_category(path)


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_csv_file_of_a_spreadsheet_is_read(tmp_path, delimiter):
    path = write_list(tmp_path / "parts.csv")
    text = path.read_text().replace(",", delimiter).replace("image", " Image", 1)
    path.write_text(text, encoding="utf-8-sig")

    assert [len(part) for part in open_category(path).splits.values()] == [12, 1, 2]


def test_a_csv_file_with_another_heading_is_refused(tmp_path):
    path = write_list(tmp_path / "parts.csv")
    path.write_text(path.read_text().replace("image,", "Bild,"))

    with pytest.raises(DatasetError, match=r"parts\.csv names bild, split, defect_ty"):
        open_category(path)


def test_a_place_in_a_csv_file_counts_empty_lines(tmp_path):
    path = write_list(tmp_path / "parts.csv", changed(4, split=""))
    path.write_text(path.read_text().replace("\n", "\n\n", 2))

    with pytest.raises(DatasetError, match="for split in line 8"):
        open_category(path)


@pytest.mark.parametrize("name", ["OK", "good "])
def test_a_normal_image_may_be_called_ok(tmp_path, name):
    path = write_list(tmp_path / "parts.csv", changed(13, defect_type=name))

    assert [s.defect_type for s in open_category(path).test] == ["good", "scratch"]


def test_a_name_or_path_that_is_too_long_is_one_fault(tmp_path):
    for name in ("x" * 300 + ".png", "folder/" * 700 + "x.png"):
        path = write_list(tmp_path / "parts.csv", changed(4, image=name))
        problems: list[str] = []

        with pytest.raises(DatasetError, match=r"line 6\); it cannot be reached \("):
            open_category(path)
        assert open_category(path, on_problem=problems.append)
        assert len(problems) == 1


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '[{"image": ' + "[" * 900 + "]" * 900 + "}]",
        '[{"image": ' + "9" * 400 + "}]",
        '[{"image": ' + "9" * 5000 + "}]",
        '[{"image": "\\ud800", "split": "test", "defect_type": "x"}]',
    ],
)
def test_nesting_long_numbers_and_half_characters_are_one_short_sentence(
    tmp_path, text
):
    path = tmp_path / "parts.json"
    path.write_text(text)

    with pytest.raises(DatasetError, match=r"parts\.json") as raised:
        open_category(path)
    assert len(str(raised.value)) < 500


def test_a_lossy_mask_of_a_list_is_refused_as_in_a_folder(tmp_path):
    path = write_list(tmp_path / "parts.csv")
    mask = tmp_path / "masks" / "014.png"
    Image.open(mask).copy().save(mask, "JPEG")

    with pytest.raises(ImageError, match=r"014\.png is a lossy JPEG by its content"):
        read_defect_mask(open_category(path).test[1], HEIGHT, WIDTH)


def test_a_list_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "parts.csv"
    path.write_bytes("image,split,defect_type\nä.png,test,good\n".encode("latin-1"))

    with pytest.raises(DatasetError, match="save it again as CSV in UTF-8"):
        open_category(path)


def test_another_column_means_nothing(tmp_path):
    path = write_list(tmp_path / "parts.csv")
    path.write_text(
        "image,split,defect_type,mask,background\n"
        "shots/014.png,test,scratch,masks/014.png,white\n"
    )
    other = path.with_suffix(".json")
    other.write_text(json.dumps([{**LIST[-1], "background": [255, 255, 255]}]))

    for table in (path, other):
        (sample,) = open_category(table).test
        assert read_defect_mask(sample, HEIGHT, WIDTH).sum() == 2 * WIDTH
