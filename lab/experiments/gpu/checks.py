"""Does a device compute what the CPU computes? Maps, losses and gradients.

The reference is the plain networks on the CPU, network by network, in double precision.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from efficientad.images.rgb import INPUT_SIZE
from efficientad.method.detector import Detector
from efficientad.method.inputs import normalize_images
from efficientad.method.losses import (
    autoencoder_loss,
    hard_feature_loss,
    pretraining_penalty,
    student_autoencoder_loss,
)
from efficientad.method.networks import DESCRIPTOR_CHANNELS, ModelSize
from efficientad_lab.benchmark.random_detector import calibrated, random_detector
from lab.experiments.gpu.networks import Batch, DeviceMaps, DeviceTraining

# Largest relative difference from double precision, as a norm.
_LIMITS = {"single": 1e-3, "half": 3e-2}
_HALF_STEP_LIMIT = 5e-2  # bfloat16 has eight bits
_SHAPE = (1, -1, 1, 1)


def difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Norm of the difference relative to the norm, over all tensors together."""
    pairs = [
        (f.detach().double().cpu(), w.detach().double().cpu())
        for f, w in zip(found, wanted, strict=True)
    ]
    gap = sum(float((f - w).square().sum()) for f, w in pairs)
    size = sum(float(w.square().sum()) for _, w in pairs)
    return math.sqrt(gap / size)


def exact_loss(detector: Detector, batch: Batch) -> Tensor:
    """Algorithm 1 network by network, in the precision of the detector."""
    mean, std = detector.teacher_mean, detector.teacher_std

    def images(pixels: Tensor) -> Tensor:
        return normalize_images(pixels.byte()).to(mean.dtype)

    def teacher(x: Tensor) -> Tensor:
        with torch.no_grad():
            described: Tensor = detector.teacher(x)
        return (described - mean.view(_SHAPE)) / std.view(_SHAPE)

    image, augmented = images(batch.image), images(batch.augmented)
    half = DESCRIPTOR_CHANNELS
    blurred = detector.autoencoder(augmented)
    return (
        hard_feature_loss(teacher(image), detector.student(image)[:, :half])
        + pretraining_penalty(detector.student(images(batch.natural))[:, :half])
        + autoencoder_loss(teacher(augmented), blurred)
        + student_autoencoder_loss(blurred, detector.student(augmented)[:, half:])
    )


def trained_gradients(detector: Detector, loss: Tensor) -> list[Tensor]:
    """Gradients of all weights that are trained."""
    parameters = [*detector.student.parameters(), *detector.autoencoder.parameters()]
    return list(torch.autograd.grad(loss, parameters))


def check_step(
    size: ModelSize, device: torch.device, reference: torch.dtype
) -> dict[str, float]:
    """Compare loss and gradients of one step with the reference on the CPU."""
    rng = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (3, INPUT_SIZE, INPUT_SIZE, 3), generator=rng)
    exact = random_detector(size).to(reference).requires_grad_().eval()
    batch = Batch(pixels[:1].float(), pixels[1:2].float(), pixels[2:].float())
    loss = exact_loss(exact, batch)
    gradients = trained_gradients(exact, loss)
    found = {}
    for name, is_half in (("single", False), ("half", True)):
        if is_half and device.type == "cpu":
            continue
        detector = random_detector(size).requires_grad_().to(device)
        nothing = torch.zeros(0, INPUT_SIZE, INPUT_SIZE, 3, device=device)
        step = DeviceTraining(detector, nothing, nothing, 1, is_half=is_half)
        detector.eval()  # dropout would draw
        own = step.losses(Batch(*(part.to(device) for part in batch)))
        found[f"step_{name}"] = max(
            difference([own], [loss]),
            difference(trained_gradients(detector, own), gradients),
        )
    return found


def check_maps(
    size: ModelSize, device: torch.device, reference: torch.dtype, n: int = 2
) -> dict[str, float]:
    """Compare both raw maps with the reference on the CPU."""
    rng = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (n, INPUT_SIZE, INPUT_SIZE, 3), generator=rng)
    pixels = pixels.byte()
    exact = random_detector(size).to(reference).eval()
    wanted = exact.raw_maps(normalize_images(pixels).to(reference))
    found = {}
    types = {"single": torch.float32, "half": torch.float16}
    for name, dtype in types.items():
        if dtype == torch.float16 and device.type == "cpu":
            continue
        predictor = calibrated(random_detector(size), "pytorch")
        maps = DeviceMaps(predictor, n, device, dtype)
        found[f"maps_{name}"] = difference(
            maps.raw_maps(pixels.to(device)), list(wanted.values())
        )
    return found


def checked(
    size: ModelSize, device: torch.device, reference: torch.dtype
) -> dict[str, float]:
    """Do both checks without the shortened products that NVIDIA calls TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        of_step = check_step(size, device, reference)
        return of_step | check_maps(size, device, reference)
    finally:
        torch.backends.cudnn.allow_tf32 = before


def is_correct(differences: dict[str, float]) -> bool:
    """Whether each difference is within its limit; NaN never is."""
    limits = {**{f"maps_{k}": v for k, v in _LIMITS.items()}}
    limits |= {"step_single": _LIMITS["single"], "step_half": _HALF_STEP_LIMIT}
    return all(value <= limits[name] for name, value in differences.items())
