"""PatchCore: distances to a memory bank of normal patches (Roth et al., CVPR 2022).

A patch is described by its 3 x 3 neighborhood in two stages of a frozen network. The
bank keeps a coreset: starting from ten random patches, the one that is farthest from
all that are kept is added, until a share of all patches is reached. The distances for
the choice are those of a random projection.

    map      squared distance to the nearest vector of the bank, smoothed
    score    the largest distance of an image before smoothing
    weighted distance d of the patch x with the largest one, times
             1 - exp(d) / sum over m in N(m*) of exp |x - m|
             with N(m*), the nearest b of the bank to m*, the nearest one to x
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from efficientad.errors import ConfigError, DatasetError, TrainingError
from efficientad.settings import Range
from efficientad_lab.methods.method import (
    Inputs,
    InputSize,
    Method,
    MethodSettings,
    NormalPixels,
    Output,
    Stride,
    enlarged,
    maximum,
    on_grid,
    smoothed,
)
from efficientad_lab.methods.stages import Grid, Stages

Vectors = Float[Tensor, "_ length"]
"""(n_vectors, length)."""

_N_STARTS: Final = 10
_N_ROWS: Final = 4096  # of distances that are computed at once
_MEMINFO: Final = Path("/proc/meminfo")


@dataclass(frozen=True, kw_only=True)
class PatchCoreSettings(MethodSettings):
    """Settings of PatchCore; the defaults are those of its authors."""

    coreset: Annotated[float, Range(1e-6, 1)] = 0.01
    """Share of the patches that the bank keeps."""
    n_projected: Annotated[int, Range(1, 4096)] = 128
    """Length of the vectors that the coreset is chosen by."""
    dimension: Annotated[int, Range(1, 4096)] = 1024
    """Length of a patch's vector."""
    n_neighbours: Annotated[int, Range(0, 1000)] = 0
    """The b of the weighted score; the authors name no number. 0: not weighted."""
    strides: Sequence[Stride] = (8, 16)
    input_size: InputSize = 224

    def __post_init__(self) -> None:
        """Reject a weight that makes every score 0."""
        super().__post_init__()
        if self.n_neighbours == 1:
            raise ConfigError(
                "n_neighbours must be 0 or at least 2, got 1, with which all scores "
                "are 0"
            )


class PatchCore(Method):
    """Finds patches that are far from all normal ones."""

    Settings = PatchCoreSettings
    bank: Vectors

    def __init__(self, stages: Sequence[Stages], settings: PatchCoreSettings) -> None:
        super().__init__(stages, settings)
        self.register_buffer("bank", torch.empty(0, settings.dimension))

    def title(self) -> str:
        """Return the name in tables, with what was replaced."""
        own = self.settings
        weighted = f", weighted by {own.n_neighbours}" if own.n_neighbours else ""
        return (
            f"PatchCore, {self.stages.architecture}, {own.input_size} px, "
            f"{100 * own.coreset:g} %{weighted}"
        )

    def prepare(self, pixels: NormalPixels) -> None:
        """Choose the bank among the patches of all images.

        Raises:
            DatasetError: If the images give too few patches for a coreset.
            TrainingError: If their vectors do not fit into the memory.
        """
        own = self.settings
        n_patches = len(pixels) * self._n_patches()
        require_memory(n_patches, own.dimension + own.n_projected)
        found = self.cached(pixels, self.vectors)
        vectors = found.flatten(0, 1).float()
        generator = torch.Generator().manual_seed(own.seed)
        bound = own.dimension**-0.5  # as of PyTorch's linear layers
        matrix = torch.empty(own.dimension, own.n_projected)
        matrix.uniform_(-bound, bound, generator=generator)
        chosen, _ = coreset(vectors @ matrix, own.coreset, generator)
        self.bank = vectors[chosen].clone()

    def vectors(self, images: Inputs) -> Float[Tensor, "batch n_patches length"]:
        """Return the vector of every patch."""
        return patch_vectors(self.stages(images), self.settings.dimension)

    def output(self, images: Inputs) -> Output:
        """Return the map of squared distances, and the score."""
        vectors = self.vectors(images)
        n, n_patches, _ = vectors.shape
        squared, nearest = nearest_of_bank(vectors.flatten(0, 1), self.bank)
        side = round(n_patches**0.5)
        raw = squared.view(n, side, side)
        maps = on_grid(smoothed(enlarged(raw, self.settings.input_size)))
        scores = maximum(raw)
        if self.settings.n_neighbours:
            places = squared.view(n, -1).argmax(1)
            rows = torch.arange(n)
            scores = weighted_scores(
                vectors[rows, places],
                nearest.view(n, -1)[rows, places],
                self.bank,
                self.settings.n_neighbours,
            )
        return Output({"anomaly": maps}, {"score": scores})

    def _n_patches(self) -> int:
        side: int = self.settings.input_size // self.settings.strides[0]
        return side**2

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *others: Any
    ) -> None:
        """Take a bank of any number of vectors."""
        stored = state_dict.get(f"{prefix}bank")
        if stored is not None:
            self.bank = torch.empty(len(stored), self.settings.dimension)
        super()._load_from_state_dict(state_dict, prefix, *others)


def patch_vectors(
    grids: Sequence[Grid], dimension: int
) -> Float[Tensor, "batch n_patches length"]:
    """Return the vector of each 3 x 3 neighborhood on the grid of the first stage.

    The 9 C values of a neighborhood, channel by channel, are averaged to `dimension`;
    values of later stages are enlarged linearly to the first grid. The vectors of all
    stages are joined and averaged to `dimension` again.

    Args:
        grids: Stages of the same images, the finest one first.
        dimension: Length of the result.
    """
    rows, columns = grids[0].shape[-2:]
    joined = []
    for grid in grids:
        values = functional.unfold(grid, 3, padding=1)
        pooled = _pooled(values, dimension)  # (batch, dimension, cells)
        if grid.shape[-2:] != (rows, columns):
            # Averaging over channels and enlarging are linear: the order is free.
            laid_out = pooled.view(*pooled.shape[:2], *grid.shape[-2:])
            size = (rows, columns)
            larger = functional.interpolate(laid_out, size, mode="bilinear")
            pooled = larger.flatten(2)
        joined.append(pooled)
    together = torch.cat(joined, dim=1)
    return _pooled(together, dimension).transpose(1, 2)


def coreset(
    vectors: Vectors, share: float, generator: torch.Generator
) -> tuple[Int[Tensor, " n_chosen"], Float[Tensor, " n_chosen"]]:
    """Return the indices of a farthest-first choice, and the radius at each choice.

    Args:
        vectors: Vectors to choose from.
        share: Share that is chosen, in (0, 1].
        generator: Generator of the ten random starts, from which distances are the
            mean ones.

    Raises:
        DatasetError: If there are too few vectors.
    """
    n_chosen = int(len(vectors) * share)
    if n_chosen < 1 or len(vectors) < _N_STARTS:
        raise DatasetError(
            f"a coreset of {100 * share:g} % needs at least one vector of "
            f"{_N_STARTS} or more, the images give {len(vectors)}; give more images "
            "or a larger share"
        )
    squares = vectors.square().sum(1)
    found = torch.empty_like(squares)

    def squared_distances(index: int) -> Tensor:
        own = vectors[index]
        torch.addmv(squares, vectors, own, alpha=-2, out=found)
        return found.add_(squares[index]).clamp_(min=0)

    starts = torch.randperm(len(vectors), generator=generator)[:_N_STARTS]
    mean = torch.zeros_like(squares)
    for start in starts.tolist():
        mean += squared_distances(start).sqrt() / _N_STARTS
    least = mean.square()
    chosen, radii = [], []
    for _ in range(n_chosen):
        index = int(least.argmax())
        chosen.append(index)
        radii.append(least[index].sqrt())
        torch.minimum(least, squared_distances(index), out=least)
    return torch.tensor(chosen), torch.stack(radii)


def nearest_of_bank(
    vectors: Vectors, bank: Vectors
) -> tuple[Float[Tensor, " n_vectors"], Int[Tensor, " n_vectors"]]:
    """Return the squared distance to the nearest vector of a bank, and its index."""
    squares = bank.square().sum(1)
    least, nearest = [], []
    for part in torch.split(vectors, _N_ROWS):
        index: Tensor = torch.addmm(squares, part, bank.T, alpha=-2).argmin(1)
        nearest.append(index)
        # Not out of that product: it is the small difference of large numbers.
        least.append((part - bank[index]).square().sum(1))
    return torch.cat(least), torch.cat(nearest)


def weighted_scores(
    vectors: Float[Tensor, "batch length"],
    nearest: Int[Tensor, " batch"],
    bank: Vectors,
    n_neighbours: int,
) -> Float[Tensor, " batch"]:
    """Return the weighted distances of one patch of each image.

    Args:
        vectors: Vectors of the patches.
        nearest: Index of the vector in the bank that is nearest to each.
        bank: The memory bank.
        n_neighbours: Number of the bank's vectors near to that one, itself included.
    """
    n = min(n_neighbours, len(bank))
    neighbors = torch.cdist(bank[nearest], bank).topk(n, largest=False).indices
    distances = torch.linalg.vector_norm(bank[neighbors] - vectors[:, None], dim=2)
    own = torch.linalg.vector_norm(bank[nearest] - vectors, dim=1)
    # The largest exponent is taken out, so that none is too large.
    total = torch.logsumexp(distances, dim=1)
    weighted: Tensor = own * (1 - torch.exp(own - total))
    return weighted


def require_memory(n_vectors: int, length: int) -> None:
    """Raise if vectors do not fit into the memory that is free.

    Raises:
        TrainingError: If they need more.
    """
    # The vectors in half and in single precision.
    needed = n_vectors * length * 6
    free = free_bytes()
    if free is not None and needed > free:
        raise TrainingError(
            f"a bank of {n_vectors} patches needs {needed / 2**30:.1f} GiB of memory "
            f"while it is chosen, {free / 2**30:.1f} GiB are free; give fewer images"
        )


def free_bytes() -> int | None:
    """Return the memory that is free, bytes, or None where the system does not say."""
    if not _MEMINFO.is_file():
        return None
    lines = _MEMINFO.read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return 1024 * int(fields["MemAvailable"].split()[0])


def _pooled(values: Float[Tensor, "batch n cells"], n_out: int) -> Tensor:
    """Return adjacent values of each cell averaged to `n_out` of them."""
    if values.shape[1] == n_out:
        return values
    by_cell = values.transpose(1, 2)
    pooled: Tensor = functional.adaptive_avg_pool1d(by_cell, n_out).transpose(1, 2)
    return pooled
