import numpy as np
import pytest

from efficientad.datasets import open_category, read_defect_mask
from efficientad.errors import DatasetError
from efficientad.synthetic_parts import DEFECT_TYPES, draw_part, write_category

COUNTS = {"n_train": 2, "n_test_good": 1, "n_per_defect": 1}


def test_the_same_seed_gives_the_same_picture():
    for kind in (None, "scratch"):
        (one, mask), (other, other_mask) = draw_part(5, kind), draw_part(5, kind)

        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(mask, other_mask)


def test_another_seed_gives_another_picture():
    assert not np.array_equal(draw_part(5)[0], draw_part(6)[0])


@pytest.mark.parametrize("kind", DEFECT_TYPES)
def test_the_defect_is_where_its_mask_says(kind):
    normal, empty = draw_part(3)
    faulty, mask = draw_part(3, kind)

    changed = np.abs(faulty.astype(int) - normal).max(2)
    assert not empty.any()
    assert 0 < mask.mean() < 0.3
    assert changed[mask].mean() > 5 * changed[~mask].mean()


def test_a_category_is_read_back_with_masks(tmp_path):
    write_category(tmp_path / "parts", **COUNTS, seed=1, size=64)

    category = open_category(tmp_path / "parts")
    assert len(category.train) == 2
    assert {s.defect_type for s in category.test} == {"good", *DEFECT_TYPES}
    for sample in category.test:
        assert read_defect_mask(sample, 64, 64).any() == sample.is_defect


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")

    with pytest.raises(DatasetError):
        write_category(tmp_path, **COUNTS, seed=1, size=64)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
