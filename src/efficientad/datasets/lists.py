"""Categories in lists: a CSV file with a heading, a JSON file, or a manifest.

Semicolons or tabs may stand in place of commas, as spreadsheets write them.

    image,split,defect_type,mask
    shots/0001.png,train,good,
    shots/0417.png,test,scratch,masks/0417.png

Paths are relative to the list's folder. `split` is train, validation or test.
`defect_type` is `good`, `ok` or `normal` without a defect. `mask` is a file or a folder
of several, and may be missing. `manifests` tells of manifests.
"""

import csv
import json
import reprlib
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Final, TypeAlias, get_args

from efficientad.datasets import manifests
from efficientad.datasets.folders import OnProblem
from efficientad.datasets.samples import (
    BLACK,
    NORMAL,
    Category,
    Sample,
    Split,
    is_normal_name,
)
from efficientad.errors import DatasetError
from efficientad.images.listing import fault_of, join_names

_SUFFIXES: Final = manifests.SUFFIXES | {".csv", ".json"}
_COLUMNS: Final = ("image", "split", "defect_type")
_DELIMITERS: Final = ",;\t"

Rows: TypeAlias = list[tuple[str, dict[str, Any]]]
"""The place of each row in messages, such as `line 3`, and its values by column."""


def is_list(path: Path) -> bool:
    """Return whether a path is a list of images, known by its suffix."""
    return path.suffix.lower() in _SUFFIXES and path.is_file()


def list_category(path: Path, on_problem: OnProblem) -> Category:
    """Return the category of a list or a manifest, or raise `DatasetError`."""
    suffix = path.suffix.lower()
    if suffix in manifests.SUFFIXES:
        rows = manifests.manifest_rows(path)
    else:
        rows = _json_rows(path) if suffix == ".json" else csv_rows(path)
    splits = splits_of(rows, path, path.parent, on_problem)
    return Category(path.stem, path.parent, *splits)


def splits_of(
    rows: Rows, table: Path, folder: Path, on_problem: OnProblem
) -> tuple[tuple[Sample, ...], tuple[Sample, ...], tuple[Sample, ...]]:
    """Return the samples for training, validation and test.

    Paths in the table are relative to the folder. Missing files and wrong masks are
    problems.

    Raises:
        DatasetError: If a row has an unknown split, puts a defect into the training or
            validation, or repeats an image.
    """
    splits: dict[str, list[Sample]] = {name: [] for name in get_args(Split)}
    place_of: dict[Path, str] = {}
    for place, row in rows:
        split, where = row["split"], f"{table}, {place}"
        sample = _sample(row, where, folder, on_problem)
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
        first = place_of.setdefault(sample.path, place)
        if first != place:
            raise DatasetError(
                f"each image may be listed once, {where}, has {sample.path} again "
                f"(first in {first}); remove one of them"
            )
        splits[split].append(sample)
    _check_all_masked(splits["test"], table, on_problem)
    for samples in splits.values():
        samples.sort(key=lambda s: (s.is_defect, s.defect_type, s.path.as_posix()))
    train, validation, test = map(tuple, splits.values())
    return train, validation, test


def csv_rows(path: Path, columns: tuple[str, ...] = _COLUMNS) -> Rows:
    """Return the rows of a CSV file with a heading, each with its place.

    Raises:
        DatasetError: If the file cannot be read, is empty, or lacks a column or value.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        delimiter = max(_DELIMITERS, key=text.partition("\n")[0].count)
        file = StringIO(text, newline="")
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        heading = [name.strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = heading
        placed = [(f"line {reader.line_num}", row) for row in reader]
    except (OSError, UnicodeError, csv.Error) as error:
        raise DatasetError(
            f"a CSV file with the columns {', '.join(columns)} was needed, {path} "
            f"cannot be read ({error}); save it again as CSV in UTF-8"
        ) from error
    if heading and not set(columns) <= set(heading):
        raise DatasetError(
            f"the columns {', '.join(columns)} were needed, the first line of {path} "
            f"names {join_names(heading)}; name them there"
        )
    return _filled(placed, path, columns)


def _json_rows(path: Path) -> Rows:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"a JSON list of images was needed, {path} cannot be read ({error}); "
            "correct the file"
        ) from error
    if not isinstance(content, list) or not all(isinstance(r, dict) for r in content):
        raise DatasetError(
            f"a JSON list of objects with {', '.join(_COLUMNS)} was needed, {path} "
            "holds something else; write [{...}, {...}]"
        )
    placed = [(f"entry {number}", row) for number, row in enumerate(content, start=1)]
    return _filled(placed, path, _COLUMNS)


def _filled(rows: Rows, path: Path, columns: tuple[str, ...]) -> Rows:
    if not rows:
        raise DatasetError(
            f"a list of images was needed, {path} holds none; name the columns "
            f"{', '.join(columns)} and give each image a line"
        )
    for place, row in rows:
        for column in columns:
            value = row.get(column)
            if not isinstance(value, str) or not (value or column == "mask"):
                raise DatasetError(
                    f"each image needs {', '.join(columns)} as text, {path} has "
                    f"{reprlib.repr(value)} for {column} in {place}; fill it in"
                )
        mask = row.get("mask")
        if not isinstance(mask, str | None):
            raise DatasetError(
                f"a mask must be a path as text, {path} has {reprlib.repr(mask)} in "
                f"{place}; put several masks of one image into one folder"
            )
    # Another column, such as one of notes, means nothing here.
    known = (*columns, "mask")
    return [(place, {name: row.get(name) for name in known}) for place, row in rows]


def _sample(
    row: Mapping[str, Any], where: str, folder: Path, on_problem: OnProblem
) -> Sample:
    path, defect_type = folder / row["image"], row["defect_type"].strip()
    mask = folder / row["mask"] if row.get("mask") else None
    if is_normal_name(defect_type):
        defect_type = NORMAL
    if fault := fault_of(path, is_file=True):
        on_problem(f"an image was needed at {path} ({where}); {fault}")
    if mask is not None and (fault := fault_of(mask)):
        on_problem(f"a mask was needed at {mask} ({where}); {fault}")
    if mask is not None and defect_type == NORMAL:
        on_problem(
            f"normal images need no mask, {path} has {mask} ({where}); remove it, or "
            "name the defect type"
        )
    return Sample(path, defect_type, mask, row.get("background") or BLACK)


def _check_all_masked(
    test: Sequence[Sample], table: Path, on_problem: OnProblem
) -> None:
    """Report images without a mask where others of their defect type have one."""
    for kind in dict.fromkeys(s.defect_type for s in test if s.is_defect):
        samples = [sample for sample in test if sample.defect_type == kind]
        missing = [sample.path.name for sample in samples if sample.mask_path is None]
        if 0 < len(missing) < len(samples):
            on_problem(
                f"each image of {kind} needs a mask, {len(missing)} of {len(samples)} "
                f"have none in {table}: {join_names(missing)}; fill them in, or leave "
                "out those of the others"
            )
