"""S-T: students that imitate a teacher's descriptors (Bergmann et al., CVPR 2020).

A teacher describes every patch of 17, 33 or 65 pixels by one vector. It has learned
this from a deep network on crops of natural images. Three students of its architecture
learn to predict its vectors on normal images. Where they are wrong, or differ from each
other, the patch is anomalous:

    error       e = |S - T|^2 with S, the mean of the students
    uncertainty v = mean of |S_i|^2 - |S|^2
    map         (e - mean e) / deviation e + (v - mean v) / deviation v, over all fields
    score       the maximum of the map

Means and deviations are those of held-out normal images. Vectors are computed at every
4th or 8th pixel, by pooling with a stride: the same numbers as by the dense form, which
the authors run, at these pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.settings import Range
from efficientad_lab.methods.method import (
    Draw,
    Inputs,
    Method,
    MethodSettings,
    NormalPixels,
    Output,
    Phase,
    Stride,
    on_grid,
    resized,
)
from efficientad_lab.methods.natural import natural_pixels
from efficientad_lab.methods.stages import Grid, Stages
from efficientad_lab.normalization import fit_mean_and_deviation

Field = Literal[17, 33, 65]
PDN_FIELD: Final[Field] = 33
N_CHANNELS: Final = 128
_LEAKY_SLOPE: Final = 5e-3
# Kernel and channels of the convolutions, and None for a pooling over 2 x 2. The
# kernels of 33 and 65 leave a last row and column out, which pooling drops.
_LAYERS: Final[dict[Field, tuple[tuple[int, int] | None, ...]]] = {
    17: ((6, 128), (5, 256), (5, 256), (4, N_CHANNELS)),
    33: ((5, 128), None, (5, 256), None, (2, 256), (4, N_CHANNELS)),
    65: (
        *((5, 128), None, (5, 128), None, (5, 256), None),
        *((4, 256), (1, N_CHANNELS)),
    ),
}
_CROP_OF_SOURCE: Final = 64  # pixels of a crop as the deep network sees it
_TEACHER_STEPS: Final = 50_000
_TEACHER_BATCH: Final = 64
_TEACHERS_SHARE: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class StudentTeacherSettings(MethodSettings):
    """Settings of S-T; the defaults are those of its authors."""

    strides: Sequence[Stride] = (32,)
    """32 for a deep network that teachers are made from, 4 for a PDN as the teacher."""
    fields: Sequence[Field] = (17, 33, 65)
    """Fields of the teachers, pixels. A PDN has 33 only."""
    n_students: Annotated[int, Range(2, 16)] = 3
    """Their disagreement is the uncertainty, which one student alone does not have."""
    n_epochs: Annotated[float, Range(0, 1e6)] = 100.0
    """Epochs of the students."""
    natural_images: str | None = None
    """Folder or tar that teachers are made with; not needed for a PDN."""
    n_natural: Annotated[int, Range(1, 100_000)] = 2000


class DescriptorNetwork(nn.Module):
    """Describes every patch of a field by 128 numbers."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.plan = _LAYERS[field]
        convolutions, n_in = [], 3
        for layer in self.plan:
            if layer is not None:
                convolutions.append(nn.Conv2d(n_in, layer[1], layer[0]))
                n_in = layer[1]
        self.convolutions = nn.ModuleList(convolutions)
        self.stride = 2 ** self.plan.count(None)
        size, stride = 1, 1
        for layer in self.plan:
            size += stride * ((layer[0] if layer is not None else 2) - 1)
            stride *= 2 if layer is None else 1
        self.size = size

    def forward(self, images: Inputs, *, dense: bool = False) -> Grid:
        """Return descriptors of all patches that lie inside of the images.

        Args:
            images: ImageNet-normalized, at least as large as the field.
            dense: Whether patches begin at every pixel, and not at every `stride`-th.
        """
        remaining = iter(self.convolutions)
        last = self.convolutions[-1]
        step = 1
        for layer in self.plan:
            if layer is None:
                images = functional.max_pool2d(
                    images, 2, stride=1 if dense else 2, dilation=step
                )
                step *= 2 if dense else 1
                continue
            convolution = cast("nn.Conv2d", next(remaining))
            images = functional.conv2d(
                images, convolution.weight, convolution.bias, dilation=step
            )
            if convolution is not last:
                images = functional.leaky_relu(images, _LEAKY_SLOPE)
        return images

    def described(self, images: Inputs) -> Grid:
        """Return a grid of descriptors that covers the images evenly, reflected."""
        pad = (self.size - self.stride + 1) // 2
        found: Tensor = self(functional.pad(images, (pad,) * 4, mode="reflect"))
        return found


class _PaddedPDN(PatchDescriptionNetwork):
    """A student of a PDN."""

    def described(self, images: Inputs) -> Grid:
        """Return a grid of descriptors that covers the images evenly."""
        found: Tensor = self(images, padded=True)
        return found


class StudentTeacher(Method):
    """Finds patches whose descriptors students cannot predict."""

    Settings = StudentTeacherSettings
    fit_scale = staticmethod(fit_mean_and_deviation)

    def __init__(
        self, stages: Sequence[Stages], settings: StudentTeacherSettings
    ) -> None:
        super().__init__(stages, settings)
        self.is_pdn = self.stages.architecture.startswith("pdn")
        fields = [PDN_FIELD] if self.is_pdn else list(settings.fields)
        self.fields: list[Field] = fields
        self.teachers, self.students = nn.ModuleDict(), nn.ModuleDict()
        self.decoders = nn.ModuleDict()
        for field in fields:
            if not self.is_pdn:
                teacher = DescriptorNetwork(field).requires_grad_(requires_grad=False)
                self.teachers[str(field)] = teacher
                n_deep = self.stages.channels[settings.strides[0]]
                self.decoders[str(field)] = nn.Linear(N_CHANNELS, n_deep)
            self.students[str(field)] = nn.ModuleList(
                self._new_student(field) for _ in range(settings.n_students)
            )
            n = self.stages.channels[4] if self.is_pdn else N_CHANNELS
            self.register_buffer(f"mean_{field}", torch.zeros(1, n, 1, 1))
            self.register_buffer(f"deviation_{field}", torch.ones(1, n, 1, 1))

    def title(self) -> str:
        """Return the name in tables, with what was replaced."""
        name = self.stages.architecture
        if self.is_pdn:
            return f"S-T, {name} as teacher, one field"
        fields = ", ".join(map(str, self.fields))
        return f"S-T, teachers of {name}, fields {fields}"

    def phases(self, pixels: NormalPixels) -> Iterator[Phase]:
        """Yield the training of each teacher, unless a PDN is it, and of all students.

        Raises:
            ConfigError: If teachers must be made and there are no natural images.
        """
        if not self.is_pdn:
            own = self.settings
            images = natural_pixels(own.natural_images, own.n_natural, "a teacher")
            for field in self.fields:
                yield self._teacher_phase(field, images)
        self._measure(pixels)
        yield Phase(
            name="students",
            optimizer=torch.optim.Adam(
                self.students.parameters(), lr=1e-4, weight_decay=1e-5
            ),
            inputs=pixels,
            loss=self._students_loss,
            n_epochs=self.settings.n_epochs,
            batch_size=1,
            share=1.0 if self.is_pdn else 1 - _TEACHERS_SHARE,
        )

    def output(self, images: Inputs) -> Output:
        """Return error and uncertainty of each field; the score is the maximum."""
        maps = {}
        for field in self.fields:
            predicted = self._predicted(field, images)
            mean = predicted.mean(0)
            error = (mean - self._target(field, images)).square().sum(1)
            squares = predicted.square().sum(2).mean(0)
            spread = (squares - mean.square().sum(1)).clamp(min=0)
            maps[f"error {field}"] = on_grid(error)
            maps[f"uncertainty {field}"] = on_grid(spread)
        return Output(maps, {})

    def _new_student(self, field: Field) -> nn.Module:
        if not self.is_pdn:
            return DescriptorNetwork(field)
        size: Literal["small", "medium"] = (
            "small" if self.stages.architecture == "pdn-small" else "medium"
        )
        return _PaddedPDN(size, self.stages.channels[4])

    def _described(self, field: Field, images: Inputs) -> Grid:
        """Return the teacher's descriptors as they are."""
        if self.is_pdn:
            return cast("list[Tensor]", self.stages(images))[0]
        teacher = cast("DescriptorNetwork", self.teachers[str(field)])
        return teacher.described(images)

    def _target(self, field: Field, images: Inputs) -> Grid:
        """Return the teacher's descriptors, each channel standardized."""
        mean = self.get_buffer(f"mean_{field}")
        deviation = self.get_buffer(f"deviation_{field}")
        with torch.no_grad():
            return (self._described(field, images) - mean) / deviation

    def _predicted(
        self, field: Field, images: Inputs
    ) -> Float[Tensor, "n_students batch _ _ _"]:
        students = cast("nn.ModuleList", self.students[str(field)])
        found = [cast("DescriptorNetwork", one).described(images) for one in students]
        return torch.stack(found)

    def _measure(self, pixels: NormalPixels) -> None:
        """Measure mean and deviation of each of the teachers' channels."""
        for field in self.fields:
            mean, deviation = self.channel_statistics(
                pixels, partial(self._described, field)
            )
            self.get_buffer(f"mean_{field}").copy_(mean)
            self.get_buffer(f"deviation_{field}").copy_(deviation)

    def _students_loss(self, batch: NormalPixels, draw: Draw) -> Tensor:  # noqa: ARG002 - nothing is drawn
        images = self.inputs(batch)
        losses = []
        for field in self.fields:
            error = self._predicted(field, images) - self._target(field, images)
            losses.append(error.square().sum(2).mean((1, 2, 3)).sum())
        return torch.stack(losses).sum()

    def _teacher_phase(self, field: Field, pixels: NormalPixels) -> Phase:
        """Return the training of a teacher by a deep network's mean features."""
        teacher = cast("DescriptorNetwork", self.teachers[str(field)])
        teacher.requires_grad_(requires_grad=True)
        decoder = self.decoders[str(field)]

        def loss(batch: NormalPixels, draw: Draw) -> Tensor:
            crops = _crops(self.inputs(batch), field, draw.generator)
            with torch.no_grad():
                (deep,) = self.stages(resized(crops, _CROP_OF_SOURCE))
                target = deep.mean((2, 3))
            vectors: Tensor = teacher(crops).mean((2, 3))
            error: Tensor = decoder(vectors) - target
            return error.square().sum(1).mean() + correlation(vectors)

        trained = [*teacher.parameters(), *decoder.parameters()]
        return Phase(
            name=f"teacher of field {field}",
            optimizer=torch.optim.Adam(trained, lr=2e-4, weight_decay=1e-5),
            inputs=pixels,
            loss=loss,
            n_epochs=_TEACHER_STEPS * _TEACHER_BATCH / len(pixels),
            batch_size=_TEACHER_BATCH,
            share=_TEACHERS_SHARE / len(self.fields),
        )


def correlation(vectors: Float[Tensor, "batch channels"]) -> Tensor:
    """Return the sum of the correlations of different channels, by magnitude."""
    centered = vectors - vectors.mean(0)
    norms = torch.linalg.vector_norm(centered, dim=0).clamp(min=1e-6)
    matrix = (centered.T @ centered) / torch.outer(norms, norms)
    return (matrix - torch.diag(matrix.diagonal())).abs().sum()


def _crops(images: Inputs, size: int, generator: torch.Generator) -> Inputs:
    """Return a random square of each image."""
    limit = images.shape[-1] - size + 1
    places = torch.randint(limit, (len(images), 2), generator=generator).tolist()
    return torch.stack(
        [
            image[:, row : row + size, column : column + size]
            for image, (row, column) in zip(images, places, strict=True)
        ]
    )
