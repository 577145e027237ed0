"""Categories in tables: VisA as it is published, and lists of one's own.

VisA has all images of an object in one folder, and says in `split_csv/1cls.csv` which
are for what:

    object,split,label,image,mask
    candle,train,normal,candle/Data/Images/Normal/0000.JPG,
    candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/...

A list is a CSV file with a heading, or a JSON file with a list of objects:

    image,split,defect_type,mask
    shots/0001.png,train,good,
    shots/0417.png,test,scratch,masks/0417.png

Paths are relative to the table's folder (VisA: to the collection's). `split` is train,
validation or test; `defect_type` is `good` where there is no defect, and `mask`, a file
or a folder of several, may be missing.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from efficientad.datasets.annotations import is_mask
from efficientad.datasets.folders import OnProblem
from efficientad.datasets.samples import (
    NORMAL,
    Category,
    Sample,
    Split,
)
from efficientad.errors import DatasetError
from efficientad.images.listing import find_images, join_names

LIST_SUFFIXES: Final = frozenset({".csv", ".json"})

_VISA_TABLE: Final = Path("split_csv") / "1cls.csv"
_VISA_IMAGES: Final = Path("Data") / "Images"
_VISA_MASKS: Final = Path("Data") / "Masks"
_VISA_COLUMNS: Final = ("object", "split", "label", "image", "mask")
_VISA_NORMAL: Final = "normal"
_LIST_COLUMNS: Final = ("image", "split", "defect_type")

_Row = Mapping[str, Any]


def is_list(path: Path) -> bool:
    """Tell whether a path is a list of images by its name."""
    return path.suffix.lower() in LIST_SUFFIXES and path.is_file()


def is_visa(folder: Path) -> bool:
    """Tell whether a folder is the whole of VisA as it is published."""
    return (folder / _VISA_TABLE).is_file()


def is_visa_category(folder: Path) -> bool:
    """Tell whether a folder is one object of VisA as it is published."""
    return (folder / _VISA_IMAGES).is_dir()


def visa_category(folder: Path, on_problem: OnProblem) -> Category:
    """List one object of VisA.

    Raises:
        DatasetError: If there is no table, or it does not know the object.
    """
    root = folder.resolve().parent
    if not is_visa(root):
        raise DatasetError(
            f"VisA needs {_VISA_TABLE} beside its objects to tell training from test "
            f"images, {root / _VISA_TABLE} is not there; unpack the whole archive"
        )
    name = folder.resolve().name
    rows = [row for row in _visa_rows(root) if row["object"] == name]
    if not rows:
        raise DatasetError(
            f"{root / _VISA_TABLE} has no line for the object {name}; use the table "
            "that comes with the images"
        )
    # Paths as they were given: those in the table begin with the object's name.
    beside = folder.parent if folder.name == name else root
    listed = [
        {
            "image": row["image"],
            "split": row["split"],
            "defect_type": NORMAL if row["label"] == _VISA_NORMAL else row["label"],
            "mask": row["mask"],
        }
        for row in rows
    ]
    splits = _splits(listed, beside / _VISA_TABLE, beside, on_problem)
    category = Category(name, beside / name, *splits, collection="visa")
    _check_visa_masks(category, on_problem)
    return category


def visa_folders(root: Path) -> list[Path]:
    """Give the folders of all objects of VisA that the table names."""
    return [root / name for name in sorted({row["object"] for row in _visa_rows(root)})]


def list_category(path: Path, on_problem: OnProblem) -> Category:
    """List the images that a CSV or JSON file names.

    Raises:
        DatasetError: If the file is no such list.
    """
    is_json = path.suffix.lower() == ".json"
    rows = _json_rows(path) if is_json else _csv_rows(path, _LIST_COLUMNS)
    return Category(
        path.stem, path.parent, *_splits(rows, path, path.parent, on_problem)
    )


def _splits(
    rows: Sequence[_Row], table: Path, root: Path, on_problem: OnProblem
) -> tuple[tuple[Sample, ...], tuple[Sample, ...], tuple[Sample, ...]]:
    """Give the samples for training, validation and test."""
    splits: dict[str, list[Sample]] = {name: [] for name in get_args(Split)}
    line_of: dict[Path, int] = {}
    # A table's first line is its heading.
    for line, row in enumerate(rows, start=1 if table.suffix == ".json" else 2):
        where = f"{table}, {'entry' if table.suffix == '.json' else 'line'} {line}"
        sample = _sample(row, root, where, on_problem)
        split = row["split"]
        if split not in splits:
            raise DatasetError(
                f"a split must be one of {', '.join(splits)}, {where}, has {split!r}; "
                "correct it"
            )
        if sample.is_defect and split != "test":
            raise DatasetError(
                f"{split} images must be {NORMAL}, {where}, has the defect type "
                f"{sample.defect_type}; move {sample.path.name} to the test"
            )
        first = line_of.setdefault(sample.path, line)
        if first != line:
            raise DatasetError(
                f"each image may be listed once, {where}, has {sample.path} again "
                f"(first in {first}); remove one of them"
            )
        splits[split].append(sample)
    train, validation, test = (
        tuple(sorted(splits[name], key=_order)) for name in get_args(Split)
    )
    _check_all_masked(test, table, on_problem)
    return train, validation, test


def _check_all_masked(
    test: Sequence[Sample], table: Path, on_problem: OnProblem
) -> None:
    """Find images without a mask where others of their defect type have one."""
    for kind in dict.fromkeys(sample.defect_type for sample in test):
        samples = [s for s in test if s.is_defect and s.defect_type == kind]
        missing = [sample.path.name for sample in samples if sample.mask_path is None]
        if 0 < len(missing) < len(samples):
            on_problem(
                DatasetError(
                    f"each image of {kind} needs a mask, {len(missing)} of "
                    f"{len(samples)} have none in {table}: {join_names(missing)}; fill "
                    "them in, or leave out those of the others"
                )
            )


def _check_visa_masks(category: Category, on_problem: OnProblem) -> None:
    """Find masks of normal images, and masks without an image.

    Images that the table leaves out may have theirs.
    """
    masks, images = category.root / _VISA_MASKS, category.root / _VISA_IMAGES
    if not masks.is_dir():
        return
    listed = {sample.mask_path for sample in category.test}
    unlisted = {
        path.relative_to(masks).with_suffix(""): path
        for path in find_images(masks, recursive=True)
        if is_mask(path) and path not in listed
    }
    normal = [
        unlisted[name]
        for samples in category.splits.values()
        for sample in samples
        if not sample.is_defect and (name := _name_in(images, sample.path)) in unlisted
    ]
    if normal:
        on_problem(
            DatasetError(
                f"normal images need no mask, {masks} holds {len(normal)}, such as "
                f"{normal[0]}; remove them, or correct the table"
            )
        )
    pictures = find_images(images, recursive=True)
    with_image = {_name_in(images, path) for path in pictures}
    without_image = [path for name, path in unlisted.items() if name not in with_image]
    if without_image:
        on_problem(
            DatasetError(
                f"each mask in {masks} needs its image in {images}, "
                f"{len(without_image)} have none: "
                f"{join_names(str(p.relative_to(masks)) for p in without_image)}; "
                "add the images or remove the masks"
            )
        )


def _name_in(folder: Path, path: Path) -> Path:
    is_inside = path.is_relative_to(folder)
    return (path.relative_to(folder) if is_inside else path).with_suffix("")


def _order(sample: Sample) -> tuple[bool, str, str]:
    return sample.is_defect, sample.defect_type, sample.path.as_posix()


def _sample(row: _Row, root: Path, where: str, on_problem: OnProblem) -> Sample:
    path = root / row["image"]
    mask = root / row["mask"] if row.get("mask") else None
    if not path.is_file():
        on_problem(
            DatasetError(f"an image was needed at {path} ({where}); there is none")
        )
    if mask is not None and not mask.exists():
        on_problem(
            DatasetError(f"a mask was needed at {mask} ({where}); there is none")
        )
    if mask is not None and row["defect_type"] == NORMAL:
        on_problem(
            DatasetError(
                f"normal images need no mask, {path} has {mask} ({where}); remove it, "
                "or name the defect type"
            )
        )
    return Sample(path, row["defect_type"], mask)


def _visa_rows(root: Path) -> list[_Row]:
    return _csv_rows(root / _VISA_TABLE, _VISA_COLUMNS)


def _csv_rows(path: Path, columns: tuple[str, ...]) -> list[_Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(_checked(reader, path, columns, first=2))
    except (OSError, UnicodeError, csv.Error) as error:
        raise DatasetError(
            f"a CSV file with the columns {', '.join(columns)} was needed, {path} "
            f"cannot be read ({error}); save it again as CSV in UTF-8"
        ) from error
    return rows


def _json_rows(path: Path) -> list[_Row]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"a JSON list of images was needed, {path} cannot be read ({error}); "
            "correct the file"
        ) from error
    if not isinstance(content, list) or not all(isinstance(r, dict) for r in content):
        raise DatasetError(
            f"a JSON list of objects with {', '.join(_LIST_COLUMNS)} was needed, "
            f"{path} holds something else; write [{{...}}, {{...}}]"
        )
    return list(_checked(content, path, _LIST_COLUMNS, first=1))


def _checked(
    rows: Any, path: Path, columns: tuple[str, ...], first: int
) -> Iterator[_Row]:
    """Give the rows, which must be filled with text; an empty table has none."""
    n_rows = 0
    for n_rows, row in enumerate(rows, start=1):
        for column in columns:
            value = row.get(column)
            # VisA's normal images have no mask.
            is_filled = isinstance(value, str) and (value or column == "mask")
            if not is_filled:
                raise DatasetError(
                    f"each image needs {', '.join(columns)} as text, {path} has "
                    f"{value!r} for {column} in {'line' if first > 1 else 'entry'} "
                    f"{n_rows + first - 1}; fill it in"
                )
        mask = row.get("mask")
        if not (mask is None or isinstance(mask, str)):
            raise DatasetError(
                f"a mask must be a path as text, {path} has {mask!r} in entry "
                f"{n_rows}; several masks of one image are put into one folder"
            )
        yield row
    if not n_rows:
        raise DatasetError(
            f"a list of images was needed, {path} holds none; name the columns "
            f"{', '.join(columns)} and give each image a line"
        )
