"""The training step of the public reference script (nelson1425), written anew.

Plain layers in float32: three passes of the student, two of the teacher,
`torch.quantile`, Adam.
"""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from efficientad.method.sizes import DESCRIPTOR_CHANNELS, ModelSize
from efficientad_lab.benchmark.baseline import Baseline, autoencoder, pdn

_HARD_QUANTILE: Final = 0.999


def reference_networks(size: ModelSize) -> Baseline:
    """Return networks with random weights, student and autoencoder in training mode."""
    torch.manual_seed(0)
    return Baseline(
        teacher=pdn(size, DESCRIPTOR_CHANNELS).eval().requires_grad_(False),  # noqa: FBT003
        student=pdn(size, 2 * DESCRIPTOR_CHANNELS).train(),
        autoencoder=autoencoder().train(),
        mean=torch.zeros(DESCRIPTOR_CHANNELS),
        std=torch.ones(DESCRIPTOR_CHANNELS),
    )


def reference_loss(
    networks: Baseline, image: Tensor, augmented: Tensor, natural: Tensor
) -> Tensor:
    """Return the sum of the four losses.

    Args:
        networks: Teacher, student, autoencoder and channel statistics.
        image: Normalized training image, (1, 3, 256, 256).
        augmented: The same image with varied color.
        natural: Normalized natural image for the pretraining penalty.
    """
    shape = (1, -1, 1, 1)
    mean, std = networks.mean.view(shape), networks.std.view(shape)
    n = DESCRIPTOR_CHANNELS
    with torch.no_grad():
        teacher = (networks.teacher(image) - mean) / std
    distance = (teacher - networks.student(image)[:, :n]) ** 2
    hard = distance[distance >= torch.quantile(distance, _HARD_QUANTILE)].mean()
    penalty = (networks.student(natural)[:, :n] ** 2).mean()
    predicted = networks.autoencoder(augmented)
    with torch.no_grad():
        teacher = (networks.teacher(augmented) - mean) / std
    imitated = networks.student(augmented)[:, n:]
    autoencoder_loss = ((teacher - predicted) ** 2).mean()
    student_loss = ((predicted - imitated) ** 2).mean()
    loss: Tensor = hard + penalty + autoencoder_loss + student_loss
    return loss


def reference_step(
    networks: Baseline, images: Callable[[], Sequence[Tensor]]
) -> Callable[[], None]:
    """Return a function that takes one training step."""
    optimizer = torch.optim.Adam(
        [*networks.student.parameters(), *networks.autoencoder.parameters()],
        lr=1e-4,
        weight_decay=1e-5,
    )

    def step() -> None:
        loss = reference_loss(networks, *images())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step
