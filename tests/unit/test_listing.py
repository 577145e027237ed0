"""Images found in folders, in the same order on every machine."""

import os
from pathlib import Path

import pytest
from PIL import Image
from tests.dataset_files import nested_folders

from efficientad.errors import DatasetError
from efficientad.images.listing import (
    describe_contents,
    find_images,
    images_at,
    join_names,
    subfolders,
    unused_files,
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


def test_find_images_follows_links_to_folders_once(tmp_path):
    folder = tmp_path / "folder"
    touch(folder / "1.png", folder / "b" / "2.png", tmp_path / "elsewhere" / "3.png")
    (folder / "a link").symlink_to(folder / "b")
    (folder / "b" / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "z").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    (folder / "b" / "above").symlink_to(tmp_path)
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path)

    assert names_in(folder, recursive=True) == ["1.png", "b/2.png", "z/3.png"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF"])
def test_an_image_is_known_by_its_first_bytes_under_any_name(tmp_path, kind):
    names = ["part", "part.JFIF", "part.dib", "part.0001", "part.dat"]
    for name in names:
        Image.new("L", (8, 8)).save(tmp_path / name, kind)
    for name in ("notes.txt", "raw.dng"):
        Image.new("L", (8, 8)).save(tmp_path / name, kind)

    assert names_in(tmp_path) == sorted(names)


def test_a_folder_too_deep_for_a_path_is_an_error_of_its_own(tmp_path):
    touch(tmp_path / "1.png")
    errors: dict[Path, DatasetError] = {}

    with nested_folders(tmp_path):
        found = find_images(tmp_path, recursive=True, on_error=errors.__setitem__)
        with pytest.raises(DatasetError, match="File name too long"):
            find_images(tmp_path, recursive=True)

    assert found == [tmp_path / "1.png"]
    (error,) = errors.values()
    assert "cannot be listed (File name too long)" in str(error)


def test_what_is_not_used_is_counted_by_kind(tmp_path):
    touch(*(tmp_path / name for name in ("1.png", "2.avif", "3.avif", "4.pgm")))
    touch(*(tmp_path / name for name in ("rejected/5.png", ".hidden.png", "LICENSE")))
    touch(*(tmp_path / name for name in ("Thumbs.db", ".DS_Store", "@eaDir/6.png")))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "broken").symlink_to(tmp_path / "gone")
    (tmp_path / "rejected" / "loop").symlink_to(tmp_path)
    touch(tmp_path / "heatmaps" / "7.png")
    used = [tmp_path / "rejected" / ".." / "1.png"]

    unused = unused_files(tmp_path, used, apart=[tmp_path / "heatmaps"])

    assert unused.startswith(f"not used of {tmp_path}: .avif files (2), ")
    assert unused.endswith(" and 3 more; 9 in all")
    assert find_images(tmp_path) == [tmp_path / "1.png"]


def test_texts_alone_are_not_worth_a_word(tmp_path):
    touch(tmp_path / "1.png", tmp_path / "readme.txt")

    assert not unused_files(tmp_path, [tmp_path / "1.png"])
    assert "texts (1)" in unused_files(tmp_path, [])


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


def test_describe_contents_names_formats_that_are_not_read(tmp_path):
    touch(tmp_path / "1.avif", tmp_path / "2.AVIF", tmp_path / "notes.txt")

    assert describe_contents(tmp_path) == "no images, 2 .avif files"


@pytest.mark.parametrize("pattern", ["**", "**/*", "*"])
def test_a_pattern_that_matches_folders_gives_each_image_once(tmp_path, pattern):
    names = ["1.png", "a/2.png", "a/b/3.png"]
    touch(*(tmp_path / name for name in (*names, ".h.png", "a/.h.png")))

    assert images_at(tmp_path / pattern) == [tmp_path / name for name in names]


def test_join_names_names_five_and_counts_the_others():
    assert join_names("abcde") == "a, b, c, d, e"
    assert join_names(iter("abcdefg")) == "a, b, c, d, e and 2 more"


def test_what_a_folder_of_images_holds_beside_them_is_a_warning(tmp_path, caplog):
    for name in ("a.png", "film.avi"):
        (tmp_path / name).touch()

    assert images_at(tmp_path) == [tmp_path / "a.png"]
    assert ".avi files (1); 1 in all" in caplog.text
