"""Faults of a data set, found before hours are spent on it.

Every image and mask is read once. Nothing is changed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from efficientad.datasets.findings import CategoryCheck, Finding, Kind
from efficientad.datasets.layouts import MIN_NORMAL_IMAGES, is_table, open_category
from efficientad.datasets.mask_checks import MaskCheck
from efficientad.datasets.near_duplicates import Thumbnail, similar_groups, thumbnail
from efficientad.datasets.samples import Category, Sample, Split
from efficientad.errors import ImageError
from efficientad.images.appearance import is_exchanged, redness
from efficientad.images.decoding import has_16_bits, is_turned, opened_picture
from efficientad.images.listing import fault_of, join_names
from efficientad.images.rgb import image_hash, read_image
from efficientad.progress import tracked

_MIN_BITS_UNUSED: Final = 2

MoreFindings: TypeAlias = Callable[[Category, Sequence[Sample]], Iterable[Finding]]
"""A further search, given a category and its different normal images."""


@dataclass(frozen=True, eq=False, slots=True)
class _Picture:
    """The facts about an image that was read."""

    sample: Sample
    name: str
    split: Split
    digest: str
    size: str
    mode: str
    n_bits_unused: int
    """Upper bits of 16 that no pixel uses; 0 for 8 bits."""
    thumbnail: Thumbnail
    redness: float


def check_category(
    folder: Path, *, more_findings: MoreFindings | None = None
) -> CategoryCheck:
    """Read all images and masks of a category, and return what is wrong.

    Raises:
        DatasetError: If the folder is no category.
    """
    findings: list[Finding] = []

    def note(problem: str) -> None:
        findings.append(Finding("layout", "error", problem))

    category = open_category(folder, needs_test=False, on_problem=note)
    if category.unused:
        findings.append(Finding("not used", "warning", category.unused))
    masks = MaskCheck(category)
    # A missing file of a table is a finding of its layout.
    has_table = is_table(folder)
    samples = [
        (split, sample)
        for split, part in category.splits.items()
        for sample in part
        if not (has_table and fault_of(sample.path, is_file=True))
    ]
    pictures = list(_read(category, samples, masks, findings))
    different: dict[str, _Picture] = {}
    for picture in pictures:
        different.setdefault(picture.digest, picture)
    n_train = len({p.digest for p in pictures if p.split == "train"})
    findings += _too_few(category, n_train)
    findings += _differing("sizes", [(p, p.size) for p in pictures])
    findings += _differing("modes", [(p, p.mode) for p in pictures])
    findings += _dark(pictures)
    findings += _exchanged(pictures)
    findings += _same(pictures)
    findings += _similar(list(different.values()))
    findings += masks.findings()
    if more_findings is not None:
        normal = [p.sample for p in different.values() if not p.sample.is_defect]
        findings += more_findings(category, normal)
    return CategoryCheck(
        category=category.name,
        root=category.root,
        n_images={split: len(part) for split, part in category.splits.items()},
        findings=tuple(sorted(findings, key=lambda f: f.severity != "error")),
    )


def _read(
    category: Category,
    samples: Sequence[tuple[Split, Sample]],
    masks: MaskCheck,
    findings: list[Finding],
) -> Iterator[_Picture]:
    for split, sample in tracked(samples, len(samples), category.name):
        try:
            image = read_image(sample.path)
            with opened_picture(sample.path) as picture:
                mode = picture.mode
                image_is_turned = is_turned(picture)
                is_deep = has_16_bits(picture)
        except ImageError as error:
            path = sample.path
            findings.append(Finding("unreadable", "error", str(error), (path,)))
            continue
        height, width = image.shape[:2]
        if sample.is_defect:
            masks.read(sample, height, width, image_is_turned=image_is_turned)
        yield _Picture(
            sample=sample,
            name=category.name_of(sample.path),
            split=split,
            digest=image_hash(image),
            size=f"{width} x {height} pixels",
            mode=f"mode {mode}",
            n_bits_unused=8 - int(image.max()).bit_length() if is_deep else 0,
            thumbnail=thumbnail(image),
            redness=redness(image),
        )


def _too_few(category: Category, n_train: int) -> Iterator[Finding]:
    """Compare the numbers of images, `n_train` of them to train on, with the needed."""
    if n_train < MIN_NORMAL_IMAGES:
        n_listed = len(category.train)
        listed = f" different ones in {n_listed} files" if n_listed != n_train else ""
        message = (
            f"a training needs at least {MIN_NORMAL_IMAGES} normal images, there are "
            f"{n_train}{listed}; record more good parts"
        )
        yield Finding("too few", "error", message)
    present = {sample.is_defect for sample in category.test}
    for is_defect, kind in ((False, "normal"), (True, "defective")):
        if present and is_defect not in present:
            message = f"an evaluation needs {kind} test images, there are none"
            yield Finding("too few", "error", f"{message}; add some")


def _differing(
    kind: Kind, described: Sequence[tuple[_Picture, str]]
) -> Iterator[Finding]:
    counts = Counter(text for _, text in described)
    if len(counts) > 1:
        usual, n_usual = counts.most_common(1)[0]
        others = [(picture, text) for picture, text in described if text != usual]
        named = join_names(f"{picture.name} ({text})" for picture, text in others)
        message = (
            f"the {kind} of images differ: {n_usual} have {usual}, {len(others)} have "
            f"not: {named}"
        )
        yield _warning(kind, message, [picture for picture, _ in others])


def _dark(pictures: Sequence[_Picture]) -> Iterator[Finding]:
    """Find images whose camera has fewer bits than their files."""
    dark = [p for p in pictures if p.n_bits_unused >= _MIN_BITS_UNUSED]
    if dark:
        n_bits = 16 - min(picture.n_bits_unused for picture in dark)
        message = (
            f"{len(dark)} images have 16 bits and use the lower {n_bits} only: "
            f"{_names(dark)}; the upper 8 are read, so these are almost black: let the "
            f"camera fill the upper bits, or train with --levels 0 {(1 << n_bits) - 1}"
        )
        yield _warning("modes", message, dark)


def _exchanged(pictures: Sequence[_Picture]) -> Iterator[Finding]:
    """Find pictures whose red and blue look exchanged against the training images."""
    normal = [p.redness for p in pictures if p.split == "train"]
    found = [p for p in pictures if is_exchanged(p.redness, normal)]
    if found:
        message = (
            f"red and blue look exchanged in {len(found)} images against the training "
            f"images: {_names(found)}; OpenCV writes BGR arrays, so convert RGB ones "
            "before they are written"
        )
        yield _warning("colors", message, found)


def _same(pictures: Sequence[_Picture]) -> Iterator[Finding]:
    by_digest: dict[str, list[_Picture]] = {}
    for picture in pictures:
        by_digest.setdefault(picture.digest, []).append(picture)
    for duplicates in by_digest.values():
        if len(duplicates) == 1:
            continue
        splits = {p.split for p in duplicates}
        is_contradictory = len({p.sample.is_defect for p in duplicates}) > 1
        remedy = "keep one"
        if len(splits) > 1:
            reason = (
                "training would have seen test images"
                if "test" in splits
                else "calibration needs images that were not trained on"
            )
            remedy = f"{reason}: remove them from one side"
        message = f"{_names(duplicates)} are the same picture; {remedy}"
        finding = _warning("same picture", message, duplicates)
        is_wrong = len(splits) > 1 or is_contradictory
        yield replace(finding, severity="error") if is_wrong else finding


def _similar(pictures: Sequence[_Picture]) -> Iterator[Finding]:
    for group in similar_groups([picture.thumbnail for picture in pictures]):
        alike = [pictures[i] for i in group]
        splits = {p.split for p in alike}
        remedy = "have a look"
        if "test" in splits and len(splits) > 1:
            remedy = "training may see what is tested: " + remedy
        message = f"{_names(alike)} are nearly the same picture; {remedy}"
        yield _warning("similar picture", message, alike)


def _names(pictures: Sequence[_Picture]) -> str:
    return join_names(picture.name for picture in pictures)


def _warning(kind: Kind, message: str, pictures: Sequence[_Picture]) -> Finding:
    paths = tuple(picture.sample.path for picture in pictures)
    return Finding(kind, "warning", message, paths)
