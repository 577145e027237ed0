"""What a check gives: single findings, and all those in a category."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from efficientad.datasets.samples import Split

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
