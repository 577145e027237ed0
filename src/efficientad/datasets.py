"""Folders of images as lists of samples.

A category is laid out as in MVTec AD, and likewise in VisA after conversion:

    CATEGORY/train/good/          normal images
    CATEGORY/validation/good/     optional: normal images for the calibration
    CATEGORY/test/good/           normal images, never seen
    CATEGORY/test/TYPE/           defective images, one folder for each defect type
    CATEGORY/ground_truth/TYPE/   masks: NAME_mask.png or NAME.png for NAME.jpg or, as
                                  in MVTec LOCO, a folder NAME with several

What training may see is found by `normal_image_paths` alone, which refuses all that
lies in the test folder of a category.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from efficientad.errors import ConfigError, DatasetError
from efficientad.images import Mask, find_images, read_mask

NORMAL: Final = "good"
"""The defect type of images without a defect, and the name of their folder."""

MIN_NORMAL_IMAGES: Final = 10
"""To train with, the held-out ones included."""

# Of JPEG's and WebP's masks nobody knows which of the values are noise.
_MASK_SUFFIXES: Final = (".png", ".bmp", ".tif", ".tiff")

_N_NAMES_SHOWN: Final = 5

_Item = TypeVar("_Item", Path, int)
_Name = TypeVar("_Name", Path, str)


@dataclass(frozen=True, slots=True)
class Sample:
    """An image and what is known about it."""

    path: Path
    defect_type: str
    """Name of its folder; `good` where there is no defect."""

    mask_path: Path | None = None
    """A file, or a folder of several masks. None: normal, or nobody annotated it."""

    @property
    def is_defect(self) -> bool:
        """Whether the image shows a defect."""
        return self.defect_type != NORMAL


@dataclass(frozen=True, slots=True)
class Category:
    """One product and its images."""

    name: str
    root: Path
    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]
    """Normal ones first, then by defect type."""


def open_category(folder: Path, *, needs_test: bool = True) -> Category:
    """List the images of a category; none is read.

    Args:
        folder: Holds `train/good`, or at least `test`.
        needs_test: Refuse a category without test images.

    Raises:
        DatasetError: If the folder is no category, if images lie where none belong, or
            if some images of a defect type have a mask and others have none.
    """
    _require_folder(folder)
    test = folder / "test"
    if not (_normal_folder(folder, "train").is_dir() or test.is_dir()):
        raise DatasetError(
            f"a category with the folders train/{NORMAL} and test was needed, {folder} "
            f"holds {_contents(folder)}; {_advice(folder)}"
        )
    test_samples = tuple(_test_samples(folder)) if test.is_dir() else ()
    if needs_test and not test_samples:
        raise DatasetError(
            f"a category with test images was needed, {test} holds none; put images in "
            f"test/{NORMAL} and test/DEFECT_TYPE"
        )
    return Category(
        name=folder.resolve().name,
        root=folder,
        train=_normal_samples(_normal_folder(folder, "train")),
        validation=_normal_samples(_normal_folder(folder, "validation")),
        test=test_samples,
    )


def normal_image_paths(
    folder: Path, *, min_images: int = MIN_NORMAL_IMAGES
) -> tuple[list[Path], list[Path]]:
    """List the normal images that a training may see.

    Args:
        folder: A category, or a folder of normal images; folders below it are not
            searched.
        min_images: So many training images there must be at least.

    Returns:
        Training images, and those for the calibration, which only a category with the
        folder `validation/good` has.

    Raises:
        DatasetError: If there are too few images, if they are elsewhere, or if they are
            test images.
    """
    _require_folder(folder)
    _refuse_test_images(folder)
    train = _normal_folder(folder, "train")
    if not train.is_dir():
        return _checked_images(folder, min_images), []
    validation = _normal_folder(folder, "validation")
    held_out = find_images(validation) if validation.is_dir() else []
    return _checked_images(train, min_images), held_out


def read_defect_mask(sample: Sample, height: int, width: int) -> Mask:
    """Read which pixels of an image are annotated as defective.

    Several masks of one image are joined. All may be false: some defects are known, but
    nowhere in particular.

    Args:
        sample: A normal one has no defective pixel.
        height: Of its image in pixels.
        width: Of its image in pixels.

    Raises:
        DatasetError: If a defective image has no mask, or one of another size.
        ImageError: If a mask cannot be read.
    """
    defect_mask = np.zeros((height, width), np.bool_)
    if not sample.is_defect:
        return defect_mask
    if sample.mask_path is None:
        raise DatasetError(
            f"a mask was needed for {sample.path}, there is none; put "
            f"{sample.path.stem}_mask.png into ground_truth/{sample.defect_type}"
        )
    for path in _mask_files(sample.mask_path):
        mask = read_mask(path)
        if mask.shape != defect_mask.shape:
            raise DatasetError(
                f"a mask must have its image's size, {path} has {mask.shape[1]} x "
                f"{mask.shape[0]} pixels and {sample.path} {width} x {height}; "
                "export it again at the size of the image"
            )
        defect_mask |= mask
    return defect_mask


def split_validation(
    items: Sequence[_Item], share: float, seed: int
) -> tuple[list[_Item], list[_Item]]:
    """Hold out a share of the training images for the calibration.

    Which ones follows from the seed and their number in sorted order: neither from the
    machine, nor from where the folder is or how it was listed.

    Args:
        items: Paths or numbers, at least two, in any order.
        share: To hold out, in (0, 1). Of four or more images at least two are, since
            one alone would decide the threshold.
        seed: Another one gives another split.

    Returns:
        Those for training and those for validation, both sorted, neither empty.

    Raises:
        ConfigError: If `share` is out of range.
        DatasetError: If there are fewer than two items, or one is there twice.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the validation share must be in (0, 1), got {share}")
    n = len(items)
    if n < 2:  # noqa: PLR2004 - one for each side
        raise DatasetError(
            f"at least 2 images were needed to hold some out, got {n}; give more"
        )
    ordered = sorted(items)
    twice = [item for item, following in pairwise(ordered) if item == following]
    if twice:
        raise DatasetError(
            f"each image was needed once, {twice[0]} is listed twice; list it once"
        )
    n_held_out = min(max(round(share * n), min(2, n // 2)), n - 1)
    held_out = set(sorted(range(n), key=lambda place: _lot(seed, place))[:n_held_out])
    return (
        [item for place, item in enumerate(ordered) if place not in held_out],
        [item for place, item in enumerate(ordered) if place in held_out],
    )


def shared_images(
    hashes: Mapping[_Name, str], other_hashes: Mapping[_Name, str]
) -> list[tuple[_Name, _Name]]:
    """Find the pictures that two sets of images have in common.

    Args:
        hashes: Of each image's decoded pixels, by `image_hash`.
        other_hashes: Likewise.

    Returns:
        All pairs of equal pictures, sorted; empty where the sets are disjoint.
    """
    twins: dict[str, list[_Name]] = {}
    for path, digest in other_hashes.items():
        twins.setdefault(digest, []).append(path)
    return sorted(
        (path, twin)
        for path, digest in hashes.items()
        for twin in twins.get(digest, ())
    )


def require_disjoint(
    held_out: Mapping[_Name, str], trained: Mapping[_Name, str]
) -> None:
    """Refuse held-out images that were trained on: on those a detector is too good.

    Args:
        held_out: Hash of each image, by `image_hash`.
        trained: Likewise.

    Raises:
        DatasetError: If they share some.
    """
    shared = shared_images(held_out, trained)
    if shared:
        name, twin = shared[0]
        raise DatasetError(
            f"calibration needs images that were not trained on, {len(shared)} of them "
            f"were: {name} is the same picture as {twin}; take others"
        )


def _lot(seed: int, place: int) -> bytes:
    # Not a random generator: its stream may change from version to version.
    return hashlib.sha256(f"{seed} {place}".encode()).digest()


def _checked_images(folder: Path, min_images: int) -> list[Path]:
    paths = find_images(folder)
    if not paths:
        raise DatasetError(
            f"a folder of normal images was needed, {folder} holds "
            f"{_contents(folder)}; {_advice(folder)}"
        )
    if (folder / "test").is_dir():
        raise DatasetError(
            f"a folder with test images needs its normal images in train/{NORMAL}, "
            f"{folder} holds {_contents(folder)}; move them there"
        )
    if len(paths) < min_images:
        raise DatasetError(
            f"at least {min_images} normal images were needed, {folder} holds "
            f"{_contents(folder)}; record more good parts"
        )
    return paths


def _normal_folder(category: Path, part: str) -> Path:
    return category / part / NORMAL


def _normal_samples(folder: Path) -> tuple[Sample, ...]:
    if not folder.is_dir():
        return ()
    return tuple(Sample(path, NORMAL) for path in find_images(folder))


def _test_samples(category: Path) -> Iterator[Sample]:
    test = category / "test"
    misplaced = find_images(test)
    if misplaced:
        raise DatasetError(
            f"test images were needed in one folder for each defect type, {test} holds "
            f"{_contents(test)}; move them to test/{NORMAL} or test/DEFECT_TYPE"
        )
    # Normal ones first.
    for folder in sorted(_subfolders(test), key=lambda f: (f.name != NORMAL, f.name)):
        paths = find_images(folder)
        if not paths:
            raise DatasetError(
                f"test images were needed in {folder}, it holds {_contents(folder)}; "
                "put images there or remove the folder"
            )
        if folder.name == NORMAL:
            yield from (Sample(path, NORMAL) for path in paths)
        else:
            yield from _defect_samples(paths, category / "ground_truth" / folder.name)


def _defect_samples(paths: Sequence[Path], masks: Path) -> list[Sample]:
    mask_of = _masks_by_name(masks)
    samples = []
    for path in paths:
        mask = mask_of.get(f"{path.stem}_mask") or mask_of.get(path.stem)
        samples.append(Sample(path, masks.name, mask))
    missing = [sample.path for sample in samples if sample.mask_path is None]
    if missing and masks.is_dir():
        raise DatasetError(
            f"each image in {missing[0].parent} needs a mask in {masks}, "
            f"{len(missing)} of {len(samples)} have none: "
            f"{_some(path.name for path in missing)}; name them "
            f"{missing[0].stem}_mask.png or {missing[0].stem}.png and so on"
        )
    return samples


def _masks_by_name(masks: Path) -> dict[str, Path]:
    if not masks.is_dir():
        return {}
    folders = {path.name: path for path in _subfolders(masks)}
    return folders | {path.stem: path for path in find_images(masks) if _is_mask(path)}


def _is_mask(path: Path) -> bool:
    return path.suffix.lower() in _MASK_SUFFIXES


def _mask_files(mask_path: Path) -> list[Path]:
    if not mask_path.is_dir():
        return [mask_path]
    files = [path for path in find_images(mask_path) if _is_mask(path)]
    if not files:
        raise DatasetError(
            f"masks were needed in {mask_path}, it holds {_contents(mask_path)}; put "
            "at least one PNG there"
        )
    return files


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
        train = _normal_folder(inner.parent, "train")
        if inner.name in {"test", "ground_truth"} and train.is_dir():
            raise DatasetError(
                f"a folder of normal images was needed, {folder} belongs to the test "
                f"images of {inner.parent.name}; did you mean {train}?"
            )


def _subfolders(folder: Path) -> list[Path]:
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in visible if path.is_dir())


def _contents(folder: Path) -> str:
    """Say what a folder holds, for a message."""
    n_images = len(find_images(folder))
    text = f"{n_images or 'no'} image{'' if n_images == 1 else 's'}"
    folders = _subfolders(folder)
    if folders:
        inner = _some(f"{path.name} ({len(find_images(path))})" for path in folders)
        text += f" and the folders {inner} (images in them)"
    return text


def _advice(folder: Path) -> str:
    """Say what may have been meant by a folder that does not fit."""
    for candidate in _candidates(folder):
        if candidate.is_dir() and find_images(candidate):
            return f"did you mean {candidate}?"
    return "give the folder that directly holds the normal images, and only them"


def _candidates(folder: Path) -> Iterator[Path]:
    yield folder / NORMAL
    yield folder / "train"
    for inner in _subfolders(folder):
        yield _normal_folder(inner, "train")
        yield inner / NORMAL


def _some(names: Iterable[str]) -> str:
    """Join the first few names."""
    listed = list(names)
    text = ", ".join(listed[:_N_NAMES_SHOWN])
    n_more = len(listed) - _N_NAMES_SHOWN
    return f"{text} and {n_more} more" if n_more > 0 else text
