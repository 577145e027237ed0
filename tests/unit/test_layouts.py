"""Folders in every layout, as samples, and what never gets into a training."""

import shutil
from pathlib import Path

import pytest
from PIL import Image
from tests.dataset_files import (
    HEIGHT,
    LIST,
    WIDTH,
    draw,
    draw_many,
    draw_mask,
    write_converted_visa,
    write_list,
    write_mvtec_ad,
    write_mvtec_loco,
    write_unsplit,
    write_visa,
)

from efficientad.datasets import (
    MIN_NORMAL_IMAGES,
    Sample,
    normal_image_paths,
    open_category,
    read_defect_mask,
)
from efficientad.datasets.layouts import find_category_folders
from efficientad.errors import DatasetError
from efficientad.images.rgb import read_image
from efficientad_lab.studies.scenarios import find_categories


@pytest.fixture
def bolt(tmp_path):
    """A category in MVTec AD's layout with every folder there may be."""
    root = tmp_path / "bolt"
    draw_many(root / "train" / "good", 12)
    draw_many(root / "validation" / "good", 3)
    draw_many(root / "test" / "good", 4)
    for defect_type in ("scratch", "dent"):
        for path in draw_many(root / "test" / defect_type, 2, ".jpg"):
            masks = root / "ground_truth" / defect_type
            draw_mask(masks / f"{path.stem}_mask.png", slice(2, 5))
    return root


def counts(category):
    return {name: len(samples) for name, samples in category.splits.items()}


def masked_rows(category):
    return [
        read_defect_mask(sample, HEIGHT, WIDTH).any(axis=1).sum()
        for sample in category.test
        if sample.is_defect
    ]


# One category


def test_open_category_lists_every_split(bolt):
    opened = open_category(bolt)

    assert (opened.name, opened.root) == ("bolt", bolt)
    assert counts(opened) == {"train": 12, "validation": 3, "test": 8}
    assert [s.defect_type for s in opened.test] == ["good"] * 4 + ["dent"] * 2 + [
        "scratch"
    ] * 2
    assert opened.train[0] == Sample(bolt / "train" / "good" / "000.png", "good")
    assert opened.test[4].mask_path == bolt / "ground_truth/dent/000_mask.png"


def test_only_samples_of_a_defect_type_are_defects(bolt):
    opened = open_category(bolt)

    assert [s.is_defect for s in opened.test] == [False] * 4 + [True] * 4
    assert not any(s.is_defect for s in opened.train + opened.validation)
    assert all((s.mask_path is not None) == s.is_defect for s in opened.test)


def test_the_current_folder_has_its_own_name(bolt, monkeypatch):
    monkeypatch.chdir(bolt)

    assert open_category(Path()).name == "bolt"


def test_validation_and_masks_are_optional(bolt):
    shutil.rmtree(bolt / "validation")
    shutil.rmtree(bolt / "ground_truth")

    opened = open_category(bolt)

    assert opened.validation == ()
    assert {s.mask_path for s in opened.test} == {None}
    assert sum(s.is_defect for s in opened.test) == 4


def test_training_images_are_optional(bolt):
    shutil.rmtree(bolt / "train")

    assert counts(open_category(bolt)) == {"train": 0, "validation": 3, "test": 8}


def test_test_images_are_required_unless_needs_test_is_false(bolt):
    shutil.rmtree(bolt / "test")

    with pytest.raises(DatasetError, match=r"test holds none; put images in test/good"):
        open_category(bolt)

    assert open_category(bolt, needs_test=False).test == ()


def test_hidden_files_and_files_that_are_no_images_are_no_samples(bolt):
    (bolt / "test" / "good" / ".hidden.png").touch()
    (bolt / "test" / "good" / "Thumbs.db").touch()
    (bolt / "test" / ".cache").mkdir()

    assert len(open_category(bolt).test) == 8


def test_images_may_differ_in_size_and_mode(bolt):
    good = bolt / "train" / "good"
    Image.new("RGB", (WIDTH, HEIGHT), (10, 200, 30)).save(good / "color.jpg")
    Image.new("L", (40, 30), 7).save(good / "larger.bmp")

    images = [read_image(s.path) for s in open_category(bolt).train]

    assert len(images) == 14
    assert {image.shape for image in images} == {(HEIGHT, WIDTH, 3), (30, 40, 3)}
    assert len(normal_image_paths(bolt)[0]) == 14


# The published collections


def test_mvtec_ad_is_known_by_scenario_and_defect_types(tmp_path):
    category = open_category(write_mvtec_ad(tmp_path / "bottle"))

    assert category.collection == "mvtec_ad"
    assert counts(category) == {"train": 12, "validation": 0, "test": 8}
    assert masked_rows(category) == [3] * 4
    assert category.defects_config is None


@pytest.mark.parametrize("defect_types", [("scratch",), ()])
def test_another_product_in_the_layout_of_mvtec_ad_is_plain(tmp_path, defect_types):
    category = open_category(write_mvtec_ad(tmp_path / "bolt", defect_types))

    assert (category.collection, category.name) == ("plain", "bolt")


def test_a_product_with_the_name_of_a_scenario_and_other_defects_is_plain(tmp_path):
    category = open_category(write_mvtec_ad(tmp_path / "bottle", ("dent",)))

    assert (category.collection, category.name) == ("plain", "bottle")


def test_mvtec_loco_is_known_by_its_defects_config(tmp_path):
    category = open_category(write_mvtec_loco(tmp_path / "juice_bottle"))

    assert category.collection == "mvtec_loco"
    assert category.defects_config == tmp_path / "juice_bottle/defects_config.json"
    assert counts(category) == {"train": 12, "validation": 3, "test": 8}
    assert masked_rows(category) == [5, 1] * 2


def test_converted_visa_is_known_by_name_and_defect_type(tmp_path):
    category = open_category(write_converted_visa(tmp_path / "candle"))

    assert category.collection == "visa"
    assert [s.defect_type for s in category.test] == ["good"] * 4 + ["bad"] * 3
    assert masked_rows(category) == [1] * 3


# Folders that are not split


def test_a_fifth_of_unsplit_normal_images_is_for_the_test(tmp_path):
    root = write_unsplit(tmp_path / "parts")

    category = open_category(root)
    training, _ = normal_image_paths(root)

    assert counts(category) == {"train": 16, "validation": 0, "test": 9}
    assert training == [sample.path for sample in category.train]
    assert not {s.path for s in category.train} & {s.path for s in category.test}
    assert [s.mask_path is None for s in category.test if s.is_defect] == [True] * 3 + [
        False
    ] * 2


def test_a_copy_of_unsplit_images_is_split_in_the_same_way(tmp_path):
    first = write_unsplit(tmp_path / "first")
    second = tmp_path / "second"
    shutil.copytree(first, second)

    assert [s.path.name for s in open_category(first).train] == [
        s.path.name for s in open_category(second).train
    ]


def test_a_folder_of_normal_images_is_a_category_without_test(tmp_path):
    draw_many(tmp_path, 10)

    assert counts(open_category(tmp_path, needs_test=False))["train"] == 10
    with pytest.raises(DatasetError, match="holds 10 images; give the folder that"):
        open_category(tmp_path)


# Folders within those of the layout, other names, and what is not used


def test_images_below_the_folders_of_a_layout_belong_to_it(bolt):
    draw_many(bolt / "train/good/monday/early", 2)
    draw(bolt / "test/dent/lot 1/000.png", 90)
    draw_mask(bolt / "ground_truth/dent/lot 1/000_mask.png", slice(0, 7))

    opened = open_category(bolt)

    assert counts(opened) == {"train": 14, "validation": 3, "test": 9}
    assert masked_rows(opened) == [3, 3, 7, 3, 3]
    assert len(normal_image_paths(bolt)[0]) == 14
    assert len(normal_image_paths(bolt / "train" / "good")[0]) == 14
    assert not opened.unused


@pytest.mark.parametrize(("normal", "defect"), [("ok", "ko"), ("OK", "NG")])
def test_normal_images_may_be_called_ok(tmp_path, normal, defect):
    """As in BTAD."""
    root = tmp_path / "01"
    draw_many(root / "train" / normal, 12, ".bmp")
    draw_many(root / "test" / normal, 3, ".bmp")
    draw_many(root / "test" / defect, 2, ".bmp")
    for i in range(2):
        draw_mask(root / f"ground_truth/{defect}/{i:03}.png", slice(2, 5))

    opened = open_category(root)

    assert [s.defect_type for s in opened.test] == ["good"] * 3 + [defect] * 2
    assert masked_rows(opened) == [3, 3]
    assert len(normal_image_paths(root)[0]) == 12
    assert [c.name for c in find_categories(tmp_path)] == ["01"]
    with pytest.raises(DatasetError, match="belongs to the test images of 01"):
        normal_image_paths(root / "test" / normal)


def test_unsplit_folders_may_be_called_ok_and_ng(tmp_path):
    draw_many(tmp_path / "part" / "OK", 20)
    draw_many(tmp_path / "part" / "NG", 3)

    opened = open_category(tmp_path / "part")

    assert counts(opened) == {"train": 16, "validation": 0, "test": 7}
    assert [s.defect_type for s in opened.test] == ["good"] * 4 + ["NG"] * 3


def test_masks_of_an_unsplit_category_are_no_normal_images(tmp_path, caplog):
    for folder in ("OK", "NG", "ground_truth/NG"):
        draw_many(tmp_path / "part" / folder, 12)

    with pytest.raises(DatasetError, match="belongs to the masks of part; did you"):
        normal_image_paths(tmp_path / "part" / "ground_truth" / "NG")
    assert len(normal_image_paths(tmp_path / "part" / "OK")[0]) == 12
    assert not caplog.text
    # It may be another folder of normal images.
    assert len(normal_image_paths(tmp_path / "part" / "NG")[0]) == 12
    assert "NG lies beside OK, as images of defects do; look" in caplog.text


def test_images_of_one_name_need_masks_of_their_own(tmp_path):
    root = write_mvtec_ad(tmp_path / "bolt", ("scratch",))
    (image, _) = sorted((root / "test" / "scratch").iterdir())
    with Image.open(image) as picture:
        picture.save(image.with_suffix(".webp"))

    with pytest.raises(DatasetError, match=r"000_mask.* is that of 2"):
        open_category(root)


def test_a_broken_category_is_found_beside_others(tmp_path):
    write_mvtec_ad(tmp_path / "bolt")
    for name in ("good", "ok"):
        draw_many(tmp_path / "nut" / "train" / name, 10)

    assert [f.name for f in find_category_folders(tmp_path)] == ["bolt", "nut"]


def test_two_folders_of_normal_images_are_refused(bolt):
    draw_many(bolt / "train" / "OK", 2)

    with pytest.raises(DatasetError, match=r"train holds OK, good; join them"):
        open_category(bolt)


def test_mvtec_ad_2_has_public_test_images_with_masks_beside_them(tmp_path):
    root = tmp_path / "can"
    draw_many(root / "train/good", 12)
    draw_many(root / "validation/good", 2)
    draw_many(root / "test_public/good", 3)
    draw_many(root / "test_public/bad", 2)
    for i in range(2):
        draw_mask(root / f"test_public/ground_truth/bad/{i:03}_mask.png", slice(2, 5))
    draw_many(root / "test_private", 4)

    opened = open_category(root)

    assert counts(opened) == {"train": 12, "validation": 2, "test": 5}
    assert [s.defect_type for s in opened.test] == ["good"] * 3 + ["bad"] * 2
    assert masked_rows(opened) == [3, 3]
    assert opened.unused.endswith("can: images in test_private (4); 4 in all")
    for inner in ("test_public/bad", "test_private"):
        with pytest.raises(DatasetError, match="belongs to the test images of can"):
            normal_image_paths(root / inner)


def test_what_a_category_does_not_use_is_counted_by_kind(bolt, caplog):
    draw_many(bolt / "train" / "bad", 2)
    for name in ("a.avif", "b.avif", "Thumbs.db", "readme.txt"):
        (bolt / "train/good" / name).write_bytes(b"no image")

    training, _ = normal_image_paths(bolt)

    assert len(training) == 12
    expected = (
        f"not used of {bolt}: images in train/bad (2), .avif files (2), texts (1); 5 "
        "in all"
    )
    assert sorted(expected.split()) == sorted(open_category(bolt).unused.split())
    assert open_category(bolt).unused in caplog.messages


def test_a_plain_folder_uses_its_own_images_and_counts_the_others(tmp_path, caplog):
    draw_many(tmp_path / "parts", 10)
    draw(tmp_path / "parts" / "rejected" / "000.png")

    assert len(normal_image_paths(tmp_path / "parts")[0]) == 10
    assert "parts: images in rejected (1); 1 in all" in caplog.text


def test_a_linked_defect_type_is_used(bolt, tmp_path):
    draw_many(tmp_path / "elsewhere", 2)
    (bolt / "test" / "crack").symlink_to(tmp_path / "elsewhere")
    (bolt / "test" / "crack" / "loop").symlink_to(bolt)
    (bolt / "test" / "dent" / "loop").symlink_to(bolt / "test")

    opened = open_category(bolt)

    kinds = [s.defect_type for s in opened.test]
    assert (kinds.count("crack"), kinds.count("dent")) == (2, 2)


def test_a_category_that_links_lead_to_is_found_once(bolt):
    (bolt.parent / "again").symlink_to(bolt)
    (bolt.parent / "loop").symlink_to(bolt.parent)

    assert len(find_categories(bolt.parent)) == 1


def test_a_split_by_chance_is_told(tmp_path, caplog):
    caplog.set_level("INFO")

    open_category(write_unsplit(tmp_path / "parts"))

    assert "parts is not split: of its 20 normal images 16 are for" in caplog.text


# Faults of a layout


def test_a_folder_that_is_no_category_is_described(tmp_path):
    draw_many(tmp_path / "parts", 3)
    draw_many(tmp_path / "parts" / "more", 2)

    with pytest.raises(
        DatasetError, match=r"parts holds 3 images and the folders more \(2\)"
    ):
        open_category(tmp_path / "parts")


def test_a_folder_of_categories_is_no_category(bolt):
    with pytest.raises(DatasetError, match=r"did you mean .*bolt.train.good\?"):
        open_category(bolt.parent)


def test_images_directly_in_test_are_refused(bolt):
    draw(bolt / "test" / "000.png")

    with pytest.raises(DatasetError, match=r"test holds 1 image .*; move them to"):
        open_category(bolt)


def test_an_empty_defect_type_is_refused(bolt):
    (bolt / "test" / "crack" / "deeper").mkdir(parents=True)

    with pytest.raises(DatasetError, match=r"crack, it holds no images and .*deeper"):
        open_category(bolt)


def test_on_problem_is_called_with_each_fault_instead_of_an_error(bolt):
    draw(bolt / "test" / "000.png")
    (bolt / "ground_truth" / "dent" / "001_mask.png").unlink()
    problems: list[str] = []

    opened = open_category(bolt, on_problem=problems.append)

    assert len(opened.test) == 8
    assert len(problems) == 2
    assert "move them to" in problems[0]
    assert "1 of 2 have none" in problems[1]


def test_a_missing_mask_is_named(bolt):
    (bolt / "ground_truth" / "dent" / "001_mask.png").unlink()

    with pytest.raises(DatasetError, match=r"1 of 2 have none: 001\.jpg; name them"):
        open_category(bolt)


def test_many_missing_masks_are_counted(bolt):
    draw_many(bolt / "test" / "dent", 30)

    with pytest.raises(
        DatasetError, match=r"28 of 32 have none: 002.png, .* and 23 more;"
    ):
        open_category(bolt)


def test_an_empty_mask_folder_counts_as_missing_masks(bolt):
    for path in (bolt / "ground_truth" / "dent").iterdir():
        path.unlink()

    with pytest.raises(DatasetError, match=r"2 of 2 have none: 000\.jpg, 001\.jpg;"):
        open_category(bolt)


def test_a_defect_type_without_a_mask_folder_is_accepted(bolt):
    shutil.rmtree(bolt / "ground_truth" / "dent")

    opened = open_category(bolt)

    assert [s.mask_path is None for s in opened.test if s.is_defect] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("name", ["000_mask.png", "000.png", "000.PNG", "000.bmp"])
def test_masks_are_found_under_their_usual_names(bolt, name):
    masks = bolt / "ground_truth" / "dent"
    (masks / "000_mask.png").unlink()
    draw_mask(masks / name, slice(7, 8), value=1)

    sample = next(s for s in open_category(bolt).test if s.defect_type == "dent")

    assert sample.mask_path == masks / name
    assert read_defect_mask(sample, HEIGHT, WIDTH).sum() == WIDTH


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


def test_masks_of_unsplit_images_are_checked_in_the_same_way(tmp_path):
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


# The images of a training


def test_training_gets_the_normal_images_of_a_category(bolt):
    training, validation = normal_image_paths(bolt)

    assert {path.parent for path in training} == {bolt / "train" / "good"}
    assert {path.parent for path in validation} == {bolt / "validation" / "good"}
    assert (len(training), len(validation)) == (12, 3)


def test_without_a_validation_folder_there_are_no_validation_images(bolt):
    shutil.rmtree(bolt / "validation")

    assert normal_image_paths(bolt)[1] == []


def test_training_does_not_depend_on_masks(bolt):
    (bolt / "ground_truth" / "dent" / "001_mask.png").unlink()
    with pytest.raises(DatasetError, match="have none"):
        open_category(bolt)

    assert len(normal_image_paths(bolt)[0]) == 12


def test_training_gets_the_images_directly_in_a_plain_folder(tmp_path):
    paths = draw_many(tmp_path, 10)
    draw(tmp_path / "rejected" / "000.png")

    assert normal_image_paths(tmp_path) == (paths, [])


def test_the_folder_of_normal_images_may_be_given_itself(bolt):
    training, validation = normal_image_paths(bolt / "train" / "good")

    assert (len(training), validation) == (12, [])


@pytest.mark.parametrize("n", [MIN_NORMAL_IMAGES - 1, 1])
def test_too_few_images_are_counted(tmp_path, n):
    draw_many(tmp_path, n)

    with pytest.raises(
        DatasetError, match=rf"at least 10 .* has {n} for the training; record"
    ):
        normal_image_paths(tmp_path)

    assert len(normal_image_paths(tmp_path, min_images=1)[0]) == n


def test_too_few_images_in_a_category_are_counted(bolt):
    for path in normal_image_paths(bolt)[0][3:]:
        path.unlink()

    with pytest.raises(DatasetError, match=r"at least 10 .*bolt has 3 for the train"):
        normal_image_paths(bolt)


@pytest.mark.parametrize("n", [0, 7])
def test_too_few_images_in_a_list_are_counted(tmp_path, n):
    path = write_list(tmp_path / "parts.csv", LIST[12 - n :])

    with pytest.raises(
        DatasetError, match=rf"at least 10 .*parts\.csv has {n} for the training; rec"
    ):
        normal_image_paths(path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="holds no images; give the folder that"):
        normal_image_paths(tmp_path)


def test_a_missing_folder_is_refused(tmp_path):
    for list_images in (normal_image_paths, open_category, find_categories):
        with pytest.raises(DatasetError, match="gone does not exist; check the path"):
            list_images(tmp_path / "gone")


def test_a_file_is_refused(tmp_path):
    path = draw(tmp_path / "part.png")

    with pytest.raises(DatasetError, match=r"part\.png is a file; give the folder"):
        normal_image_paths(path)


@pytest.mark.parametrize("inner", ["train", "."])
def test_the_right_folder_is_proposed_for_a_folder_above_it(bolt, inner):
    folder = bolt / inner if inner == "train" else bolt.parent

    with pytest.raises(DatasetError, match=r"did you mean .*train.good\?"):
        normal_image_paths(folder)


def test_no_folder_is_proposed_where_names_say_nothing(tmp_path):
    draw_many(tmp_path / "broken", 20)
    draw_many(tmp_path / "intact", 20)

    with pytest.raises(
        DatasetError,
        match=r"no images and the folders broken \(20\), intact \(20\) .*; give the",
    ):
        normal_image_paths(tmp_path)


def test_of_many_folders_five_are_named(tmp_path):
    for i in range(9):
        draw(tmp_path / f"lot{i}" / "000.png")

    with pytest.raises(DatasetError, match=r"lot4 \(1\) and 4 more \(images in them\)"):
        normal_image_paths(tmp_path)


def test_a_folder_with_tests_but_without_train_good_is_refused(tmp_path):
    draw_many(tmp_path, 20)
    draw(tmp_path / "test" / "000.png")

    with pytest.raises(DatasetError, match=r"20 images and .*test \(1\).*; move them"):
        normal_image_paths(tmp_path)


@pytest.mark.parametrize(
    "inner", ["test", "test/good", "test/dent", "ground_truth/dent"]
)
def test_test_images_are_refused_for_training(bolt, inner, monkeypatch):
    draw_many(bolt / inner, 20)
    message = r"belongs to the test images of bolt; did you mean .*train.good\?"

    with pytest.raises(DatasetError, match=message):
        normal_image_paths(bolt / inner)
    monkeypatch.chdir(bolt / inner)
    with pytest.raises(DatasetError, match=message):
        normal_image_paths(Path())


def test_a_folder_called_test_outside_of_a_category_is_accepted(tmp_path):
    draw_many(tmp_path / "test" / "good", 10)

    assert len(normal_image_paths(tmp_path / "test" / "good")[0]) == 10


# All categories below a folder


def test_find_categories_finds_every_layout(tmp_path):
    write_mvtec_ad(tmp_path / "mvtec_ad" / "bottle")
    write_mvtec_ad(tmp_path / "mvtec_ad" / "screw", ("thread_top",))
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


def test_find_categories_accepts_one_category_and_a_list(tmp_path):
    bottle = write_mvtec_ad(tmp_path / "bottle")
    parts = write_list(tmp_path / "lists" / "parts.csv")

    assert [category.name for category in find_categories(bottle)] == ["bottle"]
    assert [category.name for category in find_categories(parts)] == ["parts"]


def test_find_categories_leaves_out_those_without_test_images(tmp_path):
    write_mvtec_ad(tmp_path / "bottle")
    draw_many(tmp_path / "screw" / "train" / "good", 10)

    assert [c.name for c in find_categories(tmp_path)] == ["bottle"]
    assert len(find_categories(tmp_path, needs_test=False)) == 2


def test_find_categories_describes_an_unknown_layout(tmp_path):
    draw_many(tmp_path / "pictures", 3)

    with pytest.raises(
        DatasetError, match=r"which holds no images and the folders pictures \(3\)"
    ):
        find_categories(tmp_path)


# Real categories


@pytest.mark.parametrize(
    ("folder", "n_train", "n_good", "n_defects", "n_empty"),
    [
        ("mvtec_ad/bottle", 209, 20, 63, 0),
        ("mvtec_ad/screw", 320, 41, 119, 0),
        ("magnetic_tile", 300, 100, 392, 4),
    ],
)
def test_real_categories_are_complete(
    shared_data, folder, n_train, n_good, n_defects, n_empty
):
    category = open_category(shared_data / folder)
    defects = [sample for sample in category.test if sample.is_defect]
    empty = 0
    for sample in defects:
        with Image.open(sample.path) as picture:
            width, height = picture.size
        empty += not read_defect_mask(sample, height, width).any()

    assert len(category.train) == n_train
    assert len(category.test) - len(defects) == n_good
    assert len(defects) == n_defects
    assert empty == n_empty
    assert len(normal_image_paths(shared_data / folder)[0]) == n_train
