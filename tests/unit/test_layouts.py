"""Small faithful copies of every layout a data set is published in."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from efficientad.datasets import (
    find_categories,
    normal_image_paths,
    open_category,
    read_annotation_channels,
    read_defect_mask,
)
from efficientad.errors import DatasetError, ImageError

HEIGHT, WIDTH = 12, 16
VISA_TABLE = "split_csv/1cls.csv"


def draw(path, value=100, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    color = (value,) * 3 if mode == "RGB" else value
    Image.new(mode, (WIDTH, HEIGHT), color).save(path)
    return path


def draw_mask(path, rows, value=255):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[rows] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)
    return path


def draw_many(folder, n, suffix=".png"):
    return [draw(folder / f"{i:03}{suffix}", 50 + i) for i in range(n)]


def write_mvtec_ad(root, defect_types=("broken_large", "contamination")):
    draw_many(root / "train" / "good", 12)
    draw_many(root / "test" / "good", 4)
    for defect_type in defect_types:
        draw_many(root / "test" / defect_type, 2)
        for i in range(2):
            draw_mask(root / f"ground_truth/{defect_type}/{i:03}_mask.png", np.s_[2:5])
    return root


def write_mvtec_loco(root):
    draw_many(root / "train" / "good", 12)
    draw_many(root / "validation" / "good", 3)
    draw_many(root / "test" / "good", 4)
    for defect_type, value in (
        ("logical_anomalies", 254),
        ("structural_anomalies", 227),
    ):
        draw_many(root / "test" / defect_type, 2)
        masks = root / "ground_truth" / defect_type
        draw_mask(masks / "000" / "000.png", np.s_[1:3], value)
        draw_mask(masks / "000" / "001.png", np.s_[2:6], value - 1)
        draw_mask(masks / "001" / "000.png", np.s_[8:9], value)
    config = [
        {
            "defect_name": f"defect {value}",
            "pixel_value": value,
            "saturation_threshold": 10 if value > 250 else 0.5,
            "relative_saturation": value <= 250,
        }
        for value in (254, 253, 227, 226)
    ]
    (root / "defects_config.json").write_text(json.dumps(config))
    return root


def write_visa(root, names=("candle", "pcb1")):
    rows = []
    for name in names:
        images = f"{name}/Data/Images"
        for i in range(16):
            path = draw(root / f"{images}/Normal/{i:04}.JPG", 50 + i)
            split = "train" if i < 12 else "test"
            rows.append([name, split, "normal", path.relative_to(root), ""])
        for i in range(3):
            path = draw(root / f"{images}/Anomaly/{i:03}.JPG", 150 + i)
            mask = draw_mask(root / f"{name}/Data/Masks/Anomaly/{i:03}.png", 3, i + 1)
            rows.append(
                [
                    name,
                    "test",
                    "anomaly",
                    path.relative_to(root),
                    mask.relative_to(root),
                ]
            )
        (root / name / "image_anno.csv").write_text("image,label,mask\n")
    (root / "split_csv").mkdir()
    with (root / VISA_TABLE).open("w", newline="") as file:
        csv.writer(file).writerows(
            [["object", "split", "label", "image", "mask"], *rows]
        )
    return root


def write_converted_visa(root):
    draw_many(root / "train" / "good", 12, ".JPG")
    draw_many(root / "test" / "good", 4, ".JPG")
    draw_many(root / "test" / "bad", 3, ".JPG")
    for i in range(3):
        draw_mask(root / "ground_truth" / "bad" / f"{i:03}.png", 3)
    return root


def write_unsplit(root):
    draw_many(root / "good", 20)
    draw_many(root / "scratch", 2)
    draw_many(root / "dent", 3)
    draw_mask(root / "ground_truth/scratch/000.png", np.s_[1:3])
    draw_mask(root / "ground_truth/scratch/001.png", np.s_[1:3])
    return root


LIST = [
    *(
        {"image": f"shots/{i:03}.png", "split": "train", "defect_type": "good"}
        for i in range(12)
    ),
    {"image": "shots/012.png", "split": "validation", "defect_type": "good"},
    {"image": "shots/013.png", "split": "test", "defect_type": "good"},
    {
        "image": "shots/014.png",
        "split": "test",
        "defect_type": "scratch",
        "mask": "masks/014.png",
    },
]


def write_list(path, rows=LIST):
    draw_many(path.parent / "shots", 15)
    draw_mask(path.parent / "masks" / "014.png", np.s_[1:3])
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
        return path
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, ["image", "split", "defect_type", "mask"])
        table.writeheader()
        table.writerows(rows)
    return path


def counts(category):
    return {name: len(samples) for name, samples in category.splits.items()}


def masks_of(category):
    return [
        read_defect_mask(sample, HEIGHT, WIDTH).any(axis=1).sum()
        for sample in category.test
        if sample.is_defect
    ]


# Each layout


def test_mvtec_ad_is_known_by_folders_and_name(tmp_path):
    category = open_category(write_mvtec_ad(tmp_path / "bottle"))

    assert category.collection == "mvtec_ad"
    assert counts(category) == {"train": 12, "validation": 0, "test": 8}
    assert masks_of(category) == [3] * 4
    assert category.defects_config is None


def test_another_product_laid_out_like_mvtec_ad_is_plain(tmp_path):
    for place, kinds in (("a", ["scratch"]), ("b", [])):
        category = open_category(write_mvtec_ad(tmp_path / place / "bolt", kinds))

        assert (category.collection, category.name) == ("plain", "bolt")


def test_a_product_of_ones_own_may_be_called_as_one_of_mvtec_ad(tmp_path):
    category = open_category(write_mvtec_ad(tmp_path / "bottle", ["dent"]))

    assert (category.collection, category.name) == ("plain", "bottle")


def test_mvtec_loco_is_known_by_its_defects_config(tmp_path):
    category = open_category(write_mvtec_loco(tmp_path / "juice_bottle"))

    assert category.collection == "mvtec_loco"
    assert category.defects_config == tmp_path / "juice_bottle/defects_config.json"
    assert counts(category) == {"train": 12, "validation": 3, "test": 8}
    assert masks_of(category) == [5, 1] * 2


def test_each_file_of_mvtec_loco_is_a_channel(tmp_path):
    category = open_category(write_mvtec_loco(tmp_path / "juice_bottle"))
    first = next(sample for sample in category.test if sample.is_defect)

    channels = read_annotation_channels(first, HEIGHT, WIDTH)

    assert [np.unique(channel).tolist() for channel in channels] == [[0, 254], [0, 253]]
    assert [np.count_nonzero(channel) for channel in channels] == [2 * WIDTH, 4 * WIDTH]
    assert read_annotation_channels(category.test[0], HEIGHT, WIDTH) == []


def test_a_channel_in_color_is_refused(tmp_path):
    category = open_category(write_mvtec_loco(tmp_path / "juice_bottle"))
    first = next(sample for sample in category.test if sample.is_defect)
    draw(tmp_path / "juice_bottle/ground_truth/logical_anomalies/000/000.png")

    with pytest.raises(ImageError, match=r"000\.png has the mode RGB; export it with"):
        read_annotation_channels(first, HEIGHT, WIDTH)


def test_a_channel_of_another_size_is_refused(tmp_path):
    category = open_category(write_mvtec_loco(tmp_path / "juice_bottle"))
    first = next(sample for sample in category.test if sample.is_defect)

    with pytest.raises(DatasetError, match=r"000\.png has 16 x 12 pixels and"):
        read_annotation_channels(first, HEIGHT, WIDTH + 1)


def test_visa_is_split_by_its_table(tmp_path):
    root = write_visa(tmp_path / "VisA")

    category = open_category(root / "candle")

    assert (category.collection, category.name) == ("visa", "candle")
    assert counts(category) == {"train": 12, "validation": 0, "test": 7}
    assert [s.defect_type for s in category.test] == ["good"] * 4 + ["anomaly"] * 3
    assert masks_of(category) == [1] * 3
    assert category.name_of(category.train[0]) == "Data/Images/Normal/0000.JPG"


def test_of_visa_training_sees_what_the_table_gives_to_it(tmp_path):
    root = write_visa(tmp_path / "VisA")

    training, validation = normal_image_paths(root / "pcb1")

    assert [path.stem for path in training] == [f"{i:04}" for i in range(12)]
    assert validation == []


@pytest.mark.parametrize("inner", ["Normal", "Anomaly"])
def test_an_image_folder_of_visa_is_refused_for_training(tmp_path, inner):
    root = write_visa(tmp_path / "VisA")

    with pytest.raises(DatasetError, match=r"test images of VisA .*mean .*candle\?"):
        normal_image_paths(root / "candle" / "Data" / "Images" / inner)


def test_visa_without_its_table_is_refused(tmp_path):
    root = write_visa(tmp_path / "VisA")
    (root / VISA_TABLE).unlink()

    with pytest.raises(DatasetError, match=r"1cls\.csv is not there; unpack the whole"):
        open_category(root / "candle")


def test_an_object_that_visa_s_table_does_not_know_is_refused(tmp_path):
    root = write_visa(tmp_path / "VisA")
    (root / "candle").rename(root / "wax")

    with pytest.raises(DatasetError, match=r"1cls\.csv has no line for the object wax"):
        open_category(root / "wax")


def test_converted_visa_is_known_by_name_and_defect_type(tmp_path):
    category = open_category(write_converted_visa(tmp_path / "candle"))

    assert category.collection == "visa"
    assert [s.defect_type for s in category.test] == ["good"] * 4 + ["bad"] * 3
    assert masks_of(category) == [1] * 3


def test_a_share_of_unsplit_normal_images_is_kept_for_the_test(tmp_path):
    root = write_unsplit(tmp_path / "parts")

    category = open_category(root)
    training, _ = normal_image_paths(root)

    assert counts(category) == {"train": 16, "validation": 0, "test": 9}
    assert training == [sample.path for sample in category.train]
    assert not {s.path for s in category.train} & {s.path for s in category.test}
    assert [s.mask_path is None for s in category.test if s.is_defect] == [True] * 3 + [
        False
    ] * 2


def test_the_share_is_the_same_in_a_copy(tmp_path):
    first = write_unsplit(tmp_path / "first")
    second = tmp_path / "second"
    shutil.copytree(first, second)

    assert [s.path.name for s in open_category(first).train] == [
        s.path.name for s in open_category(second).train
    ]


def test_a_folder_of_normal_images_has_nothing_to_test(tmp_path):
    draw_many(tmp_path, 10)

    assert counts(open_category(tmp_path, needs_test=False))["train"] == 10
    with pytest.raises(DatasetError, match="holds 10 images; give the folder that"):
        open_category(tmp_path)


@pytest.mark.parametrize("name", ["parts.csv", "parts.json"])
def test_a_list_says_what_each_image_is_for(tmp_path, name):
    path = write_list(tmp_path / name)

    category = open_category(path)
    training, validation = normal_image_paths(path)

    assert (category.name, category.collection) == ("parts", "plain")
    assert counts(category) == {"train": 12, "validation": 1, "test": 2}
    assert masks_of(category) == [2]
    assert (len(training), len(validation)) == (12, 1)
    assert category.name_of(category.train[0]) == "shots/000.png"


def test_an_image_elsewhere_is_called_by_its_whole_path(tmp_path):
    path = write_list(tmp_path / "lists" / "parts.csv")
    elsewhere = draw(tmp_path / "elsewhere.png")
    row = {"image": str(elsewhere), "split": "test", "defect_type": "dent"}
    write_list(path, [*LIST, row])

    category = open_category(path)

    assert str(elsewhere) in map(category.name_of, category.test)


# Lists that are wrong


def changed(position, **changes):
    rows = [dict(row) for row in LIST]
    rows[position] |= changes
    return rows


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


def test_a_list_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "parts.csv"
    path.write_bytes("image,split,defect_type\nä.png,test,good\n".encode("latin-1"))

    with pytest.raises(DatasetError, match="save it again as CSV in UTF-8"):
        open_category(path)


def test_too_few_images_in_a_list_are_counted(tmp_path):
    path = write_list(tmp_path / "parts.csv", LIST[5:])

    with pytest.raises(DatasetError, match=r"at least 10 .*parts\.csv lists 7; record"):
        normal_image_paths(path)


# Masks and images that miss each other


def test_a_mask_without_image_is_refused(tmp_path):
    root = write_mvtec_ad(tmp_path / "bottle")
    (root / "test" / "contamination" / "001.png").unlink()

    with pytest.raises(DatasetError, match=r"1 have none: 001_mask\.png; add the imag"):
        open_category(root)


def test_masks_of_a_type_without_images_are_refused(tmp_path):
    root = write_mvtec_ad(tmp_path / "bottle")
    shutil.rmtree(root / "test" / "contamination")

    with pytest.raises(DatasetError, match=r"no images in .*test/contamination; add"):
        open_category(root)


def test_masks_of_normal_images_are_refused(tmp_path):
    root = write_mvtec_ad(tmp_path / "bottle")
    draw_mask(root / "ground_truth" / "good" / "000_mask.png", 1)

    with pytest.raises(DatasetError, match=r"normal images need no mask, .*good holds"):
        open_category(root)


def test_masks_of_unsplit_images_are_checked_likewise(tmp_path):
    of_good, of_nothing, of_empty = (
        write_unsplit(tmp_path / name) for name in ("of_good", "of_nothing", "of_empty")
    )
    draw_mask(of_good / "ground_truth/good/000.png", 1)
    draw_mask(of_nothing / "ground_truth/crack/000.png", 1)
    draw_mask(of_empty / "ground_truth/crack/000.png", 1)
    (of_empty / "crack").mkdir()

    with pytest.raises(DatasetError, match=r"normal images need no mask, .*good holds"):
        open_category(of_good)
    for root in (of_nothing, of_empty):
        with pytest.raises(DatasetError, match=rf"no images in {root / 'crack'}; add"):
            open_category(root)


def test_a_mask_of_visa_without_image_is_refused(tmp_path):
    root = write_visa(tmp_path / "VisA")
    draw_mask(root / "candle/Data/Masks/Anomaly/007.png", 1)

    with pytest.raises(DatasetError, match=r"1 have none: Anomaly/007\.png; add the"):
        open_category(root / "candle")


def test_a_mask_of_a_normal_image_of_visa_is_refused(tmp_path):
    root = write_visa(tmp_path / "VisA")
    draw_mask(root / "candle/Data/Masks/Normal/0012.png", 1)

    with pytest.raises(DatasetError, match=r"normal images need no mask.*/0012\.png;"):
        open_category(root / "candle")


def test_a_table_with_masks_for_some_images_of_a_defect_type_is_refused(tmp_path):
    second = LIST[-1] | {"image": "shots/011.png", "mask": ""}
    path = write_list(tmp_path / "parts.csv", [*LIST[:11], *LIST[12:], second])
    root = write_visa(tmp_path / "VisA")
    table = root / VISA_TABLE
    table.write_text(table.read_text().replace("candle/Data/Masks/Anomaly/001.png", ""))

    with pytest.raises(DatasetError, match=r"image of scratch needs .* 1 of 2 .*011"):
        open_category(path)
    with pytest.raises(DatasetError, match=r"image of anomaly needs .* 1 of 3 .*001"):
        open_category(root / "candle")


def test_images_that_visa_s_table_leaves_out_may_have_masks(tmp_path):
    root = write_visa(tmp_path / "VisA")
    draw(root / "candle/Data/Images/Anomaly/007.JPG")
    draw_mask(root / "candle/Data/Masks/Anomaly/007.png", 1)

    assert counts(open_category(root / "candle"))["test"] == 7


# Whole collections


def test_all_categories_below_a_folder_are_found(tmp_path):
    write_mvtec_ad(tmp_path / "mvtec_ad" / "bottle")
    write_mvtec_ad(tmp_path / "mvtec_ad" / "screw", ["thread_top"])
    write_visa(tmp_path / "VisA")
    write_mvtec_loco(tmp_path / "loco" / "juice_bottle")
    write_converted_visa(tmp_path / "VisA_pytorch" / "1cls" / "fryum")
    write_unsplit(tmp_path / "own")
    (tmp_path / "papers").mkdir()

    found = find_categories(tmp_path)

    assert [(category.collection, category.name) for category in found] == [
        ("visa", "candle"),
        ("visa", "pcb1"),
        ("visa", "fryum"),
        ("mvtec_loco", "juice_bottle"),
        ("mvtec_ad", "bottle"),
        ("mvtec_ad", "screw"),
        ("plain", "own"),
    ]


def test_a_category_and_a_list_are_found_by_themselves(tmp_path):
    bottle = write_mvtec_ad(tmp_path / "bottle")
    parts = write_list(tmp_path / "lists" / "parts.csv")

    assert [category.name for category in find_categories(bottle)] == ["bottle"]
    assert [category.name for category in find_categories(parts)] == ["parts"]


def test_categories_without_test_images_are_left_out(tmp_path):
    write_mvtec_ad(tmp_path / "bottle")
    draw_many(tmp_path / "screw" / "train" / "good", 10)

    assert [c.name for c in find_categories(tmp_path)] == ["bottle"]
    assert len(find_categories(tmp_path, needs_test=False)) == 2


def test_an_unknown_layout_is_described(tmp_path):
    draw_many(tmp_path / "pictures", 3)

    with pytest.raises(
        DatasetError, match=r"which holds no images and the folders pictures \(3\)"
    ):
        find_categories(tmp_path)


def test_a_collection_that_is_not_there_is_told_so(tmp_path):
    with pytest.raises(DatasetError, match="gone does not exist; check the path"):
        find_categories(tmp_path / "gone")
