"""Hostile folders of images: refused before hours are spent, or counted by kind."""

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from tests.hostile.case import (
    IN,
    LISTS,
    OK,
    OUT,
    PREDICT,
    REFUSED,
    SOME_FAILED,
    Case,
    nothing,
    special_file,
    write,
)
from tests.hostile.files import TRAIN

from efficientad.shards.parts import predict_parts

Change = Callable[[], Any]


def parts() -> None:
    """Copy the sound category."""
    shutil.copytree("parts", IN / "parts")


def normal(n: int = 10) -> None:
    """Copy normal images."""
    for path in sorted(Path("normal").iterdir())[:n]:
        write(IN / "good" / path.name, path.read_bytes())


def fill(path: str, color: int = 0, size: tuple[int, int] = (96, 96)) -> None:
    """Write a picture of one color."""
    place = IN / path
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, color).save(place)


def remove(path: str) -> None:
    """Remove a file or folder."""
    place = IN / path
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()


def after(first: Change, *others: Change) -> Change:
    """Return a function that makes a tree and changes it."""

    def prepare() -> None:
        for change in (first, *others):
            change()

    return prepare


MASK = "parts/ground_truth/scratch/0_mask.png"
CHECKED: dict[str, tuple[Change, ...]] = {
    "a text for an image": (lambda: write(IN / "parts/test/good/0.png", "no image"),),
    "an empty training image": (lambda: write(IN / "parts/train/good/1.png"),),
    "a mask of another size": (partial(fill, MASK, 255, (50, 40)),),
    "a mask of a text": (lambda: write(IN / MASK, "no mask"),),
    "a missing mask": (partial(remove, MASK),),
    "a mask without an image": (
        partial(fill, "parts/ground_truth/scratch/77_mask.png", 255),
    ),
    "a test image to train on": (
        lambda: shutil.copy(IN / "parts/test/good/0.png", IN / "parts/train/good/"),
    ),
    "a mask of zeros": (partial(fill, MASK, 0),),
    "a lossy mask": (
        lambda: Image.new("L", (96, 96), 255).save(IN / MASK, format="JPEG"),
    ),
}
"""Changes of a sound category that `check` finds and `evaluate` may refuse."""

TRAINED: dict[str, tuple[tuple[Change, ...], str]] = {
    "no folder": ((), "does not exist"),
    "an empty folder": (((IN / "good").mkdir,), "no images"),
    "a file": ((lambda: write(IN / "good", "text"),), "is a file"),
    "one image": ((partial(normal, 1),), "10"),
    "nine images": ((partial(normal, 9),), "10"),
    "a text among them": ((normal, lambda: write(IN / "good/a.png", "no")), "a.png"),
    "an empty file": ((normal, lambda: write(IN / "good/a.png")), "a.png"),
    "a tiny image": ((normal, partial(fill, "good/a.png", 9, (3, 3))), "a.png"),
    "a folder of texts": ((lambda: write(IN / "good/a.txt", "no"),), "no images"),
    "a pipe": ((lambda: special_file("pipe", IN / "good"),), ""),
    "a device": ((lambda: special_file("device", IN / "good"),), ""),
    "a link to itself": ((lambda: special_file("link to itself", IN / "good"),), ""),
    "a broken link": ((lambda: special_file("broken link", IN / "good"),), ""),
    "images of one color": (
        tuple(partial(fill, f"good/{i}.png", 9 + i) for i in range(12)),
        "color",
    ),
}


def linked_to_itself() -> None:
    """Link a folder of images from within."""
    normal(2)
    (IN / "good" / "again").symlink_to("..")
    (IN / "good" / "other").symlink_to(Path("good").absolute().parent / "normal")


def deep(depth: int) -> None:
    """Put an image into nested folders."""
    folder = IN / Path(*["d"] * depth)
    folder.mkdir(parents=True)
    shutil.copy("good.png", folder)


def many_empty_folders() -> None:
    """Make folders without images beside one image."""
    for number in range(2000):
        (IN / f"{number % 40}" / f"{number}").mkdir(parents=True)
    shutil.copy("good.png", IN)


def many_links() -> None:
    """Make links to links beside one image."""
    shutil.copy("good.png", IN / "0.png")
    for number in range(1, 60):
        (IN / f"{number}.png").symlink_to(f"{number - 1}.png")


def unused_by_parquet() -> None:
    """Put a film beside an image and a folder of texts."""
    shutil.copy("good.png", IN)
    write(IN / "film.avi", b"RIFF")
    write(IN / "notes/a.txt", "no")


def check_unused() -> None:
    """Assert that the summary names the film."""
    os.lseek(1, 0, os.SEEK_SET)
    assert b"not used of in: .avi files (1), texts (1)" in os.read(1, 2**20)


def damaged_part() -> None:
    """Write the part that the command would write, and cut it."""
    predict_parts("part.ead", ("good.png",), "out/parts")
    (part,) = (OUT / "parts").iterdir()
    part.write_bytes(part.read_bytes()[:-9])


PREDICTED: dict[str, tuple[Change, int]] = {
    "folders linked to themselves": (linked_to_itself, OK),
    "800 nested folders": (partial(deep, 800), OK),
    "2000 empty folders": (many_empty_folders, OK),
    "chains of links": (many_links, SOME_FAILED),
    "an empty folder": (nothing, REFUSED),
    "texts alone": (lambda: write(IN / "a.txt", "text"), REFUSED),
    "hidden images alone": (
        lambda: write(IN / ".a.png", Path("good.png").read_bytes()),
        REFUSED,
    ),
    "a pipe alone": (lambda: special_file("pipe", IN / "a.png"), REFUSED),
}
NOT_CATEGORIES = {
    "no folder": nothing,
    "an empty folder": (IN / "parts").mkdir,
    "a file": lambda: write(IN / "parts", "text"),
    "a pipe": lambda: special_file("pipe", IN / "parts"),
    "no test": after(parts, partial(remove, "parts/test")),
    "no defects": after(parts, partial(remove, "parts/test/scratch")),
    "no good test images": after(parts, partial(remove, "parts/test/good")),
    "empty test": after(
        parts,
        partial(remove, "parts/test"),
        (IN / "parts/test").mkdir,
    ),
    "a file for the test": after(
        parts, partial(remove, "parts/test"), lambda: write(IN / "parts/test", "text")
    ),
}


def cases() -> Iterator[Case]:
    """Yield all cases of data trees."""
    for name, changes in CHECKED.items():
        yield Case(
            area="trees",
            name=f"check: {name}",
            prepare=after(parts, *changes),
            command=("check", "in/parts"),
            codes=(SOME_FAILED,) if name != "a mask of zeros" else (OK, SOME_FAILED),
        )
    for name, (changes, words) in TRAINED.items():
        yield Case(
            area="trees",
            name=f"train: {name}",
            prepare=after(*(changes or (nothing,))),
            command=("train", "in/good", "--output", "out/part.ead", *TRAIN),
            words=words,
        )
    for name, (prepare, code) in PREDICTED.items():
        yield Case(
            area="trees",
            name=f"predict: {name}",
            prepare=prepare,
            command=PREDICT,
            codes=(code,),
            makes=LISTS,
        )
    for verb in ("evaluate", "check"):
        for name, prepare in NOT_CATEGORIES.items():
            if verb == "check" and name not in {"no folder", "an empty folder"}:
                continue
            model = ("part.ead",) if verb == "evaluate" else ()
            output = ("--output", "out") if verb == "evaluate" else ()
            yield Case(
                area="trees",
                name=f"{verb}: {name}",
                prepare=prepare,
                command=(verb, *model, "in/parts", *output),
            )
    for name in ("metrics.json", "report.html"):
        yield Case(
            area="trees",
            name=f"evaluate: a folder in place of {name}",
            prepare=partial((OUT / name / "x").mkdir, parents=True),
            command=("evaluate", "part.ead", "parts", "--output", "out"),
            words=name,
        )
    for name in LISTS:
        yield Case(
            area="trees",
            name=f"predict: a folder in place of {name}",
            prepare=partial((OUT / name / "x").mkdir, parents=True),
            command=("predict", "part.ead", "normal", "--output", "out"),
            words=f"{name} is a folder",
        )
    parquet = ("--output", "out/parts", "--format", "parquet")
    yield Case(
        area="trees",
        name="predict: what Parquet does not use",
        prepare=unused_by_parquet,
        command=(*PREDICT[:3], *parquet),
        codes=(OK,),
        makes=("parts",),
        check=check_unused,
    )
    for kind in ("pipe", "device", "broken link"):
        yield Case(
            area="trees",
            name=f"predict: a {kind} for a list of Parquet",
            prepare=partial(special_file, kind, IN / "list.txt"),
            command=("predict", "part.ead", "in/list.txt", *parquet),
            words="list.txt",
        )
    yield Case(
        area="trees",
        name="predict: a damaged part of Parquet",
        prepare=damaged_part,
        command=("predict", "part.ead", "good.png", *parquet),
        words="a whole part was needed",
    )
    yield Case(
        area="trees",
        name="calibrate: other files than images",
        prepare=lambda: [write(IN / "good" / f"{i}.png", os.urandom(9)) for i in "ab"],
        command=("calibrate", "part.ead", "in/good", "--output", "out/part.ead"),
        words="in/good/a.png",
    )


CASES = tuple(cases())
