"""Images held out for the calibration, and sets of images kept apart."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.dataset_files import draw, draw_many

from efficientad.datasets import require_disjoint, split_validation
from efficientad.errors import ConfigError, DatasetError
from efficientad.images.rgb import image_hash, read_image

# split_validation


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


# require_disjoint


def hashes_of(*paths):
    return {path: image_hash(read_image(path)) for path in paths}


def test_a_trained_picture_is_found_in_another_file_and_format(tmp_path):
    held_out, trained = draw(tmp_path / "a.png", 7), draw(tmp_path / "b.bmp", 7)
    other = draw(tmp_path / "c.png", 8)

    with pytest.raises(
        DatasetError, match=r"1 of them were: .*a\.png is the same picture as .*b\.bmp"
    ):
        require_disjoint(hashes_of(held_out, other), hashes_of(trained))


def test_disjoint_sets_are_accepted(tmp_path):
    paths = draw_many(tmp_path, 6)

    require_disjoint(hashes_of(*paths[:3]), hashes_of(*paths[3:]))


def test_shared_pictures_are_counted_and_the_first_name_is_told():
    held_out = {Path("b"): "1", Path("a"): "1", Path("c"): "2"}
    trained = {Path("y"): "1", Path("z"): "3"}

    with pytest.raises(DatasetError, match=r"2 of them were: a is the same .* as y"):
        require_disjoint(held_out, trained)
