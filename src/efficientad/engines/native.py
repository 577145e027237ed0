"""Both raw maps of a detector by native layers: the same numbers, much faster.

`native_networks` arranges the layers and `kernels.layers` computes the convolutions,
the 1 x 1 ones of the medium networks in bf16 if asked to. No torch here.
"""

import threading
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from efficientad.engines.engine import EngineOutput, Pixels, Precision
from efficientad.engines.native_networks import Medium, Small, networks_of
from efficientad.engines.weights import Arrays, head_of, require_whole_panels
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

    These need `kernels.layers.is_available()`. The weights are transformed once: later
    changes of the detector have no effect. In bf16, which needs
    `kernels.layers.has_bf16()`, factors of 1 x 1 convolutions are rounded; the small
    networks have none. A run has `n_threads` or, without them, as many as usable cores,
    or OMP_NUM_THREADS.

    Raises:
        ConfigError: If the native layers take other numbers of channels.
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
        maps, pooled = [], []
        for batch in _batches(pixels):
            plan = self._plan(len(batch))
            maps.append(plan.run(batch, self._n_threads))
            hidden = plan.hidden[self._network]
            pooled += [cells_of(features, self._network) for features in hidden]
        local, global_ = np.concatenate(maps, 1)
        cells = np.einsum("ncf,of->nco", np.stack(pooled), self._head)
        values = image_values(cells.reshape(len(pixels), -1), self._composition)
        return EngineOutput({"local": local, "global": global_}, values)

    def run_local(self, pixels: Pixels) -> NDArray[np.float32]:
        """Compute the local maps of a batch, (n, 256, 256, 3)."""
        found: list[NDArray[np.float32]] = [
            self._plan(len(batch), is_local=True).run(batch, self._n_threads)[0]
            for batch in _batches(pixels)
        ]
        return np.concatenate(found)

    def _plan(self, n: int, *, is_local: bool = False) -> "Plan":
        """Return grids and steps for n images, which each thread has of its own."""
        plans: dict[tuple[int, bool], Plan]
        plans = self._local.__dict__.setdefault("plans", {})
        if (n, is_local) not in plans:
            plans[n, is_local] = Plan(n, self._networks, is_local=is_local)
        return plans[n, is_local]


class Plan:
    """Grids for n images and the steps that fill them, in order.

    A local plan has the steps to the local map alone.
    """

    def __init__(
        self, n: int, networks: "Small | Medium", *, is_local: bool = False
    ) -> None:
        side = INPUT_SIZE + 2 * _BORDER
        # Outside the image is what normalization sends to zero: the mean.
        margin = np.array(IMAGENET_MEAN, np.float32) * np.float32(255)
        bordered = np.broadcast_to(margin, (n, side, side, 3)).copy()
        inner = slice(_BORDER, _BORDER + INPUT_SIZE)
        self.image = bordered[:, inner, inner]
        n_maps = 1 if is_local else 2
        self.maps = np.empty((n_maps, n, GRID_SIZE, GRID_SIZE, 1), np.float32)
        self.hidden: dict[Network, layers.Grid] = {}
        """Hidden features of each network, of a plan that is not local."""
        if is_local:
            self.steps = networks.local_steps(self.image, self.maps[0])
        else:
            self.steps, self.hidden = networks.steps(bordered, self.image, [*self.maps])

    def run(self, pixels: Pixels, n_threads: int | None) -> NDArray[np.float32]:
        """Return the maps of n images, (maps, n, 56, 56)."""
        layers.to_float(pixels, self.image, n_threads)
        for step in self.steps:
            layers.run(step, n_threads)
        return self.maps[..., 0].copy()


def _batches(pixels: Pixels) -> Iterator[Pixels]:
    for start in range(0, len(pixels), _LARGEST_BATCH):
        yield pixels[start : start + _LARGEST_BATCH]
