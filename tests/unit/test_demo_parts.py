"""Parts drawn by code: each defect is where its mask says, and nowhere else."""

import hashlib

import numpy as np
import pytest
from scipy import ndimage

from efficientad.datasets import open_category, read_defect_mask
from efficientad.demo_parts import DEFECT_TYPES, draw_part, write_category
from efficientad.demo_parts import category as category_module
from efficientad.demo_parts.canvas import SIDE, Canvas, Pose, box, disc, hexagon
from efficientad.demo_parts.parts import (
    DEFECTS,
    LABEL_PLACE,
    OPEN_HOLES,
    SCREW_PLACES,
    WASHER_PLACE,
    is_bare,
    normal_part,
)
from efficientad.demo_parts.surfaces import brushed_grain, difference, paint
from efficientad.errors import DatasetError, StorageError
from efficientad.images.rgb import read_image

COUNTS = {"n_train": 2, "n_test_good": 1, "n_per_defect": 1}

SIZE = 128  # pixels: quick, and everything is still there

# As far as a shadow, or less open sky, reaches beyond what casts it.
SHADOW_REACH = 11


def files_in(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def many_parts(defect_type, n_parts=40):
    for seed in range(n_parts):
        rng = np.random.default_rng(seed)
        part = normal_part(rng)
        yield part, DEFECTS[defect_type](part, rng)


# Pictures


def test_a_part_is_a_picture_in_color_without_a_defect():
    image, mask = draw_part(0)

    assert image.shape == (256, 256, 3)
    assert image.dtype == np.uint8
    assert mask.shape == (256, 256)
    assert not mask.any()
    assert 40 < image.mean() < 215
    assert (image == 255).mean() < 0.01


@pytest.mark.parametrize("defect_type", [None, "scratch"])
def test_the_same_seed_gives_the_same_picture(defect_type):
    first, second = (draw_part(5, defect_type, 128) for _ in range(2))

    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_no_two_parts_are_alike():
    """They lie elsewhere, in other light: not only the noise differs."""
    means = [draw_part(seed, size=64)[0].reshape(-1, 3).mean(0) for seed in range(5)]
    apart = np.abs(draw_part(5)[0].astype(int) - draw_part(6)[0])

    assert np.ptp(means, axis=0).min() > 3
    assert (apart > 40).mean() > 0.01


@pytest.mark.parametrize("size", [64, 150, 320])
def test_a_part_can_have_any_size(size):
    """Larger, it is the same picture with more detail."""
    image, mask = draw_part(3, "missing", size)
    _, reference = draw_part(3, "missing")

    assert image.shape == (size, size, 3)
    assert mask.mean() == pytest.approx(reference.mean(), rel=0.25)


# Masks


@pytest.mark.parametrize("defect_type", DEFECT_TYPES)
@pytest.mark.parametrize("seed", [3, 14])
def test_beyond_the_mask_only_the_shadow_of_a_defect_differs(defect_type, seed):
    normal, _ = draw_part(seed, size=SIZE)
    defective, mask = draw_part(seed, defect_type, SIZE)
    apart = np.abs(defective.astype(int) - normal).max(axis=2)

    far_away = ~ndimage.binary_dilation(mask, iterations=SHADOW_REACH)
    assert far_away.mean() > 0.3
    assert apart[far_away].max() <= 1
    assert apart[mask].mean() > 5 * apart[~mask].mean()


@pytest.mark.parametrize("defect_type", DEFECT_TYPES)
def test_each_defect_can_be_seen(defect_type):
    """No image counts as defective whose defect is hidden below a screw."""
    for seed in range(6):
        normal, _ = draw_part(seed, size=SIZE)
        defective, mask = draw_part(seed, defect_type, SIZE)
        apart = np.abs(defective.astype(int) - normal).max(axis=2)

        assert mask.sum() >= 8, seed
        assert mask.mean() < 0.15, seed
        assert np.quantile(apart[mask], 0.9) > 10, seed


def test_a_missing_screw_is_masked_as_its_disc():
    """A seed where a screw is missing: its mask has the area of its head."""
    areas = [draw_part(seed, "missing")[1].sum() for seed in range(8)]
    is_screw = np.abs(np.array(areas) / (np.pi * 11.5**2) - 1) < 0.12

    assert is_screw.sum() >= 4


def test_equal_surfaces_have_no_difference():
    part, pose = normal_part(np.random.default_rng(0)), Pose(1, -2, 0.02)
    grain = brushed_grain(pose, 64, np.random.default_rng(1))

    first, second = (paint(part, pose, 64, grain) for _ in range(2))

    assert not difference(first, second).any()


def test_painting_leaves_the_bench_as_it_was():
    """The bench is kept for the next part."""
    before, _ = draw_part(7, size=64)
    draw_part(8, "surplus", 64)

    np.testing.assert_array_equal(draw_part(7, size=64)[0], before)


# Parts and defects


@pytest.mark.parametrize("defect_type", DEFECT_TYPES)
def test_a_defect_changes_one_thing(defect_type):
    """The screws, the washer and the label, or one mark."""
    fields = ("screws", "washer", "label", "scratch", "stain", "dent", "chip")
    expected = {
        "missing": [{"screws"}, {"washer"}],
        "surplus": [{"screws"}],
        "swapped": [{"screws"}, {"washer", "label"}],
    }.get(defect_type, [{defect_type}])
    seen = []
    for part, defective in many_parts(defect_type):
        changed = {n for n in fields if getattr(part, n) != getattr(defective, n)}
        assert changed in expected
        seen.append(changed)

    assert all(changes in seen for changes in expected)


def test_a_surplus_screw_is_in_a_hole_that_ought_to_be_open():
    for part, defective in many_parts("surplus"):
        (surplus,) = set(defective.screws) - set(part.screws)
        assert surplus.at in OPEN_HOLES


def test_a_missing_screw_leaves_the_others_as_they_are():
    for part, defective in many_parts("missing"):
        n_missing = len(part.screws) - len(defective.screws)
        assert n_missing == (defective.washer is not None)
        assert set(defective.screws) <= set(part.screws)


def test_swapped_things_are_all_there_in_other_places():
    for part, defective in many_parts("swapped"):
        kinds = [sorted(s.kind for s in p.screws) for p in (part, defective)]
        assert kinds[0] == kinds[1]
        if part.label != defective.label:
            assert (defective.label, defective.washer) == (WASHER_PLACE, LABEL_PLACE)


def test_marks_begin_on_bare_plate():
    for defect_type in ("stain", "dent"):
        for _, defective in many_parts(defect_type):
            assert is_bare(getattr(defective, defect_type).at, 3)


@pytest.mark.parametrize(
    "at", [LABEL_PLACE, WASHER_PLACE, *SCREW_PLACES, *OPEN_HOLES, (0, 53), (0, 90)]
)
def test_what_is_not_bare_plate_is_known(at):
    assert not is_bare(at, 0)
    assert is_bare((0, 30), 3)


# Shapes


def test_distances_are_negative_inside_and_grow_outwards():
    u = np.array([0, 3, 10, 12], np.float32)
    v = np.zeros(4, np.float32)

    np.testing.assert_allclose(disc(u, v, 10), [-10, -7, 0, 2])
    np.testing.assert_allclose(box(u, v, (10, 20), 4), [-10, -7, 0, 2])
    np.testing.assert_allclose(hexagon(u, v, 10), [-10, -7, 0, 2], atol=1e-5)


def test_a_window_holds_its_circle_also_where_the_part_is_turned():
    pose = Pose(3, -2, 0.4)
    grain = brushed_grain(pose, 64, np.random.default_rng(0))
    surface = paint(normal_part(np.random.default_rng(0)), pose, 64, grain)
    canvas = Canvas(surface, pose)
    at, radius = (46.0, -20.0), 15.0

    _, u, v = canvas.near(at, 2 * SIDE)
    _, cut_u, cut_v = canvas.near(at, radius)

    n_inside = (np.hypot(u, v) < radius).sum()
    assert n_inside == (np.hypot(cut_u, cut_v) < radius).sum()
    assert n_inside == pytest.approx(np.pi * (radius * canvas.n / SIDE) ** 2, rel=0.05)


# Categories


def test_a_category_has_the_layout_of_mvtec_ad(tmp_path):
    write_category(tmp_path / "parts", **COUNTS, seed=1, size=64)

    category = open_category(tmp_path / "parts")
    assert len(category.train) == 2
    assert {s.defect_type for s in category.test} == {"good", *DEFECT_TYPES}
    for sample in category.test:
        assert read_image(sample.path).shape == (64, 64, 3)
        assert read_defect_mask(sample, 64, 64).any() == sample.is_defect


def test_more_images_leave_the_others_as_they_are(tmp_path):
    write_category(tmp_path / "few", **COUNTS, seed=1, size=64)
    more = {name: count + 1 for name, count in COUNTS.items()}
    write_category(tmp_path / "more", **more, seed=1, size=64)

    few, more_files = files_in(tmp_path / "few"), files_in(tmp_path / "more")
    assert few.items() < more_files.items()
    pictures = [digest for name, digest in more_files.items() if "mask" not in name]
    assert len(set(pictures)) == len(pictures)


def test_another_seed_gives_other_images(tmp_path):
    for seed in (1, 2):
        write_category(
            tmp_path / str(seed),
            n_train=1,
            n_test_good=0,
            n_per_defect=0,
            seed=seed,
            size=64,
        )

    assert files_in(tmp_path / "1") != files_in(tmp_path / "2")


def test_an_empty_folder_is_used(tmp_path):
    counts = {"n_train": 1, "n_test_good": 0, "n_per_defect": 0}
    write_category(tmp_path, **counts, seed=0, size=64)

    assert list(files_in(tmp_path)) == ["train/good/000.png"]


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")

    with pytest.raises(DatasetError, match="a new or empty folder was needed"):
        write_category(tmp_path, **COUNTS, seed=1, size=64)
    with pytest.raises(DatasetError, match=r"mine\.txt is a file"):
        write_category(tmp_path / "mine.txt", **COUNTS, seed=1, size=64)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        if seeds.pop() == 0:
            raise KeyboardInterrupt
        return draw_part(0, size=64)

    seeds = [0, 1, 2]
    monkeypatch.setattr(category_module, "draw_part", interrupted)

    with pytest.raises(KeyboardInterrupt):
        write_category(tmp_path / "parts", **COUNTS, seed=1, size=64)

    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match=r"cannot write .*file/parts"):
        write_category(tmp_path / "file" / "parts", **COUNTS, seed=1, size=64)
