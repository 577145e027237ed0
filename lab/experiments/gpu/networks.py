"""The detector on an accelerator: everything on the device, replayed as one graph.

Training is Algorithm 1 at one image a step. Images, random draws, losses and optimizer
stay on the device, so the host does nothing but replay. Convolutions run in half
precision; the weights that are trained stay in single precision.

On a CPU the same code runs step by step, so that tests can compare it with the plain
networks.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from efficientad.images.rgb import INPUT_SIZE
from efficientad.inspection.predictor import Predictor
from efficientad.method.decision import Calibration
from efficientad.method.detector import FOR_AUTOENCODER, FOR_TEACHER, Detector
from efficientad.method.inputs import IMAGENET_MEAN, IMAGENET_STD
from efficientad.method.losses import (
    autoencoder_loss,
    hard_feature_loss,
    pretraining_penalty,
    student_autoencoder_loss,
)
from efficientad.method.maps import HIGH_TARGET, LOW_TARGET
from efficientad.method.networks import Autoencoder
from efficientad.method.placement import placement_matrix
from efficientad.training.config import PAPER, Recipe

_GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in training
_GRAY_SHARE = 0.3  # of natural images, the paper's
_COLOR_FACTORS = (0.8, 1.2)
_N_WARM_UP = 3


class Replayed:
    """A function without arguments, captured once as a CUDA graph and then replayed.

    Args:
        function: Works on the same tensors each time, and never waits for the device.
        device: On a CPU, the function is just called.
    """

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        self._function = function
        self._graph: torch.cuda.CUDAGraph | None = None
        self.n_calls_before = 0
        """How often capturing has called the function already."""
        if device.type != "cuda":
            return
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_N_WARM_UP):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        self.n_calls_before = _N_WARM_UP
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            function()

    def __call__(self) -> None:
        """Do it once more."""
        if self._graph is None:
            self._function()
        else:
            self._graph.replay()


class Batch(NamedTuple):
    """What one step looks at, as pixels from 0 to 255, float."""

    image: Tensor
    natural: Tensor
    augmented: Tensor


class DeviceTraining(nn.Module):
    """Student and autoencoder by Algorithm 1, one image a step.

    Args:
        detector: On the device; its student and autoencoder are trained.
        pixels: Training images on the device, (n, 256, 256, 3), uint8.
        natural: Crops of natural images for the penalty, likewise.
        n_steps: Of the whole training; the rate falls for the last 5 %.
        is_half: Run the convolutions in bfloat16.
        recipe: The paper's numbers.
    """

    def __init__(
        self,
        detector: Detector,
        pixels: Tensor,
        natural: Tensor,
        n_steps: int,
        *,
        is_half: bool,
        recipe: Recipe = PAPER,
    ) -> None:
        super().__init__()
        self.detector = detector.train()
        self.pixels, self.natural, self.n_steps = pixels, natural, n_steps
        self.is_half, self.recipe = is_half, recipe
        device = pixels.device
        # Constants live on the device: nothing is copied there while capturing.
        self.register_buffer("gray_weights", torch.tensor(_GRAY_WEIGHTS, device=device))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN, device=device) * 255)
        self.register_buffer("std", torch.tensor(IMAGENET_STD, device=device) * 255)
        self.loss = torch.zeros((), device=device)
        is_cuda = device.type == "cuda"
        if is_cuda:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        rate = recipe.learning_rate
        self.rate = torch.tensor(rate, device=device) if is_cuda else rate
        self.optimizer = torch.optim.Adam(
            [*detector.student.parameters(), *detector.autoencoder.parameters()],
            lr=self.rate,
            weight_decay=recipe.weight_decay,
            fused=True,
            capturable=is_cuda,
        )
        self.n_steps_done = 0
        self._step: Replayed | None = None

    def run(self, n_steps: int) -> None:
        """Go on until so many steps are taken; nothing waits for the device."""
        if self._step is None:
            self._step = Replayed(self.take_step, self.pixels.device)
            self.n_steps_done += self._step.n_calls_before
        drop_at = math.floor(0.95 * self.n_steps)
        while self.n_steps_done < n_steps:
            if self.n_steps_done == drop_at:
                self._drop_rate()
            self._step()
            self.n_steps_done += 1

    def _drop_rate(self) -> None:
        if isinstance(self.rate, Tensor):
            self.rate.mul_(0.1)
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = 0.1 * self.rate

    def take_step(self) -> None:
        """Draw, compare, and change the weights; all of it can be captured."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.losses(self.draw())
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.loss.copy_(loss.detach())

    def draw(self) -> Batch:
        """Draw the images of a step from the device's own random numbers."""
        device = self.pixels.device
        image = self._any_of(self.pixels)
        natural = self._any_of(self.natural)
        is_gray = torch.rand(1, device=device) < _GRAY_SHARE
        natural = torch.where(is_gray, self._gray(natural).round(), natural)
        kind = torch.randint(3, (1,), device=device)
        factor = torch.empty(1, device=device).uniform_(*_COLOR_FACTORS)
        return Batch(image, natural, self.varied(image, kind, factor))

    def _any_of(self, images: Tensor) -> Tensor:
        index = torch.randint(len(images), (1,), device=images.device)
        return images.index_select(0, index).float()

    def _gray(self, image: Tensor) -> Tensor:
        weights = self.get_buffer("gray_weights")
        return (image * weights).sum(-1, keepdim=True).expand_as(image)

    def varied(self, image: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
        """Change brightness (kind 0), contrast (1) or saturation (2) by a factor."""
        gray = self._gray(image)
        anchor = torch.where(kind == 1, gray.mean(), gray)
        anchor = torch.where(kind == 0, 0.0, anchor)
        return torch.lerp(anchor, image, factor).clamp(0, 255).round()

    def losses(self, batch: Batch) -> Tensor:
        """Give the sum of the four losses, as `PaperStep` has them."""
        detector, mean, std = (
            self.detector,
            self.get_buffer("mean"),
            self.get_buffer("std"),
        )
        pixels = torch.cat(batch)
        images = ((pixels - mean) / std).permute(0, 3, 1, 2)
        with torch.autocast(
            images.device.type, torch.bfloat16, self.is_half, cache_enabled=False
        ):
            with torch.no_grad():
                described = detector.teacher(images[::2])
            student = detector.student(images)
            blurred = detector.autoencoder(images[2:]).float()
        shape = (1, -1, 1, 1)
        centred = described.float() - detector.teacher_mean.view(shape)
        teacher = centred / detector.teacher_std.view(shape)
        for_teacher = student[:, FOR_TEACHER].float()
        for_autoencoder = student[:, FOR_AUTOENCODER].float()
        loss: Tensor = (
            hard_feature_loss(teacher[:1], for_teacher[:1], self.recipe.p_hard)
            + pretraining_penalty(for_teacher[1:2])
            + autoencoder_loss(teacher[1:], blurred)
            + student_autoencoder_loss(blurred, for_autoencoder[2:])
        )
        return loss


class DeviceMaps(nn.Module):
    """From pixels on the host to the combined map on the host, batch by batch.

    Normalization of images and of the teacher's channels is folded into convolutions,
    both map normalizations and the mean of the maps are one affine step, and only the
    combined map is drawn on the 256 x 256 pixels.

    Args:
        predictor: Trained model; its networks are copied to the device.
        n: Images a batch.
        device: Where to compute.
        dtype: Of weights and hidden grids; the maps are single precision.
    """

    def __init__(
        self, predictor: Predictor, n: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        detector = predictor.detector
        assert detector is not None
        self._affine = _affine(predictor.calibration)
        self.dtype = dtype
        mean, std = detector.teacher_mean.double(), detector.teacher_std.double()
        teacher = _convolutions(detector.teacher)
        _scale_outputs(teacher[-1], 1 / std, -mean / std)
        student = _convolutions(detector.student)
        for convolutions in (teacher, student):
            _take_pixels(convolutions[0])
        self.teacher = _patch_network(teacher, detector.size)
        self.student = _patch_network(student, detector.size)
        self.autoencoder = Autoencoder()
        self.autoencoder.load_state_dict(detector.autoencoder.state_dict())
        self.eval().requires_grad_(requires_grad=False).to(device, dtype)
        if device.type == "cuda":
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        is_pinned = device.type == "cuda"
        size = (n, INPUT_SIZE, INPUT_SIZE)
        self.host_pixels = torch.zeros(
            *size, 3, dtype=torch.uint8, pin_memory=is_pinned
        )
        self.host_map = torch.empty(size, pin_memory=is_pinned)
        self._pixels = torch.zeros(*size, 3, dtype=torch.uint8, device=device)
        matrix = torch.from_numpy(placement_matrix(INPUT_SIZE).copy())
        self._placement = matrix.to(device)
        self._mean = torch.tensor(IMAGENET_MEAN, device=device) * 255
        self._std = torch.tensor(IMAGENET_STD, device=device) * 255
        self._run = Replayed(self._compute, device)

    def predict(self) -> Tensor:
        """Return `host_map` of `host_pixels`, complete once the device is done."""
        with torch.inference_mode():
            self._run()
        return self.host_map

    @torch.no_grad()
    def _compute(self) -> None:
        self._pixels.copy_(self.host_pixels, non_blocking=True)
        local_map, global_map = self.raw_maps(self._pixels)
        of_local, of_global, offset = self._affine
        combined = of_local * local_map + of_global * global_map + offset
        placed = self._placement @ combined @ self._placement.T
        self.host_map.copy_(placed, non_blocking=True)

    @torch.no_grad()
    def raw_maps(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Local and global map on the descriptor grid, single precision."""
        # A pixel's 0 to 255 is exact in half precision, but its products are large.
        images = (pixels.float() / 255).permute(0, 3, 1, 2).to(self.dtype)
        teacher, student = self.teacher(images), self.student(images)
        whole = ((pixels.float() - self._mean) / self._std).permute(0, 3, 1, 2)
        blurred = self.autoencoder(whole.to(self.dtype))
        for_teacher, for_autoencoder = student.chunk(2, dim=1)
        return (
            (teacher - for_teacher).float().square().mean(1),
            (blurred - for_autoencoder).float().square().mean(1),
        )


def _affine(calibration: Calibration) -> tuple[float, float, float]:
    """Factors of both raw maps, and what is added, to give the combined map."""
    factors, offset = [], 0.0
    for scale in (calibration.scales["local"], calibration.scales["global"]):
        # Detectors measured here are the paper's; levels would be one more step.
        assert scale.levels is None
        factor = (HIGH_TARGET - LOW_TARGET) / (scale.high - scale.low) / 2
        factors.append(factor)
        offset += LOW_TARGET / 2 - scale.low * factor
    return factors[0], factors[1], offset


def _convolutions(network: nn.Module) -> list[nn.Conv2d]:
    """Copies in double precision, in order."""
    copies = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            channels = (module.in_channels, module.out_channels)
            copy = nn.Conv2d(*channels, module.kernel_size[0], dtype=torch.float64)
            copy.load_state_dict(module.state_dict())
            copies.append(copy.requires_grad_(requires_grad=False))
    return copies


def _scale_outputs(convolution: nn.Conv2d, scale: Tensor, shift: Tensor) -> None:
    assert convolution.bias is not None
    scale, shift = scale.cpu(), shift.cpu()
    convolution.weight.mul_(scale.view(-1, 1, 1, 1))
    convolution.bias.mul_(scale).add_(shift)


def _take_pixels(convolution: nn.Conv2d) -> None:
    """Make it take pixels from 0 to 1 instead of normalized ones."""
    assert convolution.bias is not None
    mean, std = (
        torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1)
        for v in (IMAGENET_MEAN, IMAGENET_STD)
    )
    convolution.weight.div_(std)
    convolution.bias.sub_((convolution.weight * mean).sum((1, 2, 3)))


def _patch_network(convolutions: list[nn.Conv2d], size: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index, convolution in enumerate(convolutions):
        layers.append(convolution)
        if index < len(convolutions) - 1:
            layers.append(nn.ReLU(inplace=True))
        if index < 2:  # noqa: PLR2004 - both sizes pool after their first two layers
            layers.append(nn.AvgPool2d(2, 2))
    assert size in {"small", "medium"}
    return nn.Sequential(*layers)
