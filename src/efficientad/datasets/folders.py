"""Categories in folders: MVTec AD and what is laid out like it, and plain folders.

    CATEGORY/train/good/          normal images
    CATEGORY/validation/good/     optional: normal images for the calibration
    CATEGORY/test/good/           normal images, never seen
    CATEGORY/test/TYPE/           defective images, one folder for each defect type
    CATEGORY/ground_truth/TYPE/   masks: NAME_mask.png or NAME.png for NAME.jpg or, as
                                  in MVTec LOCO, a folder NAME with several
    CATEGORY/defects_config.json  MVTec LOCO: what the values in the masks mean

VisA after conversion has one defect type, `bad`. Where nothing is split yet,

    CATEGORY/good/                normal images, some of them are kept for the test
    CATEGORY/TYPE/                defective images
    CATEGORY/ground_truth/TYPE/   masks, as above
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from efficientad.datasets.annotations import is_mask
from efficientad.datasets.samples import NORMAL, Category, Collection, Sample
from efficientad.datasets.splits import split_validation
from efficientad.errors import DatasetError
from efficientad.images.listing import (
    describe_contents,
    find_images,
    join_names,
    subfolders,
)

OnProblem: TypeAlias = Callable[[DatasetError], None]
"""What to do about something that is wrong: raise it, or note it and go on."""

MASKS: Final = "ground_truth"
DEFECTS_CONFIG: Final = "defects_config.json"

MVTEC_AD: Final = {
    name: frozenset(kinds.split())
    for name, kinds in {
        "bottle": "broken_large broken_small contamination",
        "cable": (
            "bent_wire cable_swap combined cut_inner_insulation cut_outer_insulation "
            "missing_cable missing_wire poke_insulation"
        ),
        "capsule": "crack faulty_imprint poke scratch squeeze",
        "carpet": "color cut hole metal_contamination thread",
        "grid": "bent broken glue metal_contamination thread",
        "hazelnut": "crack cut hole print",
        "leather": "color cut fold glue poke",
        "metal_nut": "bent color flip scratch",
        "pill": "color combined contamination crack faulty_imprint pill_type scratch",
        "screw": "manipulated_front scratch_head scratch_neck thread_side thread_top",
        "tile": "crack glue_strip gray_stroke oil rough",
        "toothbrush": "defective",
        "transistor": "bent_lead cut_lead damaged_case misplaced",
        "wood": "color combined hole liquid scratch",
        "zipper": (
            "broken_teeth combined fabric_border fabric_interior rough split_teeth "
            "squeezed_teeth"
        ),
    }.items()
}
"""The scenarios of MVTec AD, each with its defect types."""

MVTEC_LOCO_DEFECTS: Final = ("logical_anomalies", "structural_anomalies")
"""The defect types of each scenario of MVTec LOCO."""

VISA: Final = frozenset(
    (
        *("candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1"),
        *("macaroni2", "pcb1", "pcb2", "pcb3", "pcb4", "pipe_fryum"),
    )
)
"""The scenarios of VisA."""

_VISA_DEFECTS: Final = frozenset({"bad"})
_RESERVED: Final = frozenset({"train", "validation", "test", MASKS})

# Of normal images that nobody has split, for the test; always the same ones.
_TEST_SHARE: Final = 0.2
_TEST_SEED: Final = 0


def is_split(folder: Path) -> bool:
    """Tell whether a folder is laid out as a category of MVTec AD."""
    return normal_folder(folder, "train").is_dir() or (folder / "test").is_dir()


def is_unsplit(folder: Path) -> bool:
    """Tell whether a folder holds `good` and defect types, and nothing else."""
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
    """List a category as MVTec AD, MVTec LOCO and converted VisA have it."""
    test = folder / "test"
    test_samples = tuple(_test_samples(folder, on_problem)) if test.is_dir() else ()
    config = folder / DEFECTS_CONFIG
    has_config = config.is_file()
    return Category(
        name=folder.resolve().name,
        root=folder,
        train=_normal_samples(normal_folder(folder, "train")),
        validation=_normal_samples(normal_folder(folder, "validation")),
        test=test_samples,
        collection="mvtec_loco" if has_config else _collection(folder, test_samples),
        defects_config=config if has_config else None,
    )


def unsplit_category(folder: Path, on_problem: OnProblem) -> Category:
    """List a folder with `good` and defect types; a share of `good` is for the test."""
    _check_mask_folders(folder / MASKS, folder, on_problem)
    train, test = unsplit_normal_images(folder)
    defects = [
        sample
        for inner in _defect_folders(folder)
        if (paths := find_images(inner))
        for sample in _defect_samples(paths, folder / MASKS / inner.name, on_problem)
    ]
    return Category(
        name=folder.resolve().name,
        root=folder,
        train=tuple(Sample(path, NORMAL) for path in train),
        validation=(),
        test=(*(Sample(path, NORMAL) for path in test), *defects),
    )


def unsplit_normal_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Give the normal images for training, and those for the test."""
    images = find_images(folder / NORMAL)
    # By name only: the same in a copy elsewhere.
    return split_validation(images, _TEST_SHARE, _TEST_SEED)


def plain_category(folder: Path) -> Category:
    """List a folder that holds normal images and nothing else."""
    images = tuple(Sample(path, NORMAL) for path in find_images(folder))
    return Category(folder.resolve().name, folder, images, (), ())


def normal_folder(category: Path, part: str) -> Path:
    """Give the folder of the normal images of a split."""
    return category / part / NORMAL


def _collection(folder: Path, test: Sequence[Sample]) -> Collection:
    """Tell the published collection by the names of scenario and defect types.

    A product of one's own may well be called screw.
    """
    name = folder.resolve().name
    kinds = {sample.defect_type for sample in test if sample.is_defect}
    if name in VISA and kinds <= _VISA_DEFECTS:
        return "visa"
    return "mvtec_ad" if name in MVTEC_AD and kinds <= MVTEC_AD[name] else "plain"


def _normal_samples(folder: Path) -> tuple[Sample, ...]:
    if not folder.is_dir():
        return ()
    return tuple(Sample(path, NORMAL) for path in find_images(folder))


def _test_samples(category: Path, on_problem: OnProblem) -> Iterator[Sample]:
    test = category / "test"
    if find_images(test):
        on_problem(
            DatasetError(
                f"test images were needed in one folder for each defect type, {test} "
                f"holds {describe_contents(test)}; move them to test/{NORMAL} or "
                "test/DEFECT_TYPE"
            )
        )
    _check_mask_folders(category / MASKS, test, on_problem)
    # Normal ones first.
    for folder in sorted(subfolders(test), key=lambda f: (f.name != NORMAL, f.name)):
        paths = find_images(folder)
        if not paths:
            on_problem(
                DatasetError(
                    f"test images were needed in {folder}, it holds "
                    f"{describe_contents(folder)}; put images there or remove "
                    "the folder"
                )
            )
        if folder.name == NORMAL:
            yield from (Sample(path, NORMAL) for path in paths)
        else:
            masks = category / MASKS / folder.name
            yield from _defect_samples(paths, masks, on_problem)


def _check_mask_folders(masks: Path, types: Path, on_problem: OnProblem) -> None:
    """Find masks of normal images, and of defect types without images.

    Args:
        masks: Folder of the masks, one folder for each defect type.
        types: Folder of the defect types.
        on_problem: Is called with each.
    """
    for folder in subfolders(masks) if masks.is_dir() else ():
        files = [path for path in find_images(folder, recursive=True) if is_mask(path)]
        if files and folder.name == NORMAL:
            on_problem(
                DatasetError(
                    f"normal images need no mask, {folder} holds {len(files)}, such as "
                    f"{files[0]}; remove them, or move the images to a defect type"
                )
            )
        elif files and not _holds_images(types / folder.name):
            on_problem(
                DatasetError(
                    f"each mask needs its image, {files[0]} has none, for there are no "
                    f"images in {types / folder.name}; add the images or remove the "
                    "masks"
                )
            )


def _holds_images(folder: Path) -> bool:
    return folder.is_dir() and bool(find_images(folder))


def _defect_samples(
    paths: Sequence[Path], masks: Path, on_problem: OnProblem
) -> list[Sample]:
    mask_of = _masks_by_name(masks)
    samples = []
    for path in paths:
        mask = mask_of.get(f"{path.stem}_mask") or mask_of.get(path.stem)
        samples.append(Sample(path, masks.name, mask))
    missing = [sample.path for sample in samples if sample.mask_path is None]
    if missing and masks.is_dir():
        on_problem(
            DatasetError(
                f"each image in {missing[0].parent} needs a mask in {masks}, "
                f"{len(missing)} of {len(samples)} have none: "
                f"{join_names(path.name for path in missing)}; name them "
                f"{missing[0].stem}_mask.png or {missing[0].stem}.png and so on"
            )
        )
    without_image = set(mask_of.values()) - {sample.mask_path for sample in samples}
    if without_image and paths:
        on_problem(
            DatasetError(
                f"each mask in {masks} needs its image in {paths[0].parent}, "
                f"{len(without_image)} have none: "
                f"{join_names(sorted(path.name for path in without_image))}; add the "
                "images or remove the masks"
            )
        )
    return samples


def _masks_by_name(masks: Path) -> dict[str, Path]:
    if not masks.is_dir():
        return {}
    folders = {path.name: path for path in subfolders(masks)}
    return folders | {path.stem: path for path in find_images(masks) if is_mask(path)}


def _defect_folders(folder: Path) -> list[Path]:
    return [f for f in subfolders(folder) if f.name not in {NORMAL, MASKS}]
