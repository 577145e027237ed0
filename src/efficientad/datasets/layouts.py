"""Which layout a folder has, known by what it holds, and the categories below it.

Training sees only what `normal_image_paths` returns: it refuses the test images of a
category.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from efficientad.datasets import folders, lists, visa
from efficientad.datasets.folders import OnProblem, normal_folder
from efficientad.datasets.samples import NORMAL, Category, is_normal_name
from efficientad.errors import DatasetError
from efficientad.images.listing import describe_contents, subfolders, unused_files

MIN_NORMAL_IMAGES: Final = 10
"""Fewest normal images for a training, those held out for the calibration included."""

_FOLDER_LAYOUTS: Final = (
    (visa.is_visa_category, visa.visa_category),
    (folders.is_split, folders.split_category),
    (folders.is_unsplit, folders.unsplit_category),
)

# Deep enough for ROOT/mvtec_ad/bottle and ROOT/VisA_pytorch/1cls/candle.
_MAX_DEPTH: Final = 4

logger = logging.getLogger(__name__)


def _raise(problem: str) -> None:
    raise DatasetError(problem)


def open_category(
    folder: Path, *, needs_test: bool = True, on_problem: OnProblem = _raise
) -> Category:
    """Return the samples of a category; no image is read.

    Args:
        folder: A category of MVTec AD, MVTec LOCO or VisA (as published, or
            converted); a folder with `good` and defect types; or a CSV or JSON list or
            a manifest. Without test images also a folder of normal images.
        needs_test: Whether a category without test images is refused.
        on_problem: Function to call with each fault that need not end the listing, such
            as a missing mask.

    Raises:
        DatasetError: If the folder is no category, if images lie where none belong, or
            if some images of a defect type have a mask and others have none.
    """
    category = _list(folder, on_problem, needs_test=needs_test)
    if needs_test and not category.test:
        where = folder if folder.is_file() else folder / "test"
        raise DatasetError(
            f"a category with test images was needed, {where} holds none; put images "
            f"in test/{NORMAL} and test/DEFECT_TYPE"
        )
    return category


def is_table(folder: Path) -> bool:
    """Return whether a table names the images of a category, not its folders."""
    return lists.is_list(folder) or visa.is_visa_category(folder)


def find_category_folders(root: Path) -> Iterator[Path]:
    """Yield the folders that are laid out as a category, in order; some may be broken.

    A folder that several links lead to is yielded once.

    Raises:
        DatasetError: If there is no such folder, or VisA's table cannot be read.
    """
    _require_folder(root)
    yield from _category_folders(root, _MAX_DEPTH, set())


def _category_folders(root: Path, depth: int, seen: set[Path]) -> Iterator[Path]:
    place = root.resolve()
    if place in seen:
        return
    seen.add(place)
    try:
        is_category = any(has_layout(root) for has_layout, _ in _FOLDER_LAYOUTS)
    except DatasetError:  # to open it says what is wrong
        is_category = True
    if is_category:
        yield root
    elif visa.is_visa(root):
        yield from visa.visa_folders(root)
    elif depth:
        for inner in subfolders(root):
            yield from _category_folders(inner, depth - 1, seen)


def normal_image_paths(
    folder: Path, *, min_images: int = MIN_NORMAL_IMAGES
) -> tuple[list[Path], list[Path]]:
    """Return the normal images that a training may see.

    The folder is a category, a CSV or JSON list, or a folder of normal images, whose
    subfolders are searched if it is named `good`.

    Returns:
        Training images, and the validation images of a category that has them.

    Raises:
        DatasetError: If there are too few images, if they are elsewhere, or if they are
            test images.
    """
    if not is_table(folder):
        _require_folder(folder)
        _refuse_test_images(folder)
    # A table must be right as a whole. In folders, faults of masks do not matter here.
    on_problem = _raise if is_table(folder) else lambda _problem: None
    category = _list(folder, on_problem, needs_test=False)
    if category.unused:
        logger.warning(category.unused)
    if not category.train and not is_table(folder):
        raise DatasetError(
            f"a category needs its normal images in train/{NORMAL}, {folder} holds "
            f"{describe_contents(folder)}; move them there"
        )
    if len(category.train) < min_images:
        raise DatasetError(
            f"at least {min_images} normal images were needed, {folder} has "
            f"{len(category.train)} for the training; record more good parts"
        )
    train, validation = (
        [sample.path for sample in samples]
        for samples in (category.train, category.validation)
    )
    return train, validation


def _list(folder: Path, on_problem: OnProblem, *, needs_test: bool) -> Category:
    if lists.is_list(folder):
        return lists.list_category(folder, on_problem)
    _require_folder(folder)
    for has_layout, category_of in _FOLDER_LAYOUTS:
        if has_layout(folder):
            return _with_unused(category_of(folder, on_problem))
    if not needs_test and folders.normal_images(folder):
        return _with_unused(folders.plain_category(folder))
    wanted = "a category or a folder of normal images"
    if needs_test:
        wanted = f"a category with the folders train/{NORMAL} and test"
    raise DatasetError(
        f"{wanted} was needed, {folder} holds {describe_contents(folder)}; "
        f"{_advice(folder)}"
    )


def _with_unused(category: Category) -> Category:
    """Return a category with what it does not use. Masks have checks of their own."""
    used = [s.path for samples in category.splits.values() for s in samples]
    masks = [folders.masks_folder(category.root), visa.masks_folder(category.root)]
    return replace(category, unused=unused_files(category.root, used, apart=masks))


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
    """Raise if a folder holds test images: scores on training images mean nothing."""
    resolved = folder.resolve()
    if not is_normal_name(resolved.name) and _is_unsplit(resolved.parent):
        logger.warning(
            "%s lies beside %s, as images of defects do; look whether it shows normal "
            "parts",
            folder,
            normal_folder(resolved.parent).name,
        )
    for inner in (resolved, *resolved.parents):
        if inner.name in folders.TESTS | {folders.MASKS}:
            train = normal_folder(inner.parent / "train")
            if train.is_dir():
                raise DatasetError(
                    f"a folder of normal images was needed, {folder} belongs to the "
                    f"test images of {inner.parent.name}; did you mean {train}?"
                )
            if _is_unsplit(inner.parent):
                raise DatasetError(
                    f"a folder of normal images was needed, {folder} belongs to the "
                    f"masks of {inner.parent.name}; did you mean "
                    f"{normal_folder(inner.parent)}?"
                )
        if inner.name == "Images" and visa.is_visa_category(inner.parent.parent):
            raise DatasetError(
                f"a folder of normal images was needed, {folder} holds test images of "
                f"VisA as well; did you mean {inner.parent.parent}?"
            )


def _is_unsplit(folder: Path) -> bool:
    """Return whether a folder, which may be any one, is an unsplit category."""
    with suppress(DatasetError):
        return folders.is_unsplit(folder)
    return False


def _advice(folder: Path) -> str:
    """Return a guess at the folder that was meant, or what a folder should hold."""
    inner = subfolders(folder)
    for guess in (
        normal_folder(folder),
        folder / "train",
        *(normal_folder(f) for folder in inner for f in (folder / "train", folder)),
    ):
        if guess.is_dir() and folders.normal_images(guess):
            return f"did you mean {guess}?"
    return "give the folder that directly holds the normal images, and only them"
