"""Which layout a folder has, found by what lies in it, and the categories below it.

What training may see is found by `normal_image_paths` alone, which refuses all that
lies in the test folder of a category.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from efficientad.datasets import folders, lists
from efficientad.datasets.folders import OnProblem, normal_folder
from efficientad.datasets.samples import NORMAL, Category
from efficientad.errors import DatasetError
from efficientad.images.listing import describe_contents, find_images, subfolders

MIN_NORMAL_IMAGES: Final = 10
"""To train with, the held-out ones included."""

# Deep enough for ROOT/mvtec_ad/bottle and ROOT/VisA_pytorch/1cls/candle.
_MAX_DEPTH: Final = 4


def open_category(folder: Path, *, needs_test: bool = True) -> Category:
    """List the images of a category; none is read.

    Args:
        folder: A category of MVTec AD, MVTec LOCO or VisA (as published, or
            converted); a folder with `good` and defect types; or a CSV or JSON list.
            Without test images also a folder of normal images.
        needs_test: Refuse a category without test images.

    Raises:
        DatasetError: If the folder is no category, if images lie where none belong, or
            if some images of a defect type have a mask and others have none.
    """
    return list_category(folder, _raise, needs_test=needs_test)


def list_category(
    folder: Path, on_problem: OnProblem, *, needs_test: bool = True
) -> Category:
    """List the images of a category as `open_category`, going on where one can.

    Args:
        folder: As there.
        on_problem: Is called with each thing that is wrong and may be passed over.
        needs_test: As there.

    Raises:
        DatasetError: If the folder is no category, or a list is no list.
    """
    category = _list(folder, on_problem, needs_test=needs_test)
    if needs_test and not category.test:
        where = folder if folder.is_file() else folder / "test"
        raise DatasetError(
            f"a category with test images was needed, {where} holds none; put images "
            f"in test/{NORMAL} and test/DEFECT_TYPE"
        )
    return category


def find_categories(root: Path, *, needs_test: bool = True) -> list[Category]:
    """List all categories in a folder, by what lies in them; no image is read.

    Args:
        root: A category, a collection of them, or a folder of collections; or a CSV or
            JSON list, which is one category.
        needs_test: Leave out categories without test images, which have nothing to be
            judged on.

    Returns:
        At least one, in the order of their paths.

    Raises:
        DatasetError: If there is none, or if one of them cannot be used.
    """
    paths = [root] if lists.is_list(root) else list(find_category_folders(root))
    found = [open_category(path, needs_test=False) for path in paths]
    fitting = [category for category in found if category.test or not needs_test]
    if fitting:
        return fitting
    wanted = "a category with test images" if found else "a category"
    raise DatasetError(
        f"{wanted} was needed in {root}, which holds {describe_contents(root)}; give a "
        "folder laid out as MVTec AD, MVTec LOCO or VisA, or a CSV or JSON list"
    )


def find_category_folders(root: Path) -> Iterator[Path]:
    """List the folders that are laid out as a category, in order; some may be broken.

    Args:
        root: As for `find_categories`, but no list.

    Raises:
        DatasetError: If there is no such folder, or VisA's table cannot be read.
    """
    _require_folder(root)
    yield from _below(root, _MAX_DEPTH)


def normal_image_paths(
    folder: Path, *, min_images: int = MIN_NORMAL_IMAGES
) -> tuple[list[Path], list[Path]]:
    """List the normal images that a training may see.

    Args:
        folder: A category, or a folder of normal images; folders below it are not
            searched. Or a CSV or JSON list.
        min_images: So many training images there must be at least.

    Returns:
        Training images, and those for the calibration, which only a category with
        validation images has.

    Raises:
        DatasetError: If there are too few images, if they are elsewhere, or if they are
            test images.
    """
    if lists.is_list(folder) or lists.is_visa_category(folder):
        category = _list(folder, _raise, needs_test=False)
        train = [sample.path for sample in category.train]
        _check_count(len(train), f"{folder} lists {len(train)}", min_images)
        return train, [sample.path for sample in category.validation]
    _require_folder(folder)
    _refuse_test_images(folder)
    train_folder = normal_folder(folder, "train")
    if not train_folder.is_dir():
        if folders.is_unsplit(folder):
            train, _ = folders.unsplit_normal_images(folder)
            text = f"{folder / NORMAL} holds {len(train)} besides those for the test"
            _check_count(len(train), text, min_images)
            return train, []
        return _checked_images(folder, min_images), []
    validation = normal_folder(folder, "validation")
    held_out = find_images(validation) if validation.is_dir() else []
    return _checked_images(train_folder, min_images), held_out


def _raise(problem: DatasetError) -> None:
    raise problem


def _list(folder: Path, on_problem: OnProblem, *, needs_test: bool) -> Category:
    if lists.is_list(folder):
        return lists.list_category(folder, on_problem)
    _require_folder(folder)
    if lists.is_visa_category(folder):
        return lists.visa_category(folder, on_problem)
    if folders.is_split(folder):
        return folders.split_category(folder, on_problem)
    if folders.is_unsplit(folder):
        return folders.unsplit_category(folder, on_problem)
    if not needs_test and find_images(folder):
        return folders.plain_category(folder)
    raise DatasetError(
        f"a category with the folders train/{NORMAL} and test was needed, {folder} "
        f"holds {describe_contents(folder)}; {_advice(folder)}"
    )


def _is_category(folder: Path) -> bool:
    return (
        lists.is_visa_category(folder)
        or folders.is_split(folder)
        or folders.is_unsplit(folder)
    )


def _below(folder: Path, depth: int) -> Iterator[Path]:
    if _is_category(folder):
        yield folder
    elif lists.is_visa(folder):
        yield from lists.visa_folders(folder)
    elif depth:
        for inner in subfolders(folder):
            yield from _below(inner, depth - 1)


def _checked_images(folder: Path, min_images: int) -> list[Path]:
    paths = find_images(folder)
    if not paths:
        raise DatasetError(
            f"a folder of normal images was needed, {folder} holds "
            f"{describe_contents(folder)}; {_advice(folder)}"
        )
    if (folder / "test").is_dir():
        raise DatasetError(
            f"a folder with test images needs its normal images in train/{NORMAL}, "
            f"{folder} holds {describe_contents(folder)}; move them there"
        )
    _check_count(len(paths), f"{folder} holds {describe_contents(folder)}", min_images)
    return paths


def _check_count(n_images: int, text: str, min_images: int) -> None:
    if n_images < min_images:
        raise DatasetError(
            f"at least {min_images} normal images were needed, {text}; record more "
            "good parts"
        )


def _require_folder(folder: Path) -> None:
    if not folder.exists():
        raise DatasetError(
            f"a folder of images was needed, {folder} does not exist; check the path"
        )
    if not folder.is_dir():
        raise DatasetError(
            f"a folder of images was needed, {folder} is a file; give the folder that "
            "holds it"
        )


def _refuse_test_images(folder: Path) -> None:
    """Keep test images away from training: a score on them would mean nothing."""
    resolved = folder.resolve()
    for inner in (resolved, *resolved.parents):
        train = normal_folder(inner.parent, "train")
        if inner.name in {"test", folders.MASKS} and train.is_dir():
            raise DatasetError(
                f"a folder of normal images was needed, {folder} belongs to the test "
                f"images of {inner.parent.name}; did you mean {train}?"
            )
        if inner.name == "Images" and lists.is_visa_category(inner.parent.parent):
            raise DatasetError(
                f"a folder of normal images was needed, {folder} holds test images of "
                f"VisA as well; did you mean {inner.parent.parent}?"
            )


def _advice(folder: Path) -> str:
    """Say what may have been meant by a folder that does not fit."""
    for candidate in _candidates(folder):
        if candidate.is_dir() and find_images(candidate):
            return f"did you mean {candidate}?"
    return "give the folder that directly holds the normal images, and only them"


def _candidates(folder: Path) -> Iterator[Path]:
    yield folder / NORMAL
    yield folder / "train"
    for inner in subfolders(folder):
        yield normal_folder(inner, "train")
        yield inner / NORMAL
