"""What is wrong with a data set, found before hours are spent on it.

Every image and mask is read once. Errors make results meaningless or end a training;
warnings may be meant so. Nothing is changed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from efficientad.datasets.findings import CategoryCheck, Finding, Kind
from efficientad.datasets.layouts import MIN_NORMAL_IMAGES, list_category
from efficientad.datasets.mask_checks import MaskCheck
from efficientad.datasets.near_duplicates import (
    Thumbnail,
    linked,
    similar_pairs,
    thumbnail,
)
from efficientad.datasets.samples import Category, Sample, Split
from efficientad.errors import DatasetError, ImageError
from efficientad.images.listing import join_names
from efficientad.images.rgb import image_hash, read_image, stored_mode


@dataclass(frozen=True, eq=False, slots=True)
class _Picture:
    """What is kept of an image that was read."""

    sample: Sample
    split: Split
    digest: str
    height: int
    width: int
    mode: str
    thumbnail: Thumbnail


MoreFindings: TypeAlias = Callable[[Category, Sequence[Sample]], Iterable[Finding]]
"""Looks for more, given a category and its normal images that can be read."""


def check_category(
    folder: Path,
    *,
    progress: Callable[[list[tuple[Split, Sample]]], Iterable[tuple[Split, Sample]]]
    | None = None,
    more_findings: MoreFindings | None = None,
) -> CategoryCheck:
    """Read all images and masks of a category, and list what is wrong.

    Args:
        folder: As for `open_category`, with or without test images.
        progress: Is put around the samples to show how far it is.
        more_findings: Looks for more in the normal images.

    Raises:
        DatasetError: If the folder is no category at all.
    """
    findings: list[Finding] = []

    def note(problem: DatasetError) -> None:
        findings.append(Finding("layout", "error", str(problem)))

    category = list_category(folder, note, needs_test=False)
    masks = MaskCheck(category)
    pictures = _Pictures(category, masks, findings)
    samples = [(split, s) for split, part in category.splits.items() for s in part]
    for split, sample in samples if progress is None else progress(samples):
        pictures.read(split, sample)
    findings += _count_findings(category, pictures.n_different("train"))
    findings += pictures.findings()
    findings += masks.findings()
    if more_findings is not None:
        findings += more_findings(category, pictures.normal())
    return CategoryCheck(
        name=category.name,
        root=category.root,
        n_images={split: len(part) for split, part in category.splits.items()},
        findings=tuple(sorted(findings, key=lambda f: f.severity != "error")),
    )


@dataclass(eq=False, slots=True)
class _Pictures:
    """The images of a category as they are read, and what is wrong with them."""

    category: Category
    masks: MaskCheck
    found: list[Finding]
    pictures: list[_Picture] = field(default_factory=list)

    def read(self, split: Split, sample: Sample) -> None:
        """Read an image with its masks; what cannot be read is noted."""
        if not sample.path.is_file():
            return  # a list names it; noted with the layout
        try:
            image = read_image(sample.path)
            mode = stored_mode(sample.path)
        except ImageError as error:
            message = str(error)
            self.found.append(Finding("unreadable", "error", message, (sample.path,)))
            return
        height, width = image.shape[:2]
        digest, small = image_hash(image), thumbnail(image)
        self.pictures.append(
            _Picture(sample, split, digest, height, width, mode, small)
        )
        if sample.is_defect:
            self.masks.read(sample, height, width)

    def n_different(self, split: Split) -> int:
        """Count the pictures of a split that can be read, each once."""
        return len({p.digest for p in self.pictures if p.split == split})

    def normal(self) -> list[Sample]:
        """Give the normal images that can be read, each picture once."""
        first = {p.digest: p.sample for p in reversed(self.pictures)}
        return [s for s in first.values() if not s.is_defect][::-1]

    def findings(self) -> Iterator[Finding]:
        """Compare the images with each other."""
        yield from self._differing(
            "sizes", {p: f"{p.width} x {p.height} pixels" for p in self.pictures}
        )
        yield from self._differing(
            "modes", {p: f"mode {p.mode}" for p in self.pictures}
        )
        yield from self._same()
        yield from self._similar()

    def _differing(
        self, kind: Kind, description_of: Mapping[_Picture, str]
    ) -> Iterator[Finding]:
        counts = Counter(description_of.values())
        if len(counts) < 2:  # noqa: PLR2004 - one would be the same for all
            return
        usual, n_usual = counts.most_common(1)[0]
        others = [p for p, text in description_of.items() if text != usual]
        named = join_names(
            f"{self.category.name_of(p.sample)} ({description_of[p]})" for p in others
        )
        yield Finding(
            kind,
            "warning",
            f"the {kind} of images differ: {n_usual} have {usual}, {len(others)} have "
            f"not: {named}",
            tuple(p.sample.path for p in others),
        )

    def _same(self) -> Iterator[Finding]:
        by_digest: dict[str, list[_Picture]] = {}
        for picture in self.pictures:
            by_digest.setdefault(picture.digest, []).append(picture)
        for twins in by_digest.values():
            if len(twins) > 1:
                is_wrong = _crosses_splits(twins) or _is_contradictory(twins)
                yield Finding(
                    "same picture",
                    "error" if is_wrong else "warning",
                    f"{self._listed(twins)} are the same picture; {_remedy(twins)}",
                    tuple(p.sample.path for p in twins),
                )

    def _similar(self) -> Iterator[Finding]:
        first = {p.digest: p for p in reversed(self.pictures)}
        single = list(first.values())[::-1]
        pairs = similar_pairs([p.thumbnail for p in single])
        for group in linked(len(single), pairs):
            alike = [single[i] for i in group]
            remedy = "have a look"
            if _crosses_into_test(alike):
                remedy = "training may see what is tested: " + remedy
            yield Finding(
                "similar picture",
                "warning",
                f"{self._listed(alike)} are nearly the same picture; {remedy}",
                tuple(p.sample.path for p in alike),
            )

    def _listed(self, pictures: Sequence[_Picture]) -> str:
        return join_names(self.category.name_of(p.sample) for p in pictures)


def _crosses_splits(pictures: Sequence[_Picture]) -> bool:
    return len({picture.split for picture in pictures}) > 1


def _crosses_into_test(pictures: Sequence[_Picture]) -> bool:
    is_tested = any(picture.split == "test" for picture in pictures)
    return is_tested and _crosses_splits(pictures)


def _is_contradictory(pictures: Sequence[_Picture]) -> bool:
    """Tell whether the same picture is called normal and defective."""
    return len({picture.sample.is_defect for picture in pictures}) > 1


def _remedy(twins: Sequence[_Picture]) -> str:
    if _crosses_into_test(twins):
        return "training would have seen test images: remove them from one side"
    if _crosses_splits(twins):
        return (
            "calibration needs images that were not trained on: remove them from one "
            "side"
        )
    return "keep one"


def _count_findings(category: Category, n_normal: int) -> Iterator[Finding]:
    """Compare numbers of images with those that are needed.

    Args:
        category: Its test images count as they are listed.
        n_normal: Different pictures for the training that can be read.
    """
    if n_normal < MIN_NORMAL_IMAGES:
        n_listed = len(category.train)
        listed = f" different ones in {n_listed} files" if n_listed != n_normal else ""
        yield Finding(
            "too few",
            "error",
            f"a training needs at least {MIN_NORMAL_IMAGES} normal images, there are "
            f"{n_normal}{listed}; record more good parts",
        )
    n_defects = sum(sample.is_defect for sample in category.test)
    for what, n in (
        ("normal", len(category.test) - n_defects),
        ("defective", n_defects),
    ):
        if category.test and not n:
            yield Finding(
                "too few",
                "error",
                f"an evaluation needs {what} test images, there are none; add some",
            )
