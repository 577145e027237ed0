import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from efficientad.errors import DatasetError, ImageError
from efficientad.images.rgb import resize_image
from efficientad.natural_images import procedural_textures
from efficientad.natural_images.pictures import (
    DrawnImages,
    ImageFiles,
    open_images,
    open_pretraining_images,
)

Pixels = NDArray[np.uint8]


def random_pixels(seed: int, height: int = 20, width: int = 30) -> Pixels:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_folder(folder: Path, seeds: dict[str, int]) -> Path:
    for name, seed in seeds.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(random_pixels(seed)))
    return folder


def contents(images: ImageFiles) -> list[Pixels]:
    return [images.read(i) for i in range(len(images))]


def test_a_folder_is_read_with_the_folders_below(tmp_path):
    folder = write_folder(tmp_path / "nature", {"b.png": 1, "a/c.PNG": 0})
    (folder / "notes.txt").write_text("no image")
    images = open_images(folder)
    np.testing.assert_array_equal(contents(images), [random_pixels(i) for i in (0, 1)])
    assert images.description() == "nature (2 images)"


def test_a_tar_is_read_in_place(tmp_path):
    long_name = "n01440764/" + "long" * 40 + ".png"
    members = {
        "b.png": png(random_pixels(0)),
        long_name: png(random_pixels(1)),
        "a/._b.png": b"a companion file of another system",
        "list.txt": b"b.png",
    }
    images = open_images(write_tar(tmp_path / "some.tar", members))
    np.testing.assert_array_equal(contents(images), [random_pixels(i) for i in (0, 1)])
    assert images.description() == "some.tar (2 images)"


def test_several_sources_are_read_as_one(tmp_path):
    folder = write_folder(tmp_path / "pictures", {"0.png": 0, "1.png": 1})
    members = {f"{i}.png": png(random_pixels(i)) for i in (2, 3, 4)}
    tar = write_tar(tmp_path / "more.tar", members)
    images = open_images([folder, tar])
    np.testing.assert_array_equal(
        contents(images), [random_pixels(i) for i in range(5)]
    )
    assert images.description() == "pictures (2 images), more.tar (3 images)"


@pytest.mark.parametrize("given", [["a", "a"], ["a", "a/more.tar"], ["a/b/..", "a"]])
def test_images_that_would_count_twice_are_refused(tmp_path, given):
    write_folder(tmp_path, {"a/0.png": 0, "a/b/1.png": 1})
    write_tar(tmp_path / "a" / "more.tar", {"0.png": png(random_pixels(2))})

    with pytest.raises(DatasetError, match="each image must be given once"):
        open_images([tmp_path / name for name in given])


def test_tars_inside_a_folder_are_read_after_its_images(tmp_path):
    write_tar(tmp_path / "z.tar", {"0.png": png(random_pixels(2))})
    write_tar(tmp_path / "a.tar", {"0.png": png(random_pixels(1))})
    write_folder(tmp_path, {"pictures/0.png": 0})
    images = open_images(tmp_path)
    np.testing.assert_array_equal(
        contents(images), [random_pixels(i) for i in range(3)]
    )


def test_a_fingerprint_tells_images_and_order_but_not_their_place(tmp_path):
    one, same, other = (
        open_images(write_folder(tmp_path / place, {name: 0}))
        for place, name in [("x", "0.png"), ("y", "0.png"), ("z", "1.png")]
    )
    assert one.fingerprint() == same.fingerprint()
    assert one.fingerprint() != other.fingerprint()
    tars = [
        write_tar(tmp_path / f"{seed}.tar", {"0.png": png(random_pixels(seed))})
        for seed in (0, 1)
    ]
    prints = {
        open_images(paths).fingerprint()
        for paths in (tars[0], tars[1], tars, tars[::-1])
    }
    assert len(prints) == 4


def test_a_draw_is_the_central_crop_and_sometimes_gray(tmp_path, rng):
    images = open_images(write_folder(tmp_path, {"0.png": 0}))
    crop = resize_image(random_pixels(0), 512, 512)[128:384, 128:384]
    gray = np.asarray(Image.fromarray(crop).convert("L"))[:, :, None].repeat(3, axis=2)
    n_draws, n_gray = 200, 0
    for _ in range(n_draws):
        drawn = images.draw(rng)
        is_gray = bool((drawn[:, :, :1] == drawn).all())
        np.testing.assert_array_equal(drawn, gray if is_gray else crop)
        n_gray += is_gray
    assert 0.2 < n_gray / n_draws < 0.4


def test_changing_a_draw_changes_no_later_one(tmp_path):
    images = open_images(write_folder(tmp_path, {"0.png": 0}))
    first = images.draw(np.random.default_rng(0))
    expected = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(images.draw(np.random.default_rng(0)), expected)


def test_every_image_is_drawn(tmp_path, rng):
    images = open_images(write_folder(tmp_path, {f"{i}.png": i for i in range(3)}))
    drawn = {images.draw(rng).tobytes() for _ in range(60)}
    assert len(drawn) == 6  # in color and in gray


@pytest.mark.parametrize("n_bytes", [512, 1024 + 300])
def test_a_cut_tar_is_refused(tmp_path, n_bytes):
    path = write_tar(tmp_path / "t.tar", {"0.png": b"", "1.png": b""})
    path.write_bytes(path.read_bytes()[:n_bytes])

    with pytest.raises(DatasetError, match="it ends in the middle"):
        open_images(path)


def test_a_tar_with_links_to_images_is_refused(tmp_path):
    path = write_tar(tmp_path / "t.tar", {"0.png": png(random_pixels(0))})
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "0.png"
        tar.addfile(link)

    with pytest.raises(DatasetError, match=r"1\.png is a link there"):
        open_images(path)


@pytest.mark.parametrize(
    "content", [b"", b"no picture", png(random_pixels(0, 90, 90))[:2000]]
)
def test_an_unreadable_member_is_named_with_its_tar(tmp_path, content, rng):
    path = write_tar(tmp_path / "some.tar", {"good/broken.png": content})
    images = open_images(path)
    for attempt in (lambda: images.read(0), lambda: images.draw(rng)):
        with pytest.raises(ImageError, match=r"good/broken\.png in .*some\.tar"):
            attempt()


def test_a_member_is_read_by_the_rules_of_files(tmp_path):
    """Vector graphics would start another program."""
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    images = open_images(write_tar(tmp_path / "t.tar", {"a.jpg": content}))

    with pytest.raises(ImageError, match=r"a\.jpg in .*t\.tar"):
        images.read(0)


def test_of_a_hundred_images_one_may_be_damaged(tmp_path, caplog):
    folder = write_folder(tmp_path / "p", {f"{i:03}.png": i for i in range(100)})
    (folder / "050.png").write_text("no picture")
    images = open_images(folder)

    for _ in range(2):
        stands_for_it = images.read_or_other(range(100), 50)
        np.testing.assert_array_equal(stands_for_it, random_pixels(49))
    np.testing.assert_array_equal(
        images.read_or_other((50, 7), 0), random_pixels(7), "none before it"
    )
    with pytest.raises(ImageError, match=r"one of 1 images must be .*050\.png"):
        images.read_or_other((50,), 0)

    assert images.unreadable == {50}
    assert caplog.text.count("left out: ") == 1
    (folder / "049.png").write_text("no picture either")
    with pytest.raises(ImageError, match=r"2 of 100 are; replace .*049\.png"):
        images.read_or_other(range(100), 50)


def test_a_draw_of_a_damaged_image_changes_no_other_one(tmp_path):
    seeds = {f"{i:03}.png": i for i in range(100)}
    sound = open_images(write_folder(tmp_path / "sound", seeds))
    folder = write_folder(tmp_path / "damaged", seeds)
    (folder / "050.png").write_text("no picture")
    damaged = open_images(folder)
    rngs = np.random.default_rng(1), np.random.default_rng(1)

    differ = [
        not np.array_equal(sound.draw(rngs[0]), damaged.draw(rngs[1]))
        for _ in range(200)
    ]

    assert damaged.unreadable == {50}
    assert 0 < sum(differ) < 10


def test_an_image_that_is_gone_is_no_damaged_one(tmp_path):
    seeds = {f"{i:03}.png": i for i in range(100)}
    images = open_images(write_folder(tmp_path, seeds))
    (tmp_path / "050.png").unlink()

    with pytest.raises(ImageError, match=r"050\.png does not exist"):
        images.read_or_other(range(100), 50)
    assert not images.unreadable


def test_a_broken_link_is_left_out_and_named(tmp_path, caplog):
    folder = write_folder(tmp_path / "images", {"a.png": 1, "b.png": 2})
    (folder / "c.png").symlink_to("gone.png")
    (folder / "film.avi").touch()

    images = open_images(folder)

    assert len(images) == 2
    assert len(images.fingerprint()) == 64
    assert "images (1), .avi files (1); 2 in all" in caplog.text


def test_only_visible_files_that_end_so_are_tars(tmp_path):
    write_folder(tmp_path / "folder.tar", {"0.png": 0})
    for name in (".hidden/1.tar", "more/2.TAR"):
        (tmp_path / name).parent.mkdir()
        write_tar(tmp_path / name, {"0.png": png(random_pixels(int(name[-5])))})

    images = open_images(str(tmp_path))

    np.testing.assert_array_equal(contents(images), [random_pixels(i) for i in (0, 2)])


def test_a_tar_that_was_cut_off_is_refused(tmp_path):
    members = {f"{i}.png": png(random_pixels(i, 90, 90)) for i in range(2)}
    path = write_tar(tmp_path / "whole.tar", members)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises((DatasetError, ImageError), match=r"cut\.tar"):
        contents(open_images(cut))


def test_a_compressed_tar_is_refused(tmp_path):
    path = write_tar(tmp_path / "some.tar", {"0.png": png(random_pixels(0))}, "w:gz")
    with pytest.raises(DatasetError, match="an uncompressed tar of images was needed"):
        open_images(path)


def test_a_tar_without_images_is_refused(tmp_path):
    path = write_tar(tmp_path / "some.tar", {"inner.tar": b""})
    with pytest.raises(DatasetError, match=r"some\.tar holds none"):
        open_images(path)


def test_paths_without_images_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="holds no images and no tars"):
        open_images(tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        open_images(tmp_path / "gone")
    with pytest.raises(DatasetError, match="got none"):
        open_images([])


def test_drawn_images_follow_from_the_generator_alone():
    fresh, used = DrawnImages(), DrawnImages()
    rng = np.random.default_rng(5)
    drawn = [used.draw(rng) for _ in range(12)]
    rng = np.random.default_rng(5)
    np.testing.assert_array_equal([fresh.draw(rng) for _ in range(12)], drawn)
    rng = np.random.default_rng(5)
    np.testing.assert_array_equal([used.draw(rng) for _ in range(12)], drawn)


def test_drawn_images_differ_and_are_as_the_networks_take_them(rng):
    images = open_pretraining_images(None)
    drawn = [images.draw(rng) for _ in range(80)]
    assert {(picture.shape, picture.dtype.name) for picture in drawn} == {
        ((256, 256, 3), "uint8")
    }
    assert len({picture.tobytes() for picture in drawn}) == len(drawn)
    is_gray = [bool((picture[:, :, :1] == picture).all()) for picture in drawn]
    assert 0.2 < np.mean(is_gray) < 0.5
    contrast = [picture.std() for picture in drawn]
    assert 20 < np.median(contrast) < 90
    assert np.mean([one > 5 for one in contrast]) > 0.9


def test_drawn_images_describe_themselves(monkeypatch):
    images = open_pretraining_images(None)
    assert images.description() == "textures and scenes drawn by code"
    before = images.fingerprint()
    assert before == DrawnImages().fingerprint()
    monkeypatch.setattr(procedural_textures, "_SCENE_SHARE", 0.0)
    assert images.fingerprint() != before


def test_the_real_natural_images_open(shared_data, rng):
    images = open_images(shared_data / "natural_images")
    assert len(images) == 8000
    assert images.draw(rng).shape == (256, 256, 3)
    assert images.read(len(images) - 1).shape == (256, 256, 3)
