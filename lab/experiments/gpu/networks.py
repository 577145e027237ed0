"""Training and inference with everything on the device, replayed as one CUDA graph.

Training is Algorithm 1 with one image a step. Images, random draws, losses and
optimizer stay on the device. Convolutions run in half precision; trained weights stay
in single precision. On a CPU the same code runs step by step, so that tests can compare
it with the plain networks.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from efficientad.images.rgb import INPUT_SIZE
from efficientad.method.detector import FOR_AUTOENCODER, FOR_TEACHER, Detector
from efficientad.method.losses import (
    autoencoder_loss,
    hard_feature_loss,
    pretraining_penalty,
    student_autoencoder_loss,
)
from efficientad.method.placement import placement_matrix
from efficientad.method.sizes import IMAGENET_MEAN, IMAGENET_STD
from efficientad.training.config import PAPER
from efficientad_lab.benchmark.baseline import autoencoder, baseline

_GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in training
_GRAY_SHARE = 0.3  # share of natural images, the paper's
_COLOR_FACTORS = (0.8, 1.2)
_N_WARM_UP = 3


class Replayed:
    """A function without arguments, captured once as a CUDA graph and then replayed.

    Args:
        function: Function that uses the same tensors in each call and never waits for
            the device.
        device: Device of the tensors. On a CPU the function is called.
    """

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        self._function = function
        self._graph: torch.cuda.CUDAGraph | None = None
        self.n_warm_up_calls = 0
        """Number of calls that capturing has made."""
        if device.type != "cuda":
            return
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_N_WARM_UP):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        self.n_warm_up_calls = _N_WARM_UP
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            function()

    def __call__(self) -> None:
        """Run the function once more."""
        if self._graph is None:
            self._function()
        else:
            self._graph.replay()


class Batch(NamedTuple):
    """The images of one step, as float pixels from 0 to 255, (1, 256, 256, 3)."""

    image: Tensor
    natural: Tensor
    augmented: Tensor


class DeviceTraining(nn.Module):
    """Trains student and autoencoder by Algorithm 1, one image a step.

    Args:
        detector: Detector on the device; its student and autoencoder are trained.
        pixels: Training images on the device, (n, 256, 256, 3), uint8.
        natural: Natural images for the penalty, (n, 256, 256, 3), uint8.
        n_steps: Length of the training; the rate falls for the last 5 %.
        is_half: Run the convolutions in bfloat16.
    """

    def __init__(
        self,
        detector: Detector,
        pixels: Tensor,
        natural: Tensor,
        n_steps: int,
        *,
        is_half: bool,
    ) -> None:
        super().__init__()
        self.detector = detector.train()
        self.pixels, self.natural, self.n_steps = pixels, natural, n_steps
        self.is_half = is_half
        device = pixels.device
        # Constants live on the device: nothing is copied there while capturing.
        self.register_buffer("gray_weights", torch.tensor(_GRAY_WEIGHTS, device=device))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN, device=device) * 255)
        self.register_buffer("std", torch.tensor(IMAGENET_STD, device=device) * 255)
        self.loss = torch.zeros((), device=device)
        is_cuda = device.type == "cuda"
        if is_cuda:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        rate = PAPER.learning_rate
        self.rate = torch.tensor(rate, device=device) if is_cuda else rate
        self.optimizer = torch.optim.Adam(
            [*detector.student.parameters(), *detector.autoencoder.parameters()],
            lr=self.rate,
            weight_decay=PAPER.weight_decay,
            fused=True,
            capturable=is_cuda,
        )
        self.n_steps_done = 0
        self._step: Replayed | None = None

    def run(self, n_steps: int) -> None:
        """Continue until `n_steps` are done, without waiting for the device."""
        if self._step is None:
            self._step = Replayed(self.take_step, self.pixels.device)
            self.n_steps_done += self._step.n_warm_up_calls
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
        """Draw images, compute the loss and change the weights; can be captured."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.losses(self.draw())
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.loss.copy_(loss.detach())

    def draw(self) -> Batch:
        """Draw the images of a step by the device's own random numbers."""
        device = self.pixels.device
        image, natural = self._any_of(self.pixels), self._any_of(self.natural)
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
        """Return the sum of the four losses of a step."""
        detector, mean, std = (
            self.detector,
            self.get_buffer("mean"),
            self.get_buffer("std"),
        )
        images = ((torch.cat(batch) - mean) / std).permute(0, 3, 1, 2)
        with torch.autocast(
            images.device.type, torch.bfloat16, self.is_half, cache_enabled=False
        ):
            with torch.no_grad():
                described = detector.teacher(images[::2])
            student = detector.student(images)
            predicted = detector.autoencoder(images[2:]).float()
        shape = (1, -1, 1, 1)
        centred = described.float() - detector.teacher_mean.view(shape)
        teacher = centred / detector.teacher_std.view(shape)
        for_teacher = student[:, FOR_TEACHER].float()
        for_autoencoder = student[:, FOR_AUTOENCODER].float()
        loss: Tensor = (
            hard_feature_loss(teacher[:1], for_teacher[:1], PAPER.p_hard)
            + pretraining_penalty(for_teacher[1:2])
            + autoencoder_loss(teacher[1:], predicted)
            + student_autoencoder_loss(predicted, for_autoencoder[2:])
        )
        return loss


class DeviceMaps(nn.Module):
    """Computes the combined map on the host from pixels on the host, batch by batch.

    The normalizations of images and of the teacher's channels are folded into
    convolutions. Both map normalizations and the mean of the maps are one affine step.

    Args:
        detector: Detector of all channels; copied to the device.
        affine: Factors of the raw local and global map, and the offset, that give the
            combined map.
        n: Images of a batch.
        device: Device to compute on.
        dtype: Type of weights and hidden grids; the maps are in single precision.
    """

    def __init__(
        self,
        detector: Detector,
        affine: tuple[float, float, float],
        n: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self._affine, self.dtype = affine, dtype
        networks = baseline(detector).moved(torch.device("cpu"), torch.float64)
        self.teacher, self.student = networks.teacher, networks.student
        self.autoencoder = autoencoder()
        self.autoencoder.load_state_dict(networks.autoencoder.state_dict())
        _scale_outputs(self.teacher, 1 / networks.std, -networks.mean / networks.std)
        for network in (self.teacher, self.student):
            _take_pixels(network)
        self.eval().requires_grad_(requires_grad=False).to(device, dtype)
        is_cuda = device.type == "cuda"
        if is_cuda:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        size = (n, INPUT_SIZE, INPUT_SIZE)
        self.host_pixels = torch.zeros(*size, 3, dtype=torch.uint8, pin_memory=is_cuda)
        self.host_map = torch.empty(size, pin_memory=is_cuda)
        self._pixels = torch.zeros(*size, 3, dtype=torch.uint8, device=device)
        matrix = torch.from_numpy(placement_matrix(INPUT_SIZE).copy())
        self._placement = matrix.to(device)
        self._mean = torch.tensor(IMAGENET_MEAN, device=device) * 255
        self._std = torch.tensor(IMAGENET_STD, device=device) * 255
        self._run = Replayed(self._compute, device)

    def predict(self) -> Tensor:
        """Return `host_map` of `host_pixels`, complete once the device has finished."""
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
        """Return local and global map on the descriptor grid, in single precision."""
        # A pixel from 0 to 255 is exact in half precision, but its products are large.
        images = (pixels.float() / 255).permute(0, 3, 1, 2).to(self.dtype)
        teacher, student = self.teacher(images), self.student(images)
        whole = ((pixels.float() - self._mean) / self._std).permute(0, 3, 1, 2)
        predicted = self.autoencoder(whole.to(self.dtype))
        for_teacher, for_autoencoder = student.chunk(2, dim=1)
        return (
            (teacher - for_teacher).float().square().mean(1),
            (predicted - for_autoencoder).float().square().mean(1),
        )


def _convolutions(network: nn.Sequential) -> list[nn.Conv2d]:
    return [module for module in network if isinstance(module, nn.Conv2d)]


@torch.no_grad()
def _scale_outputs(network: nn.Sequential, scale: Tensor, shift: Tensor) -> None:
    last = _convolutions(network)[-1]
    assert last.bias is not None
    last.weight.mul_(scale.view(-1, 1, 1, 1))
    last.bias.mul_(scale).add_(shift)


@torch.no_grad()
def _take_pixels(network: nn.Sequential) -> None:
    """Fold the normalization of pixels from 0 to 1 into the first convolution."""
    first = _convolutions(network)[0]
    assert first.bias is not None
    mean, std = (
        torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1)
        for v in (IMAGENET_MEAN, IMAGENET_STD)
    )
    first.weight.div_(std)
    first.bias.sub_((first.weight * mean).sum((1, 2, 3)))
