"""Images found in folders, in the same order on every machine."""

import pytest

from efficientad.errors import DatasetError
from efficientad.images.listing import (
    describe_contents,
    find_images,
    join_names,
    subfolders,
)


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names_in(folder, **options):
    found = find_images(folder, **options)
    return [path.relative_to(folder).as_posix() for path in found]


def test_find_images_returns_known_suffixes_in_sorted_order(tmp_path):
    touch(*(tmp_path / name for name in ("b.PNG", "a.jpeg", "notes.txt", "C.tif")))
    (tmp_path / "folder.png").mkdir()

    assert names_in(tmp_path) == ["C.tif", "a.jpeg", "b.PNG"]


def test_find_images_leaves_out_hidden_files(tmp_path):
    touch(tmp_path / "a.png", tmp_path / "._a.png", tmp_path / ".cache" / "b.png")

    assert names_in(tmp_path, recursive=True) == ["a.png"]


def test_find_images_searches_subfolders_if_recursive(tmp_path):
    touch(tmp_path / "a" / "2.png", tmp_path / "1.png", tmp_path / "a" / "b" / "3.png")

    assert names_in(tmp_path) == ["1.png"]
    assert names_in(tmp_path, recursive=True) == ["1.png", "a/2.png", "a/b/3.png"]


def test_find_images_does_not_follow_links_to_folders(tmp_path):
    touch(tmp_path / "1.png")
    try:
        (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("links are not allowed here")

    assert names_in(tmp_path, recursive=True) == ["1.png"]


@pytest.mark.parametrize("name", ["gone", "file.png"])
def test_find_images_refuses_what_is_no_folder(tmp_path, name):
    touch(tmp_path / "file.png")

    with pytest.raises(DatasetError, match=rf"{name} cannot be listed \(.+\); check"):
        find_images(tmp_path / name)


def test_subfolders_are_the_visible_folders_in_sorted_order(tmp_path):
    touch(tmp_path / "b" / "1.png", tmp_path / "a" / "1.png", tmp_path / "c.png")
    (tmp_path / ".cache").mkdir()

    assert subfolders(tmp_path) == [tmp_path / "a", tmp_path / "b"]


def test_describe_contents_counts_images_here_and_in_subfolders(tmp_path):
    touch(tmp_path / "1.png")
    assert describe_contents(tmp_path) == "1 image"

    touch(tmp_path / "b" / "1.png", tmp_path / "b" / "2.png", tmp_path / "a" / "notes")
    assert describe_contents(tmp_path) == (
        "1 image and the folders a (0), b (2) (images in them)"
    )
    assert describe_contents(tmp_path / "a") == "no images"


def test_join_names_names_five_and_counts_the_others():
    assert join_names("abcde") == "a, b, c, d, e"
    assert join_names(iter("abcdefg")) == "a, b, c, d, e and 2 more"
