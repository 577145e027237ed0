"""Categories in folders: MVTec AD's layout, and folders that are not split yet.

    CATEGORY/train/good/          normal images
    CATEGORY/validation/good/     optional: normal images for the calibration
    CATEGORY/test/good/           normal images that training never sees
    CATEGORY/test/TYPE/           defective images, one folder for each defect type
    CATEGORY/ground_truth/TYPE/   masks: NAME_mask.png or NAME.png for NAME.jpg or, as
                                  in MVTec LOCO, a folder NAME with several
    CATEGORY/defects_config.json  MVTec LOCO: the saturation area of each mask value

VisA after conversion has one defect type, `bad`. A folder that is not split has

    CATEGORY/good/                normal images, a share of them for the test
    CATEGORY/TYPE/                defective images
    CATEGORY/ground_truth/TYPE/   masks, as above
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from efficientad.datasets.annotations import is_mask
from efficientad.datasets.published import published_collection
from efficientad.datasets.samples import NORMAL, Category, Sample
from efficientad.datasets.splits import split_validation
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

_RESERVED: Final = frozenset({"train", "validation", "test", MASKS})

# Normal images that are not split: this share is for the test, always the same ones.
_TEST_SHARE: Final = 0.2
_TEST_SEED: Final = 0


def is_split(folder: Path) -> bool:
    """Return whether a folder is laid out as a category of MVTec AD."""
    return normal_folder(folder, "train").is_dir() or (folder / "test").is_dir()


def is_unsplit(folder: Path) -> bool:
    """Return whether a folder holds `good` and defect types, and nothing else."""
    names = {inner.name for inner in subfolders(folder)}
    return (
        folder.resolve().name not in _RESERVED
        and not names & (_RESERVED - {MASKS})
        and NORMAL in names
        and not find_images(folder)
        and bool(find_images(folder / NORMAL))
        and any(find_images(inner) for inner in _defect_folders(folder))
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
        train=_normal_samples(normal_folder(folder, "train")),
        validation=_normal_samples(normal_folder(folder, "validation")),
        test=test,
        collection="mvtec_loco" if is_loco else published_collection(name, kinds),
        defects_config=config if is_loco else None,
    )


def unsplit_category(folder: Path, on_problem: OnProblem) -> Category:
    """Return a category that is not split; a share of `good` is for the test."""
    _check_mask_folders(folder / MASKS, folder, on_problem)
    # The split depends on the names only, so that a copy elsewhere has the same one.
    images = find_images(folder / NORMAL)
    train, test = split_validation(images, _TEST_SHARE, _TEST_SEED)
    defects = [
        sample
        for inner in _defect_folders(folder)
        for sample in _defect_samples(inner, folder / MASKS / inner.name, on_problem)
    ]
    return Category(
        name=folder.resolve().name,
        root=folder,
        train=_as_normal(train),
        validation=(),
        test=(*_as_normal(test), *defects),
    )


def plain_category(folder: Path) -> Category:
    """Return a category of a folder that holds normal images and nothing else."""
    return Category(folder.resolve().name, folder, _normal_samples(folder), (), ())


def normal_folder(category: Path, split: str) -> Path:
    """Return the folder of the normal images of a split."""
    return category / split / NORMAL


def _normal_samples(folder: Path) -> tuple[Sample, ...]:
    return _as_normal(find_images(folder)) if folder.is_dir() else ()


def _as_normal(paths: Sequence[Path]) -> tuple[Sample, ...]:
    return tuple(Sample(path, NORMAL) for path in paths)


def _test_samples(category: Path, on_problem: OnProblem) -> Iterator[Sample]:
    test = category / "test"
    if not test.is_dir():
        return
    if find_images(test):
        on_problem(
            f"test images were needed in one folder for each defect type, {test} holds "
            f"{describe_contents(test)}; move them to test/{NORMAL} or test/DEFECT_TYPE"
        )
    _check_mask_folders(category / MASKS, test, on_problem)
    yield from _normal_samples(normal_folder(category, "test"))
    for folder in subfolders(test):
        if not find_images(folder):
            on_problem(
                f"test images were needed in {folder}, it holds "
                f"{describe_contents(folder)}; put images there or remove the folder"
            )
        if folder.name != NORMAL:
            masks = category / MASKS / folder.name
            yield from _defect_samples(folder, masks, on_problem)


def _check_mask_folders(masks: Path, types: Path, on_problem: OnProblem) -> None:
    """Report masks of normal images, and of defect types without images."""
    for folder in subfolders(masks) if masks.is_dir() else ():
        files = [path for path in find_images(folder, recursive=True) if is_mask(path)]
        images = types / folder.name
        if files and folder.name == NORMAL:
            on_problem(
                f"normal images need no mask, {folder} holds {len(files)}, such as "
                f"{files[0]}; remove them, or move the images to a defect type"
            )
        elif files and not (images.is_dir() and find_images(images)):
            on_problem(
                f"each mask needs its image, {files[0]} has none, for there are no "
                f"images in {images}; add the images or remove the masks"
            )


def _defect_samples(folder: Path, masks: Path, on_problem: OnProblem) -> list[Sample]:
    mask_of: dict[str, Path] = {}
    if masks.is_dir():
        mask_of = {path.name: path for path in subfolders(masks)}
        mask_of |= {path.stem: path for path in find_images(masks) if is_mask(path)}
    samples = []
    for path in find_images(folder):
        mask = mask_of.get(f"{path.stem}_mask") or mask_of.get(path.stem)
        samples.append(Sample(path, folder.name, mask))
    missing = [sample.path for sample in samples if sample.mask_path is None]
    if missing and masks.is_dir():
        on_problem(
            f"each image in {folder} needs a mask in {masks}, {len(missing)} of "
            f"{len(samples)} have none: {join_names(path.name for path in missing)}; "
            f"name them {missing[0].stem}_mask.png or {missing[0].stem}.png and so on"
        )
    extra = set(mask_of.values()) - {sample.mask_path for sample in samples}
    if extra and samples:
        on_problem(
            f"each mask in {masks} needs its image in {folder}, {len(extra)} have "
            f"none: {join_names(sorted(path.name for path in extra))}; add the images "
            "or remove the masks"
        )
    return samples


def _defect_folders(folder: Path) -> list[Path]:
    return [f for f in subfolders(folder) if f.name not in {NORMAL, MASKS}]
