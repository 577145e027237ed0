"""PatchCore-Ens: the mean of three PatchCores with different backbones.

Maps and scores of each are scaled by the minimum and the maximum on held-out normal
images. The authors scale by test images.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray

from efficientad.method.maps import MapScale
from efficientad.settings import Range
from efficientad_lab.methods.method import (
    Inputs,
    InputSize,
    Method,
    NormalPixels,
    Output,
)
from efficientad_lab.methods.patchcore import PatchCore, PatchCoreSettings
from efficientad_lab.methods.stages import Stages


@dataclass(frozen=True, kw_only=True)
class EnsembleSettings(PatchCoreSettings):
    """Settings of PatchCore-Ens; the defaults are those of its authors."""

    n_projected: Annotated[int, Range(1, 4096)] = 384
    input_size: InputSize = 256
    """Deviation: the authors' 320 pixels are more than the product's 256."""


def fit_range(raw: Iterable[NDArray[np.float32]]) -> MapScale:
    """Return the scale that sends the least value to 0 and the greatest to 0.1."""
    values = np.concatenate([grid.ravel() for grid in raw])
    return MapScale(float(values.min()), float(values.max()))


class PatchCoreEnsemble(Method):
    """The mean of three PatchCores with different backbones."""

    Settings = EnsembleSettings
    n_backbones = 3
    fit_scale = staticmethod(fit_range)

    def __init__(self, stages: Sequence[Stages], settings: EnsembleSettings) -> None:
        super().__init__(stages, settings)
        self.members = torch.nn.ModuleList(PatchCore([one], settings) for one in stages)

    def title(self) -> str:
        """Return the name in tables, with what was replaced."""
        own = self.settings
        names = ", ".join(one.stages.architecture for one in self._members())
        return (
            f"{len(self.members)}-member PatchCore ({names}), {own.input_size} px, "
            f"{100 * own.coreset:g} %, scaled on normals"
        )

    def prepare(self, pixels: NormalPixels) -> None:
        """Choose the bank of each member; errors as of `PatchCore.prepare`."""
        for member in self._members():
            member.prepare(pixels)

    def output(self, images: Inputs) -> Output:
        """Return map and score of each member."""
        found = [member.output(images) for member in self._members()]
        return Output(
            {f"anomaly {i}": one.maps["anomaly"] for i, one in enumerate(found)},
            {f"score {i}": one.scores["score"] for i, one in enumerate(found)},
        )

    def _members(self) -> list[PatchCore]:
        return [member for member in self.members if isinstance(member, PatchCore)]
