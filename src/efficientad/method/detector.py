"""The detector: teacher, student and autoencoder, joined (paper, section 3).

    teacher      describes each patch, trained on natural images, frozen
    student      imitates the teacher, and the autoencoder, on normal images only
    autoencoder  predicts the teacher's descriptors from the whole image

Where student and teacher differ, a patch is unlike all normal ones: the local map.
Where student and autoencoder differ, the arrangement is: the global map.

The detector computes raw maps, and the cells that `composition` compares. Their
calibration, the same for every engine, is in `decision`; `inspection.Predictor` joins
both.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from efficientad.errors import ConfigError
from efficientad.method.composition import Composition, Network, cell_window
from efficientad.method.inputs import Images
from efficientad.method.losses import Descriptors, mean_square_map
from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork
from efficientad.method.sizes import DESCRIPTOR_CHANNELS, ModelSize

RawMap = Float[Tensor, "batch rows columns"]
Channels = Float[Tensor, " channels"]
Values = Float[Tensor, "batch length"]

MAP_NAMES: Final = ("local", "global")
"""Names of the maps, in the order of `Differences`."""

FOR_TEACHER: Final = slice(DESCRIPTOR_CHANNELS)
FOR_AUTOENCODER: Final = slice(DESCRIPTOR_CHANNELS, 2 * DESCRIPTOR_CHANNELS)
"""The halves of a student's channels while it is trained."""


class ChannelStatistics(NamedTuple):
    """Mean and standard deviation of each teacher channel over the training images."""

    mean: Channels
    std: Channels


class Differences(NamedTuple):
    """Differences whose mean squares are the maps."""

    local: Descriptors
    """Teacher minus student."""
    global_: Descriptors
    """Autoencoder minus student."""


class Detector(nn.Module):
    """The networks of EfficientAD.

    Teacher and autoencoder have 384 channels, or fewer where a trained detector was
    reduced. The student has those of the teacher, then those of the autoencoder.
    """

    teacher_mean: Tensor
    teacher_std: Tensor

    def __init__(
        self,
        teacher: PatchDescriptionNetwork,
        student: PatchDescriptionNetwork,
        autoencoder: Autoencoder,
        statistics: ChannelStatistics,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.student = student
        self.autoencoder = autoencoder
        self.register_buffer("teacher_mean", statistics.mean)
        self.register_buffer("teacher_std", statistics.std)
        self._composed_from: Network = "student"

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "threshold":
            raise ConfigError(
                "the networks have no threshold, got a new one; call with_threshold of "
                "the predictor, or efficientad.threshold for a file"
            )
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        """Return one line; `teacher`, `student` and `autoencoder` list their layers."""
        n_local = self.teacher.n_channels
        n_global = self.student.n_channels - n_local
        n_parameters = sum(parameter.numel() for parameter in self.parameters())
        return (
            f"<Detector {self.size}, {n_local} local and {n_global} global channels, "
            f"{n_parameters / 1e6:.1f} million parameters, on {self.device}>"
        )

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], size: ModelSize
    ) -> "Detector":
        """Return networks of these weights and statistics, copies, for evaluation.

        They are on the CPU. The names are those of `state_dict()`.
        """
        n_local = len(arrays["teacher_mean"])
        n_global = len(arrays["autoencoder.describe.bias"])
        networks: list[PatchDescriptionNetwork] = []
        for name, n in (("teacher", n_local), ("student", n_local + n_global)):
            biases = [k for k in arrays if k.startswith(name) and k.endswith(".bias")]
            # The layers before the last one, which may be narrower than in the paper.
            n_hidden = len(arrays[f"{name}.convolutions.{len(biases) - 2}.bias"])
            networks.append(PatchDescriptionNetwork(size, n, n_hidden=n_hidden))
        blank = torch.zeros(n_local)
        statistics = ChannelStatistics(blank, blank.clone())
        teacher, student = networks
        detector = cls(teacher, student, Autoencoder(n_global), statistics)
        composition = Composition.from_arrays(arrays)
        if composition is not None:
            detector.set_composition(composition)
        detector.load_state_dict(
            {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        )
        return detector.eval().requires_grad_(requires_grad=False)

    @property
    def composition(self) -> Composition | None:
        """Gaussian of the cells of normal images; None without this term."""
        buffers = self.named_buffers(recurse=False)
        return Composition.from_arrays({k: v.cpu().numpy() for k, v in buffers})

    def set_composition(self, composition: Composition) -> None:
        """Store the Gaussian of the cells of normal images as buffers."""
        self._composed_from = composition.network
        for name, values in composition.arrays().items():
            self.register_buffer(name, torch.tensor(values, device=self.device))

    @property
    def size(self) -> ModelSize:
        """The paper's S or M."""
        return self.student.size

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return self.teacher_mean.device

    def describe(self, images: Images) -> Descriptors:
        """Return the teacher's descriptors, normalized per channel."""
        return self._normalized(self.teacher(images))

    def differences(self, images: Images) -> Differences:
        """Return how the networks differ on normalized images of 256 x 256 pixels."""
        hidden = self.teacher.hidden(images), self.student.hidden(images)
        return self._differences(images, *hidden)

    def local_map(self, images: Images) -> RawMap:
        """Return the local map of normalized images of any size."""
        teacher = self.describe(images)
        student = self.student(images)[:, : teacher.shape[1]]
        return mean_square_map(teacher - student)

    def outputs(self, images: Images) -> tuple[dict[str, RawMap], Values]:
        """Return the raw maps by name, and the cells, of images of 256 x 256 pixels."""
        hidden = self.teacher.hidden(images), self.student.hidden(images)
        differences = self._differences(images, *hidden)
        maps = dict(zip(MAP_NAMES, map(mean_square_map, differences), strict=True))
        return maps, self.cells(*hidden)

    def cells(self, taught: Tensor, learned: Tensor) -> Values:
        """Return the mean descriptors of all cells, relative to those of the image.

        They are means of the hidden features of teacher and student, (n, channels,
        height, width).
        """
        of_teacher = self._composed_from == "teacher"
        hidden = taught if of_teacher else learned
        window = cell_window(hidden.shape[2], self._composed_from)
        pooled = functional.avg_pool2d(hidden, *window)
        relative = (pooled - pooled.mean((2, 3), keepdim=True)).flatten(2)
        network = self.teacher if of_teacher else self.student
        weight = network.convolutions[-1].weight
        assert isinstance(weight, Tensor)
        head = weight[: len(self.teacher_std)].sum((2, 3))
        if of_teacher:
            head = head / self.teacher_std.view(-1, 1)
        cells: Tensor = relative.transpose(1, 2) @ head.T
        return cells.flatten(1)

    def _normalized(self, descriptors: Descriptors) -> Descriptors:
        shape = (1, -1, 1, 1)
        centered = descriptors - self.teacher_mean.view(shape)
        return centered / self.teacher_std.view(shape)

    def _differences(
        self, images: Images, taught: Tensor, learned: Tensor
    ) -> Differences:
        teacher = self._normalized(self.teacher.head(taught))
        autoencoder = self.autoencoder(images)
        n_channels = [teacher.shape[1], autoencoder.shape[1]]
        for_both = self.student.head(learned)
        for_teacher, for_autoencoder = torch.split(for_both, n_channels, dim=1)
        return Differences(teacher - for_teacher, autoencoder - for_autoencoder)
