"""Training with everything on the device, replayed as one CUDA graph.

It is Algorithm 1 with one image a step. Images, random draws, losses and
optimizer stay on the device. Convolutions run in half precision; trained weights stay
in single precision. On a CPU the same code runs step by step, so that tests can compare
it with the plain networks.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from efficientad.method.detector import FOR_AUTOENCODER, FOR_TEACHER, Detector
from efficientad.method.losses import (
    autoencoder_loss,
    hard_feature_loss,
    pretraining_penalty,
    student_autoencoder_loss,
)
from efficientad.method.sizes import IMAGENET_MEAN, IMAGENET_STD
from efficientad.training.config import PAPER

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
