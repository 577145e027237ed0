"""Categories in folders: MVTec AD's layout, and folders that are not split yet.

    CATEGORY/train/good/          normal images
    CATEGORY/validation/good/     optional: normal images for the calibration
    CATEGORY/test/good/           normal images that training never sees
    CATEGORY/test/TYPE/           defective images, one folder for each defect type
    CATEGORY/ground_truth/TYPE/   masks: NAME_mask.png or NAME.png for NAME.jpg or, as
                                  in MVTec LOCO, a folder NAME with several
    CATEGORY/defects_config.json  MVTec LOCO: the saturation area of each mask value

VisA after conversion has one defect type, `bad`. MVTec AD 2 has `test_public` in place
of `test`, with `ground_truth` in it. A folder that is not split has

    CATEGORY/good/                normal images, a share of them for the test
    CATEGORY/TYPE/                defective images
    CATEGORY/ground_truth/TYPE/   masks, as above

`good` may also be called `ok` or `normal`, in any case, as in BTAD. Images in these
folders may lie in folders of their own, then their masks do as well.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from efficientad.datasets.samples import (
    NORMAL,
    Category,
    Sample,
    is_normal_name,
    published_collection,
)
from efficientad.datasets.splits import split_validation
from efficientad.errors import DatasetError
from efficientad.images.listing import (
    describe_contents,
    find_images,
    join_names,
    subfolders,
)

OnProblem: TypeAlias = Callable[[str], None]
"""Function called with each fault of a layout: it raises, or notes it and returns."""

MASKS: Final = "ground_truth"
DEFECTS_CONFIG: Final = "defects_config.json"

TESTS: Final = frozenset({"test", "test_public", "test_private", "test_private_mixed"})
"""Names of folders of test images; those of MVTec AD 2's private ones have no labels.
"""

_RESERVED: Final = frozenset({"train", "validation", MASKS}) | TESTS

# Normal images that are not split: this share is for the test, always the same ones.
_TEST_SHARE: Final = 0.2
_TEST_SEED: Final = 0

logger = logging.getLogger(__name__)


def is_split(folder: Path) -> bool:
    """Return whether a folder is laid out as a category of MVTec AD."""
    return normal_folder(folder / "train").is_dir() or test_folder(folder).is_dir()


def is_unsplit(folder: Path) -> bool:
    """Return whether a folder holds `good` and defect types, and nothing else."""
    names = {inner.name for inner in subfolders(folder)}
    return (
        folder.resolve().name not in _RESERVED
        and not names & (_RESERVED - {MASKS})
        and any(map(is_normal_name, names))
        and not find_images(folder)
        and bool(normal_images(normal_folder(folder)))
        and any(find_images(f, recursive=True) for f in _defect_folders(folder))
    )


def split_category(folder: Path, on_problem: OnProblem) -> Category:
    """Return a category in the layout of MVTec AD, MVTec LOCO or converted VisA."""
    name, config = folder.resolve().name, folder / DEFECTS_CONFIG
    test = tuple(_test_samples(folder, on_problem))
    is_loco = config.is_file()
    kinds = {sample.defect_type for sample in test if sample.is_defect}
    return Category(
        name=name,
        root=folder,
        train=_normal_samples(normal_folder(folder / "train")),
        validation=_normal_samples(normal_folder(folder / "validation")),
        test=test,
        collection="mvtec_loco" if is_loco else published_collection(name, kinds),
        defects_config=config if is_loco else None,
    )


def unsplit_category(folder: Path, on_problem: OnProblem) -> Category:
    """Return a category that is not split; a share of `good` is for the test."""
    _check_mask_folders(folder / MASKS, folder, on_problem)
    name = folder.resolve().name
    # The split depends on the names only, so that a copy elsewhere has the same one.
    images = normal_images(normal_folder(folder))
    train, test = split_validation(images, _TEST_SHARE, _TEST_SEED)
    logger.info(
        "%s is not split: of its %d normal images %d are for the training, %d for the "
        "test",
        *(name, len(images), len(train), len(test)),
    )
    defects = [
        sample
        for inner in _defect_folders(folder)
        for sample in _defect_samples(inner, folder / MASKS / inner.name, on_problem)
    ]
    return Category(
        name=name,
        root=folder,
        train=_as_normal(train),
        validation=(),
        test=(*_as_normal(test), *defects),
    )


def plain_category(folder: Path) -> Category:
    """Return a category of a folder that holds normal images and nothing else."""
    return Category(folder.resolve().name, folder, _normal_samples(folder), (), ())


def normal_folder(folder: Path) -> Path:
    """Return the folder of normal images in a folder; it may not exist.

    Raises:
        DatasetError: If there are several.
    """
    inner = subfolders(folder) if folder.is_dir() else []
    found = [path for path in inner if is_normal_name(path.name)]
    if len(found) > 1:
        raise DatasetError(
            f"one folder of normal images was needed, {folder} holds "
            f"{join_names(path.name for path in found)}; join them"
        )
    return found[0] if found else folder / NORMAL


def test_folder(category: Path) -> Path:
    """Return the folder of the labelled test images; it may not exist."""
    folders = [category / "test", category / "test_public"]
    return next((path for path in folders if path.is_dir()), folders[0])


def masks_folder(category: Path) -> Path:
    """Return the folder of the masks; it may not exist."""
    inner = test_folder(category) / MASKS
    return inner if inner.is_dir() else category / MASKS


def normal_images(folder: Path) -> list[Path]:
    """Return the images of a folder of normal images, in sorted order.

    A folder named `good` holds normal images at any depth. What lies in folders of
    another one may be something else.
    """
    return find_images(folder, recursive=is_normal_name(folder.resolve().name))


def _normal_samples(folder: Path) -> tuple[Sample, ...]:
    return _as_normal(normal_images(folder)) if folder.is_dir() else ()


def _as_normal(paths: Sequence[Path]) -> tuple[Sample, ...]:
    return tuple(Sample(path, NORMAL) for path in paths)


def _test_samples(category: Path, on_problem: OnProblem) -> Iterator[Sample]:
    test, all_masks = test_folder(category), masks_folder(category)
    if not test.is_dir():
        return
    if find_images(test):
        on_problem(
            f"test images were needed in one folder for each defect type, {test} holds "
            f"{describe_contents(test)}; move them to {test.name}/{NORMAL} or "
            f"{test.name}/DEFECT_TYPE"
        )
    _check_mask_folders(all_masks, test, on_problem)
    yield from _normal_samples(normal_folder(test))
    for folder in subfolders(test):
        if folder == all_masks:
            continue
        if not find_images(folder, recursive=True):
            on_problem(
                f"test images were needed in {folder}, it holds "
                f"{describe_contents(folder)}; put images there or remove the folder"
            )
        if not is_normal_name(folder.name):
            masks = all_masks / folder.name
            yield from _defect_samples(folder, masks, on_problem)


def _check_mask_folders(masks: Path, types: Path, on_problem: OnProblem) -> None:
    """Report masks of normal images, and of defect types without images."""
    for folder in subfolders(masks) if masks.is_dir() else ():
        files = find_images(folder, recursive=True)
        images = types / folder.name
        if files and is_normal_name(folder.name):
            on_problem(
                f"normal images need no mask, {folder} holds {len(files)}, such as "
                f"{files[0]}; remove them, or move the images to a defect type"
            )
        elif files and not (images.is_dir() and find_images(images, recursive=True)):
            on_problem(
                f"each mask needs its image, {files[0]} has none, for there are no "
                f"images in {images}; add the images or remove the masks"
            )


def _defect_samples(folder: Path, masks: Path, on_problem: OnProblem) -> list[Sample]:
    files = find_images(masks, recursive=True) if masks.is_dir() else []
    mask_of = {path.relative_to(masks).with_suffix(""): path for path in files}
    # A folder of several masks, unless there is a file.
    mask_of = {path.parent.relative_to(masks): path.parent for path in files} | mask_of
    samples = []
    for path in find_images(folder, recursive=True):
        name = path.relative_to(folder).with_suffix("")
        mask = mask_of.get(name.with_name(f"{name.name}_mask")) or mask_of.get(name)
        samples.append(Sample(path, folder.name, mask))
    missing = [sample.path for sample in samples if sample.mask_path is None]
    if missing and masks.is_dir():
        on_problem(
            f"each image in {folder} needs a mask in {masks}, {len(missing)} of "
            f"{len(samples)} have none: {join_names(path.name for path in missing)}; "
            f"name them {missing[0].stem}_mask.png or {missing[0].stem}.png and so on"
        )
    n_images = Counter(sample.mask_path for sample in samples if sample.mask_path)
    if shared := [mask for mask, n in n_images.items() if n > 1]:
        on_problem(
            f"each image in {folder} needs a mask of its own, {shared[0]} is that of "
            f"{n_images[shared[0]]}; give images of one name different names"
        )
    used = set(n_images)
    extra = [path for path in files if path not in used and path.parent not in used]
    if extra and samples:
        names = join_names(path.relative_to(masks).as_posix() for path in extra)
        on_problem(
            f"each mask in {masks} needs its image in {folder}, {len(extra)} have "
            f"none: {names}; add the images or remove the masks"
        )
    return samples


def _defect_folders(folder: Path) -> list[Path]:
    return [
        f for f in subfolders(folder) if f.name != MASKS and not is_normal_name(f.name)
    ]
