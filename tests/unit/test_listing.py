"""Images found in folders, in the same order on every machine."""

import pytest

from efficientad.errors import DatasetError
from efficientad.images.listing import find_images


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names_in(folder, **options):
    found = find_images(folder, **options)
    return [path.relative_to(folder).as_posix() for path in found]


def test_images_are_found_by_suffix_in_sorted_order(tmp_path):
    touch(*(tmp_path / name for name in ("b.PNG", "a.jpeg", "notes.txt", "C.tif")))
    (tmp_path / "folder.png").mkdir()

    assert names_in(tmp_path) == ["C.tif", "a.jpeg", "b.PNG"]


def test_hidden_files_are_left_out(tmp_path):
    touch(tmp_path / "a.png", tmp_path / "._a.png", tmp_path / ".cache" / "b.png")

    assert names_in(tmp_path, recursive=True) == ["a.png"]


def test_folders_below_are_searched_on_demand(tmp_path):
    touch(tmp_path / "a" / "2.png", tmp_path / "1.png", tmp_path / "a" / "b" / "3.png")

    assert names_in(tmp_path) == ["1.png"]
    assert names_in(tmp_path, recursive=True) == ["1.png", "a/2.png", "a/b/3.png"]


def test_a_link_to_a_folder_above_does_not_loop(tmp_path):
    touch(tmp_path / "1.png")
    try:
        (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("links are not allowed here")

    assert names_in(tmp_path, recursive=True) == ["1.png"]


@pytest.mark.parametrize("name", ["gone", "file.png"])
def test_only_a_folder_can_be_searched(tmp_path, name):
    touch(tmp_path / "file.png")

    with pytest.raises(DatasetError, match=rf"{name} cannot be listed \(.+\); check"):
        find_images(tmp_path / name)
