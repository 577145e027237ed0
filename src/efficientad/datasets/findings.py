"""The result of a check: single findings, and all those of a category."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from efficientad.datasets.samples import Split

Kind: TypeAlias = Literal[
    "layout",
    "not used",
    "unreadable",
    "same picture",
    "similar picture",
    "sizes",
    "modes",
    "colors",
    "mask",
    "too few",
    "suspicious",
]


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault, or possible fault, of a data set."""

    kind: Kind
    severity: Literal["error", "warning"]
    """An error ends a training or makes results meaningless; a warning may be meant."""
    message: str
    paths: tuple[Path, ...] = ()
    """All files it is about; the message may name only some."""


@dataclass(frozen=True, slots=True)
class CategoryCheck:
    """All findings in one category."""

    category: str
    root: Path
    n_images: Mapping[Split, int]
    findings: tuple[Finding, ...]
    """Errors first."""

    @property
    def has_errors(self) -> bool:
        """Whether one of the findings is an error."""
        return any(finding.severity == "error" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return everything in types that JSON has."""
        findings = [
            asdict(finding) | {"paths": [str(path) for path in finding.paths]}
            for finding in self.findings
        ]
        return {**asdict(self), "root": str(self.root), "findings": findings}
