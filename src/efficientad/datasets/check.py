"""What is wrong with a data set, found before hours are spent on it.

Every image and mask is read once. Errors make results meaningless or end a training;
warnings may be meant so. Nothing is changed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from efficientad.datasets.layouts import MIN_NORMAL_IMAGES, list_category
from efficientad.datasets.near_duplicates import Thumbnail, similar_pairs, thumbnail
from efficientad.datasets.samples import (
    Category,
    Sample,
    Split,
    mask_files,
    some,
)
from efficientad.errors import DatasetError, ImageError
from efficientad.images import image_hash, read_image, read_mask, stored_mode

Kind: TypeAlias = Literal[
    "layout",
    "unreadable",
    "same picture",
    "similar picture",
    "sizes",
    "modes",
    "mask",
    "too few",
    "suspicious",
]
Severity: TypeAlias = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or may be."""

    kind: Kind
    severity: Severity
    message: str
    paths: tuple[Path, ...] = ()
    """All files it is about; the message may name only some."""


@dataclass(frozen=True, slots=True)
class CategoryCheck:
    """What was found in one category."""

    name: str
    root: Path
    n_images: Mapping[Split, int]
    findings: tuple[Finding, ...]
    """Errors first."""

    @property
    def has_errors(self) -> bool:
        """Whether something makes results meaningless, or ends a training."""
        return any(finding.severity == "error" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Give everything as JSON knows it."""
        return {
            "category": self.name,
            "root": str(self.root),
            "n_images": dict(self.n_images),
            "findings": [
                {
                    "kind": finding.kind,
                    "severity": finding.severity,
                    "message": finding.message,
                    "paths": [str(path) for path in finding.paths],
                }
                for finding in self.findings
            ],
        }


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
    pictures = _Pictures(category, findings)
    samples = [(split, s) for split, part in category.splits.items() for s in part]
    for split, sample in samples if progress is None else progress(samples):
        pictures.read(split, sample)
    findings += _count_findings(category)
    findings += pictures.findings()
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
    found: list[Finding]
    pictures: list[_Picture] = field(default_factory=list)
    empty_masks: list[Path] = field(default_factory=list)

    def read(self, split: Split, sample: Sample) -> None:
        """Read an image with its masks; what cannot be read is noted."""
        if not sample.path.is_file():
            return  # a list names it; noted with the layout
        try:
            image = read_image(sample.path)
            mode = stored_mode(sample.path)
        except ImageError as error:
            self._note("unreadable", str(error), sample.path)
            return
        height, width = image.shape[:2]
        digest, small = image_hash(image), thumbnail(image)
        self.pictures.append(
            _Picture(sample, split, digest, height, width, mode, small)
        )
        if sample.is_defect and sample.mask_path is not None:
            self._read_masks(sample, height, width)

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
        if self.empty_masks:
            yield Finding(
                "mask",
                "warning",
                f"{len(self.empty_masks)} masks of defects mark no pixel: "
                f"{self._some(self.empty_masks)}; these defects take no part in pixel "
                "metrics",
                tuple(self.empty_masks),
            )
        without = [
            p.sample.path
            for p in self.pictures
            if p.sample.is_defect and p.sample.mask_path is None
        ]
        if without:
            yield Finding(
                "mask",
                "warning",
                f"{len(without)} defective images have no mask: {self._some(without)}; "
                "they take no part in pixel metrics",
                tuple(without),
            )

    def _read_masks(self, sample: Sample, height: int, width: int) -> None:
        is_marked = False
        try:
            for path in mask_files(sample):
                mask = read_mask(path)
                is_marked |= bool(mask.any())
                if mask.shape != (height, width):
                    self._note(
                        "mask",
                        f"a mask must have its image's size, {path} has "
                        f"{mask.shape[1]} x {mask.shape[0]} pixels and {sample.path} "
                        f"{width} x {height}",
                        path,
                    )
        except (DatasetError, ImageError) as error:
            if sample.mask_path is not None and sample.mask_path.exists():
                self._note("mask", str(error), sample.mask_path)
            return
        if not is_marked and sample.mask_path is not None:
            self.empty_masks.append(sample.mask_path)

    def _note(self, kind: Kind, message: str, path: Path) -> None:
        self.found.append(Finding(kind, "error", message, (path,)))

    def _differing(
        self, kind: Kind, description_of: Mapping[_Picture, str]
    ) -> Iterator[Finding]:
        counts = Counter(description_of.values())
        if len(counts) < 2:  # noqa: PLR2004 - one would be the same for all
            return
        usual, n_usual = counts.most_common(1)[0]
        others = [p for p, text in description_of.items() if text != usual]
        named = some(
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
                is_leak = _crosses_into_test(twins)
                remedy = (
                    "training would have seen test images: remove them from one side"
                    if is_leak
                    else "keep one"
                )
                yield Finding(
                    "same picture",
                    "error" if is_leak or _is_contradictory(twins) else "warning",
                    f"{self._listed(twins)} are the same picture; {remedy}",
                    tuple(p.sample.path for p in twins),
                )

    def _similar(self) -> Iterator[Finding]:
        first = {p.digest: p for p in reversed(self.pictures)}
        single = list(first.values())[::-1]
        pairs = similar_pairs([p.thumbnail for p in single])
        for group in _connected(len(single), pairs):
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
        return some(self.category.name_of(p.sample) for p in pictures)

    def _some(self, paths: Iterable[Path]) -> str:
        root = self.category.root
        return some(
            str(p.relative_to(root) if p.is_relative_to(root) else p) for p in paths
        )


def _crosses_into_test(pictures: Sequence[_Picture]) -> bool:
    splits = {picture.split for picture in pictures}
    return "test" in splits and len(splits) > 1


def _is_contradictory(pictures: Sequence[_Picture]) -> bool:
    """Tell whether the same picture is called normal and defective."""
    return len({picture.sample.is_defect for picture in pictures}) > 1


def _connected(n: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Group what is linked by pairs; what is not linked is left out."""
    group_of = list(range(n))
    for first, second in pairs:
        low, high = sorted((group_of[first], group_of[second]))
        group_of = [low if group == high else group for group in group_of]
    groups: dict[int, list[int]] = {}
    for index, group in enumerate(group_of):
        groups.setdefault(group, []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _count_findings(category: Category) -> Iterator[Finding]:
    n_normal = len(category.train)
    if n_normal < MIN_NORMAL_IMAGES:
        yield Finding(
            "too few",
            "error",
            f"a training needs at least {MIN_NORMAL_IMAGES} normal images, there are "
            f"{n_normal}; record more good parts",
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
