"""Both raw maps of a detector by native layers: the same numbers, much faster.

`native_networks` arranges the layers and `kernels.layers` computes the convolutions,
the 1 x 1 ones of the medium networks in bf16 if asked to. No torch here.
"""

import threading
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from efficientad.engines.engine import EngineOutput, Pixels, Precision
from efficientad.engines.native_networks import Medium, Small, networks_of
from efficientad.engines.weights import Arrays, head_of, require_whole_panels
from efficientad.errors import ConfigError
from efficientad.images.rgb import INPUT_SIZE
from efficientad.kernels import layers
from efficientad.method.composition import (
    Composition,
    Network,
    cells_of,
    composed_network,
    image_values,
)
from efficientad.method.sizes import GRID_SIZE, IMAGENET_MEAN, ModelSize

# Images that go through the layers together; more would only take more memory.
_LARGEST_BATCH = 4
_BORDER = 1  # the padding of the autoencoder's first convolution


class NativeEngine:
    """Computes the raw maps of one detector by native layers.

    The weights are transformed once: later changes of the detector have no effect. In
    bf16, which needs `kernels.layers.has_bf16()`, factors of 1 x 1 convolutions are
    rounded; the small networks have none. A run has `n_threads` or, without them, as
    many as usable cores, or OMP_NUM_THREADS.

    Raises:
        ConfigError: If the native layers cannot be built, or take other numbers of
            channels.
    """

    is_concurrent = True
    device: Literal["cpu"] = "cpu"

    def __init__(
        self,
        arrays: Arrays,
        size: ModelSize,
        *,
        bf16: bool = False,
        n_threads: int | None = None,
    ) -> None:
        if not layers.is_available():
            raise ConfigError(
                "the native engine needs its layers, which cannot be built here; use "
                "engine pytorch"
            )
        require_whole_panels(arrays)
        self.precision: Precision = "bf16" if bf16 and size == "medium" else "fp32"
        self._composition = Composition.from_arrays(arrays)
        self._network = composed_network(self._composition)
        self._head = head_of(arrays, self._network)
        self._networks = networks_of(arrays, size, bf16=bf16)
        self._n_threads = n_threads
        self._local = threading.local()

    def run(self, pixels: Pixels) -> EngineOutput:
        """Compute the raw maps and values of a batch, (n, 256, 256, 3)."""
        starts = range(0, len(pixels), _LARGEST_BATCH)
        batches = (pixels[start : start + _LARGEST_BATCH] for start in starts)
        found = [
            self._plan(len(b)).run(b, self._n_threads, self._network) for b in batches
        ]
        local, global_ = np.concatenate([maps for maps, _ in found], 1)
        pooled = np.concatenate([cells for _, cells in found])
        cells = np.einsum("ncf,of->nco", pooled, self._head).reshape(len(pixels), -1)
        values = image_values(cells, self._composition)
        return EngineOutput({"local": local, "global": global_}, values)

    def run_local(self, pixels: Pixels) -> NDArray[np.float32]:
        """Compute the local maps of a batch, (n, 256, 256, 3)."""
        starts = range(0, len(pixels), _LARGEST_BATCH)
        batches = [pixels[start : start + _LARGEST_BATCH] for start in starts]
        found = [self._local_plan(len(b)).run(b, self._n_threads) for b in batches]
        return np.concatenate(found)

    def _local_plan(self, n: int) -> "_LocalPlan":
        plans: dict[int, _LocalPlan] = self._local.__dict__.setdefault("local", {})
        if n not in plans:
            plans[n] = _LocalPlan(n, self._networks)
        return plans[n]

    def _plan(self, n: int) -> "Plan":
        """Return grids and steps for n images, which each thread has of its own."""
        plans: dict[int, Plan] = self._local.__dict__.setdefault("plans", {})
        if n not in plans:
            plans[n] = Plan(n, self._networks)
        return plans[n]


class Plan:
    """Grids for n images and the steps that fill them, in order."""

    def __init__(self, n: int, networks: "Small | Medium") -> None:
        side = INPUT_SIZE + 2 * _BORDER
        # Outside the image is what normalization sends to zero: the mean.
        margin = np.array(IMAGENET_MEAN, np.float32) * np.float32(255)
        bordered = np.broadcast_to(margin, (n, side, side, 3)).copy()
        inner = slice(_BORDER, _BORDER + INPUT_SIZE)
        self.image = bordered[:, inner, inner]
        self.maps = np.empty((2, n, GRID_SIZE, GRID_SIZE, 1), np.float32)
        self.steps, self.hidden = networks.steps(bordered, self.image, list(self.maps))

    def run(
        self, pixels: Pixels, n_threads: int | None, network: Network
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return both maps, (2, n, 56, 56), and the hidden features of the cells.

        The features are those of `network`, (n, 16, channels).
        """
        layers.to_float(pixels, self.image, n_threads)
        for step in self.steps:
            layers.run(step, n_threads)
        cells = np.stack([cells_of(h, network) for h in self.hidden[network]])
        return self.maps[..., 0].copy(), cells


class _LocalPlan:
    """Grids for n images and the steps to their local maps alone."""

    def __init__(self, n: int, networks: "Small | Medium") -> None:
        self._image = np.empty((n, INPUT_SIZE, INPUT_SIZE, 3), np.float32)
        self._map = np.empty((n, GRID_SIZE, GRID_SIZE, 1), np.float32)
        self._steps = networks.local_steps(self._image, self._map)

    def run(self, pixels: Pixels, n_threads: int | None) -> NDArray[np.float32]:
        """Return the local maps, (n, 56, 56)."""
        layers.to_float(pixels, self._image, n_threads)
        for step in self._steps:
            layers.run(step, n_threads)
        return self._map[..., 0].copy()
