"""VisA as it is published: `split_csv/1cls.csv` tells training from test images.

    object,split,label,image,mask
    candle,train,normal,candle/Data/Images/Normal/0000.JPG,
    candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/...

Paths are relative to the collection's folder.
"""

from pathlib import Path
from typing import Final

from efficientad.datasets.folders import OnProblem
from efficientad.datasets.lists import csv_rows, splits_of
from efficientad.datasets.samples import Category
from efficientad.errors import DatasetError
from efficientad.images.listing import find_images, join_names

_TABLE: Final = Path("split_csv") / "1cls.csv"
_IMAGES: Final = Path("Data") / "Images"
_MASKS: Final = Path("Data") / "Masks"
_COLUMNS: Final = ("object", "split", "label", "image", "mask")


def is_visa(folder: Path) -> bool:
    """Return whether a folder is the whole of VisA as it is published."""
    return (folder / _TABLE).is_file()


def is_visa_category(folder: Path) -> bool:
    """Return whether a folder is one object of VisA as it is published."""
    return (folder / _IMAGES).is_dir()


def masks_folder(category: Path) -> Path:
    """Return the folder of the masks of an object; it may not exist."""
    return category / _MASKS


def visa_folders(root: Path) -> list[Path]:
    """Return the folders of all objects that the table names."""
    rows = csv_rows(root / _TABLE, _COLUMNS)
    return [root / name for name in sorted({row["object"] for _, row in rows})]


def visa_category(folder: Path, on_problem: OnProblem) -> Category:
    """Return one object of VisA, or raise `DatasetError` if no table names it."""
    root, name = folder.resolve().parent, folder.resolve().name
    if not is_visa(root):
        raise DatasetError(
            f"VisA needs {_TABLE} beside its objects to tell training from test "
            f"images, {root / _TABLE} is not there; unpack the whole archive"
        )
    rows = [
        (place, row | {"defect_type": row["label"]})
        for place, row in csv_rows(root / _TABLE, _COLUMNS)
        if row["object"] == name
    ]
    if not rows:
        raise DatasetError(
            f"{root / _TABLE} has no line for the object {name}; use the table that "
            "comes with the images"
        )
    # Paths of the table begin with the object's name. The given path may be relative.
    beside = folder.parent if folder.name == name else root
    splits = splits_of(rows, beside / _TABLE, beside, on_problem)
    category = Category(name, beside / name, *splits, collection="visa")
    if masks_folder(category.root).is_dir():
        _check_masks(category, on_problem)
    return category


def _check_masks(category: Category, on_problem: OnProblem) -> None:
    """Report masks of normal images, and masks without an image.

    Images that the table does not list may have masks.
    """
    masks, images = masks_folder(category.root), category.root / _IMAGES
    listed = {sample.mask_path for sample in category.test}
    extra = {
        _name_in(masks, path): path
        for path in find_images(masks, recursive=True)
        if path not in listed
    }
    normal = {
        _name_in(images, sample.path)
        for samples in category.splits.values()
        for sample in samples
        if not sample.is_defect
    }
    of_normal = [path for name, path in extra.items() if name in normal]
    if of_normal:
        on_problem(
            f"normal images need no mask, {masks} holds {len(of_normal)}, such as "
            f"{of_normal[0]}; remove them, or correct the table"
        )
    present = {_name_in(images, path) for path in find_images(images, recursive=True)}
    without = [path for name, path in extra.items() if name not in present]
    if without:
        on_problem(
            f"each mask in {masks} needs its image in {images}, {len(without)} have "
            f"none: {join_names(str(path.relative_to(masks)) for path in without)}; "
            "add the images or remove the masks"
        )


def _name_in(folder: Path, path: Path) -> Path:
    is_inside = path.is_relative_to(folder)
    return (path.relative_to(folder) if is_inside else path).with_suffix("")
