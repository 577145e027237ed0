"""Folders as lists of samples, and what never gets into a training."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from efficientad.datasets import (
    MIN_NORMAL_IMAGES,
    Sample,
    normal_image_paths,
    open_category,
    read_defect_mask,
    shared_images,
    split_validation,
)
from efficientad.errors import ConfigError, DatasetError, ImageError
from efficientad.images.rgb import image_hash, read_image

HEIGHT, WIDTH = 12, 16


def draw(path, value=100, size=(HEIGHT, WIDTH), dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, dtype)).save(path)
    return path


def draw_many(folder, n, suffix=".png"):
    return [draw(folder / f"{i:03}{suffix}", 50 + i) for i in range(n)]


def draw_mask(path, rows, value=255, size=(HEIGHT, WIDTH)):
    labels = np.zeros(size, np.uint8)
    labels[rows] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)


@pytest.fixture
def category(tmp_path):
    """Like MVTec AD, with every folder there may be."""
    root = tmp_path / "bolt"
    draw_many(root / "train" / "good", 12)
    draw_many(root / "validation" / "good", 3)
    draw_many(root / "test" / "good", 4)
    for defect_type in ("scratch", "dent"):
        for path in draw_many(root / "test" / defect_type, 2, ".jpg"):
            masks = root / "ground_truth" / defect_type
            draw_mask(masks / f"{path.stem}_mask.png", np.s_[2:5])
    return root


def sample_of(root, defect_type, number=0):
    samples = [s for s in open_category(root).test if s.defect_type == defect_type]
    return samples[number]


# Categories


def test_a_category_is_listed_with_all_its_parts(category):
    opened = open_category(category)

    assert (opened.name, opened.root) == ("bolt", category)
    assert len(opened.train) == 12
    assert len(opened.validation) == 3
    assert [s.defect_type for s in opened.test] == ["good"] * 4 + ["dent"] * 2 + [
        "scratch"
    ] * 2
    assert opened.train[0] == Sample(category / "train" / "good" / "000.png", "good")
    assert opened.test[4].mask_path == category / "ground_truth/dent/000_mask.png"


def test_only_samples_of_a_defect_type_are_defects(category):
    opened = open_category(category)

    assert [s.is_defect for s in opened.test] == [False] * 4 + [True] * 4
    assert not any(s.is_defect for s in opened.train + opened.validation)
    assert all((s.mask_path is not None) == s.is_defect for s in opened.test)


def test_the_name_of_the_current_folder_is_known(category, monkeypatch):
    monkeypatch.chdir(category)

    assert open_category(Path()).name == "bolt"


def test_a_category_may_do_without_validation_and_masks(category):
    shutil.rmtree(category / "validation")
    shutil.rmtree(category / "ground_truth")

    opened = open_category(category)

    assert opened.validation == ()
    assert {s.mask_path for s in opened.test} == {None}
    assert sum(s.is_defect for s in opened.test) == 4


def test_labeled_test_images_alone_can_be_judged(category):
    shutil.rmtree(category / "train")

    assert open_category(category).train == ()
    assert len(open_category(category).test) == 8


def test_test_images_are_needed_unless_said_otherwise(category):
    shutil.rmtree(category / "test")

    with pytest.raises(DatasetError, match=r"test holds none; put images in test/good"):
        open_category(category)

    assert open_category(category, needs_test=False).test == ()


def test_hidden_and_foreign_files_are_no_samples(category):
    (category / "test" / "good" / ".hidden.png").touch()
    (category / "test" / "good" / "Thumbs.db").touch()
    (category / "test" / ".cache").mkdir()

    assert len(open_category(category).test) == 8


def test_a_folder_that_is_no_category_is_described(tmp_path):
    draw_many(tmp_path / "parts", 3)
    draw_many(tmp_path / "parts" / "more", 2)

    with pytest.raises(
        DatasetError, match=r"parts holds 3 images and the folders more \(2\)"
    ):
        open_category(tmp_path / "parts")


def test_a_folder_of_categories_is_no_category(category):
    with pytest.raises(DatasetError, match=r"did you mean .*bolt.train.good\?"):
        open_category(category.parent)


def test_images_directly_in_test_are_refused(category):
    draw(category / "test" / "000.png")

    with pytest.raises(DatasetError, match=r"test holds 1 image .*; move them to"):
        open_category(category)


def test_an_empty_defect_type_is_refused(category):
    draw(category / "test" / "crack" / "deeper" / "000.png")

    with pytest.raises(DatasetError, match=r"crack, it holds no images and .*deeper"):
        open_category(category)


def test_a_single_missing_mask_is_named(category):
    (category / "ground_truth" / "dent" / "001_mask.png").unlink()

    with pytest.raises(DatasetError, match=r"1 of 2 have none: 001\.jpg; name them"):
        open_category(category)


def test_many_missing_masks_are_counted(category):
    draw_many(category / "test" / "dent", 30)

    with pytest.raises(
        DatasetError, match=r"28 of 32 have none: 002.png, .* and 23 more;"
    ):
        open_category(category)


def test_a_defect_type_without_any_mask_can_still_be_scored(category):
    shutil.rmtree(category / "ground_truth" / "dent")

    opened = open_category(category)

    assert [s.mask_path is None for s in opened.test if s.is_defect] == [
        True,
        True,
        False,
        False,
    ]


def test_images_of_mixed_kinds_are_no_error(category):
    Image.new("RGB", (WIDTH, HEIGHT), (10, 200, 30)).save(
        category / "train" / "good" / "color.jpg"
    )
    Image.new("L", (40, 30), 7).save(category / "train" / "good" / "larger.bmp")

    images = [read_image(s.path) for s in open_category(category).train]

    assert len(images) == 14
    assert {image.shape for image in images} == {(HEIGHT, WIDTH, 3), (30, 40, 3)}
    assert len(normal_image_paths(category)[0]) == 14


# Masks


def test_a_mask_tells_which_pixels_are_defective(category):
    mask = read_defect_mask(sample_of(category, "dent"), HEIGHT, WIDTH)

    assert mask.dtype == np.bool_
    assert np.flatnonzero(mask.all(axis=1)).tolist() == [2, 3, 4]
    assert mask.sum() == 3 * WIDTH


def test_a_normal_image_has_no_defective_pixel(category):
    mask = read_defect_mask(sample_of(category, "good"), 7, 9)

    assert mask.shape == (7, 9)
    assert not mask.any()


@pytest.mark.parametrize("name", ["000_mask.png", "000.png", "000.PNG", "000.bmp"])
def test_masks_are_found_under_their_usual_names(category, name):
    masks = category / "ground_truth" / "dent"
    (masks / "000_mask.png").unlink()
    draw_mask(masks / name, np.s_[7:8], value=1)

    sample = sample_of(category, "dent")

    assert sample.mask_path == masks / name
    assert read_defect_mask(sample, HEIGHT, WIDTH).sum() == WIDTH


def test_a_jpeg_is_no_mask(category):
    masks = category / "ground_truth" / "dent"
    (masks / "000_mask.png").rename(masks / "000_mask.jpg")

    with pytest.raises(DatasetError, match="1 of 2 have none"):
        open_category(category)


def test_several_masks_of_one_image_are_joined(category):
    """As in MVTec LOCO, where each file has a value of its own."""
    masks = category / "ground_truth" / "dent"
    (masks / "000_mask.png").unlink()
    draw_mask(masks / "000" / "000.png", np.s_[1:3], value=253)
    draw_mask(masks / "000" / "001.png", np.s_[2:6], value=1)

    mask = read_defect_mask(sample_of(category, "dent"), HEIGHT, WIDTH)

    assert np.flatnonzero(mask.any(axis=1)).tolist() == [1, 2, 3, 4, 5]


def test_a_folder_without_masks_is_refused(category):
    masks = category / "ground_truth" / "dent"
    (masks / "000_mask.png").unlink()
    (masks / "000").mkdir()

    with pytest.raises(DatasetError, match=r"000, it holds no images; put at least"):
        read_defect_mask(sample_of(category, "dent"), HEIGHT, WIDTH)


def test_an_empty_mask_of_a_defect_is_allowed(category):
    draw_mask(category / "ground_truth" / "dent" / "000_mask.png", np.s_[:0])

    mask = read_defect_mask(sample_of(category, "dent"), HEIGHT, WIDTH)

    assert mask.shape == (HEIGHT, WIDTH)
    assert not mask.any()


def test_a_mask_of_another_size_names_both_files_and_sizes(category):
    path = category / "ground_truth" / "dent" / "000_mask.png"
    draw_mask(path, np.s_[:], size=(HEIGHT, WIDTH + 1))

    with pytest.raises(
        DatasetError,
        match=r"000_mask\.png has 17 x 12 pixels and .*000\.jpg 16 x 12; export",
    ):
        read_defect_mask(sample_of(category, "dent"), HEIGHT, WIDTH)


def test_a_defect_without_mask_is_told_where_it_belongs(category):
    sample = Sample(category / "test" / "dent" / "009.jpg", "dent")

    with pytest.raises(DatasetError, match=r"put 009_mask\.png into ground_truth/dent"):
        read_defect_mask(sample, HEIGHT, WIDTH)


def test_a_damaged_mask_is_named(category):
    path = category / "ground_truth" / "dent" / "000_mask.png"
    path.write_bytes(path.read_bytes()[:40])

    with pytest.raises(ImageError, match=r"000_mask\.png cannot be decoded"):
        read_defect_mask(sample_of(category, "dent"), HEIGHT, WIDTH)


# What a training may see


def test_of_a_category_training_sees_its_normal_images(category):
    training, validation = normal_image_paths(category)

    assert {path.parent for path in training} == {category / "train" / "good"}
    assert {path.parent for path in validation} == {category / "validation" / "good"}
    assert (len(training), len(validation)) == (12, 3)


def test_without_a_validation_folder_there_are_no_validation_images(category):
    shutil.rmtree(category / "validation")

    assert normal_image_paths(category)[1] == []


def test_of_a_plain_folder_training_sees_the_images_in_it(tmp_path):
    paths = draw_many(tmp_path, 10)
    draw(tmp_path / "rejected" / "000.png")

    assert normal_image_paths(tmp_path) == (paths, [])


def test_the_folder_of_normal_images_may_be_given_itself(category):
    training, validation = normal_image_paths(category / "train" / "good")

    assert (len(training), validation) == (12, [])


@pytest.mark.parametrize("n", [MIN_NORMAL_IMAGES - 1, 1])
def test_too_few_images_are_counted(tmp_path, n):
    draw_many(tmp_path, n)

    with pytest.raises(
        DatasetError, match=rf"at least 10 .* holds {n} image.*; record"
    ):
        normal_image_paths(tmp_path)

    assert len(normal_image_paths(tmp_path, min_images=1)[0]) == n


def test_too_few_images_in_a_category_are_counted(category):
    for path in normal_image_paths(category)[0][3:]:
        path.unlink()

    with pytest.raises(DatasetError, match=r"at least 10 .*good holds 3 images"):
        normal_image_paths(category)


def test_an_empty_folder_is_told_so(tmp_path):
    with pytest.raises(DatasetError, match="holds no images; give the folder that"):
        normal_image_paths(tmp_path)


def test_a_missing_folder_is_told_so(tmp_path):
    with pytest.raises(DatasetError, match="gone does not exist; check the path"):
        normal_image_paths(tmp_path / "gone")
    with pytest.raises(DatasetError, match="gone does not exist; check the path"):
        open_category(tmp_path / "gone")


def test_a_file_is_no_folder(tmp_path):
    path = draw(tmp_path / "part.png")

    with pytest.raises(DatasetError, match=r"part\.png is a file; give the folder"):
        normal_image_paths(path)


@pytest.mark.parametrize("inner", ["train", "."])
def test_a_folder_too_high_is_told_the_right_one(category, inner):
    folder = category / inner if inner == "train" else category.parent

    with pytest.raises(DatasetError, match=r"did you mean .*train.good\?"):
        normal_image_paths(folder)


def test_of_folders_with_other_names_none_is_guessed(tmp_path):
    draw_many(tmp_path / "broken", 20)
    draw_many(tmp_path / "intact", 20)

    with pytest.raises(
        DatasetError,
        match=r"no images and the folders broken \(20\), intact \(20\) .*; give the",
    ):
        normal_image_paths(tmp_path)


def test_many_folders_are_not_all_listed(tmp_path):
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
def test_test_images_never_get_into_a_training(category, inner, monkeypatch):
    draw_many(category / inner, 20)
    message = r"belongs to the test images of bolt; did you mean .*train.good\?"

    with pytest.raises(DatasetError, match=message):
        normal_image_paths(category / inner)
    monkeypatch.chdir(category / inner)
    with pytest.raises(DatasetError, match=message):
        normal_image_paths(Path())


def test_a_folder_that_is_merely_called_test_may_be_trained_on(tmp_path):
    draw_many(tmp_path / "test" / "good", 10)

    assert len(normal_image_paths(tmp_path / "test" / "good")[0]) == 10


# Holding out images


def test_a_tenth_is_held_out():
    training, validation = split_validation(range(209), 0.1, 0)

    assert (len(training), len(validation)) == (188, 21)


@given(
    st.integers(2, 300),
    st.floats(0, 1, exclude_min=True, exclude_max=True),
    st.integers(0, 2**63),
)
def test_a_split_loses_nothing_and_leaves_no_side_empty(n, share, seed):
    training, validation = split_validation(range(n), share, seed)

    assert sorted(training + validation) == list(range(n))
    assert training
    assert validation
    assert training == sorted(training)
    assert validation == sorted(validation)
    assert len(validation) >= min(2, n // 2)
    assert abs(len(validation) - share * n) <= max(2, share)


@given(st.permutations(range(25)), st.integers(0, 100))
def test_the_order_of_listing_does_not_matter(order, seed):
    paths = [Path(f"parts/{i:03}.png") for i in order]

    assert split_validation(paths, 0.2, seed) == split_validation(
        sorted(paths), 0.2, seed
    )


def test_the_place_of_the_folder_does_not_matter():
    def held_out(folder):
        paths = [Path(folder) / f"{i:03}.png" for i in range(50)]
        return [path.name for path in split_validation(paths, 0.1, 3)[1]]

    assert held_out("here") == held_out("/somewhere/else")


def test_the_split_is_the_same_on_every_machine():
    """Recorded once: a change would make trained detectors irreproducible."""
    assert split_validation(range(30), 0.1, 0)[1] == [4, 6, 14]


def test_another_seed_holds_out_others():
    splits = {tuple(split_validation(range(100), 0.1, seed)[1]) for seed in range(20)}

    assert len(splits) == 20


def test_every_image_is_held_out_equally_often():
    counts = np.zeros(20)
    for seed in range(2000):
        counts[split_validation(range(20), 0.2, seed)[1]] += 1

    # Expected are 400 each, with a standard deviation of 18.
    assert abs(counts - 400).max() < 5 * 18


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ConfigError, match=r"in \(0, 1\), got"):
        split_validation(range(100), share, 0)


@pytest.mark.parametrize("n", [0, 1])
def test_what_cannot_be_split_is_refused(n):
    with pytest.raises(DatasetError, match=f"at least 2 images .* got {n}"):
        split_validation(range(n), 0.1, 0)


def test_an_image_listed_twice_is_refused():
    """It could be held out and trained on."""
    paths = [Path("b.png"), Path("a.png"), Path("b.png")]

    with pytest.raises(DatasetError, match=r"b\.png is listed twice"):
        split_validation(paths, 0.5, 0)


# The same picture twice


def hashes_of(*paths):
    return {path: image_hash(read_image(path)) for path in paths}


def test_the_same_picture_is_found_in_another_file_and_format(tmp_path):
    one, other = draw(tmp_path / "a.png", 7), draw(tmp_path / "b.bmp", 7)
    unlike = draw(tmp_path / "c.png", 8)

    pairs = shared_images(hashes_of(one, unlike), hashes_of(other))

    assert pairs == [(one, other)]


def test_disjoint_sets_share_nothing(tmp_path):
    paths = draw_many(tmp_path, 6)

    assert shared_images(hashes_of(*paths[:3]), hashes_of(*paths[3:])) == []


def test_all_pairs_are_found_in_sorted_order():
    ours = {Path("b"): "1", Path("a"): "1", Path("c"): "2"}
    theirs = {Path("y"): "1", Path("x"): "1", Path("z"): "3"}

    assert shared_images(ours, theirs) == [
        (Path("a"), Path("x")),
        (Path("a"), Path("y")),
        (Path("b"), Path("x")),
        (Path("b"), Path("y")),
    ]


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
