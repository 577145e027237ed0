"""Manifests of Amazon Lookout for Vision: one image a line, as a JSON object.

    {"source-ref": "s3://bucket/parts/1.png", "anomaly-label": 1,
     "anomaly-label-metadata": {"class-name": "anomaly"},
     "anomaly-mask-ref": "s3://bucket/masks/1.png",
     "anomaly-mask-ref-metadata": {"internal-color-map": {
        "0": {"class-name": "BACKGROUND", "hex-color": "#ffffff"},
        "1": {"class-name": "scratch", "hex-color": "#2ca02c"}}}}

Paths are relative to the manifest's folder, and so are keys of a bucket. Normal images
are for the training and anomalous ones for the test. Normal test images are those of
`test.manifest` beside `train.manifest`, or else every fifth normal one.
"""

import json
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from efficientad.datasets.samples import NORMAL
from efficientad.errors import DatasetError

SUFFIXES: Final = frozenset({".jsonl", ".manifest"})
_TRAIN, _TEST = "train.manifest", "test.manifest"
_TEST_EVERY: Final = 5
_BACKGROUND: Final = "background"


def manifest_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the rows of a manifest as those of a list, each with its place.

    Raises:
        DatasetError: If a line cannot be read, or has no image or label.
    """
    rows = [(f"line {n}", row) for n, row in _rows(path)]
    test = path.with_name(_TEST)
    if path.name == _TRAIN and test.is_file():
        rows += [
            (f"line {n} of {_TEST}", row | {"split": "test"}) for n, row in _rows(test)
        ]
        return rows
    normal = [row for _, row in rows if row["split"] == "train"]
    for row in normal[_TEST_EVERY - 1 :: _TEST_EVERY]:
        row["split"] = "test"
    return rows


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"a manifest in UTF-8 was needed, {path} cannot be read ({error}); copy it "
            "again"
        ) from error
    return [
        (n, _row(line, f"{path}, line {n}"))
        for n, line in enumerate(lines, 1)
        if line.strip()
    ]


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"each line of a manifest needs a JSON object, {where}, cannot be read "
            f"({error}); correct it"
        ) from error
    if not isinstance(entry, dict):
        entry = {}
    image, label = entry.get("source-ref"), entry.get("anomaly-label")
    is_label = isinstance(label, int) and label in {0, 1}
    if not isinstance(image, str) or not is_label:
        raise DatasetError(
            "each line of a manifest needs a source-ref and an anomaly-label of 0 or "
            f"1, {where}, has {reprlib.repr(image)} and {reprlib.repr(label)}; correct "
            "it, or remove the line"
        )
    row = {"image": _local(image), "split": "train", "defect_type": NORMAL}
    if label == 1:
        row |= {"split": "test"} | _defect(entry, where)
    return row


def _defect(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return type and mask of a defect; several types in one mask are `anomaly`."""
    mask = entry.get("anomaly-mask-ref")
    if mask is None:
        return {"defect_type": "anomaly"}
    try:
        classes = entry["anomaly-mask-ref-metadata"]["internal-color-map"].values()
        color_of = {each["class-name"].lower(): each["hex-color"] for each in classes}
        red, green, blue = bytes.fromhex(color_of.pop(_BACKGROUND).removeprefix("#"))
        path = _local(mask)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            "a mask needs anomaly-mask-ref-metadata with the color of BACKGROUND, "
            f"{where}, has none ({error}); copy the line again, or remove the mask"
        ) from error
    (kind,) = color_of if len(color_of) == 1 else ("anomaly",)
    return {"defect_type": kind, "mask": path, "background": (red, green, blue)}


def _local(address: str) -> str:
    """Return an address in a bucket as a path below the manifest's folder."""
    return re.sub("^s3://[^/]+/", "", address)
