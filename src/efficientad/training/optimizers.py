"""Optimizers and learning rates: the paper's Adam, Muon for few steps."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from efficientad.training.config import OptimizerName, RateSchedule

# Newton and Schulz's quintic, steep at zero, as Muon's author tuned it: after five
# rounds singular values between about 0.003 and 1 have become 0.7 to 1.2.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_N_ROUNDS = 5
_TINY = 1e-7
_MOMENTUM = 0.95  # the share that a step keeps
# Adam's betas for vectors, and its rate as a share of that for matrices.
_BETAS = (0.9, 0.999)
_VECTOR_SHARE = 0.15
# Wider layers are several matrices: a student's last one is two of a teacher's, with
# nothing in common but their input. Also, the iteration costs the cube of the rows.
_MAX_ROWS = 384

# Algorithm 1: a tenth of the rate after 95 % of the steps.
_DROP_AT = 0.95
_DROP_TO = 0.1
# A short rise from zero lets a high rate start on normalized activations.
_WARM_UP = 0.05


def make_optimizer(
    name: OptimizerName, parameters: Iterable[nn.Parameter], *, weight_decay: float
) -> torch.optim.Optimizer:
    """Return an optimizer; its rate is set before each step by `set_rate`."""
    if name == "muon":
        return Muon(parameters, weight_decay=weight_decay)
    return torch.optim.Adam(parameters, weight_decay=weight_decay, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_share", 1.0)


def learning_rate(progress: float, highest: float, schedule: RateSchedule) -> float:
    """Return the learning rate after a share of the training, in [0, 1).

    The schedules are `constant`; `drop` to a tenth of the highest rate for the last
    5 %; `cosine` from a linear warm-up over the first 5 % down to zero.
    """
    if schedule == "drop":
        return highest * (_DROP_TO if progress >= _DROP_AT else 1.0)
    if schedule == "cosine":
        if progress < _WARM_UP:
            return highest * (progress + 0.01) / (_WARM_UP + 0.01)
        rest = (progress - _WARM_UP) / (1 - _WARM_UP)
        return highest * 0.5 * (1 + math.cos(math.pi * rest))
    return highest


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized for each weight matrix (Jordan et al., 2024, "Muon").

    The momentum of a kernel, taken as the matrix (out, in * height * width), is
    replaced by the nearest matrix whose singular values are all about one, so that
    directions with small gradients are learned as fast as those with large ones.
    Vectors (biases, batch normalization) take Adam's steps.

    The rate is the spectral norm of a matrix's change in one step. With more rows than
    columns the norm is larger by the root of their ratio. The weight decay is decoupled
    from it, as in AdamW.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, weight_decay: float = 0.0
    ) -> None:
        given = list(parameters)
        groups = [
            {"params": [p for p in given if p.ndim > 1], "rate_share": 1.0},
            {"params": [p for p in given if p.ndim <= 1], "rate_share": _VECTOR_SHARE},
        ]
        super().__init__(
            [group for group in groups if group["params"]],
            {"lr": 0.0, "weight_decay": weight_decay},
        )

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Change all parameters by their gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                change = _of_matrix if parameter.ndim > 1 else _of_vector
                update = change(parameter.grad, self.state[parameter])
                parameter.add_(update, alpha=-group["lr"])


def _of_matrix(grad: Tensor, state: dict[str, Any]) -> Tensor:
    if not state:
        state["momentum"] = torch.zeros_like(grad)
    momentum: Tensor = state["momentum"].lerp_(grad, 1 - _MOMENTUM)
    # Nesterov's momentum, of the next step.
    following = grad.lerp(momentum, _MOMENTUM).flatten(1)
    blocks = [orthogonalized(block) for block in torch.split(following, _MAX_ROWS)]
    return torch.cat(blocks).reshape(grad.shape)


def orthogonalized(matrix: Tensor) -> Tensor:
    """Return a matrix of the same directions with singular values near one.

    Those of a tall matrix are near the root of its rows divided by its columns.

    Newton and Schulz's iteration x <- (a + b x x' + c (x x')^2) x. All of it but the
    last product happens on the small matrix x x', which commutes with its polynomials.
    """
    n_rows, n_columns = matrix.shape
    if n_rows > n_columns:
        return orthogonalized(matrix.T).T.mul((n_rows / n_columns) ** 0.5)
    x = matrix / (matrix.norm() + _TINY)
    gram = x @ x.T
    polynomial = product = _quintic_over_x(gram)
    for _ in range(_N_ROUNDS - 1):
        gram = polynomial @ gram @ polynomial
        polynomial = _quintic_over_x(gram)
        product = polynomial @ product
    result: Tensor = product @ x
    return result


def _quintic_over_x(gram: Tensor) -> Tensor:
    a, b, c = _QUINTIC
    polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    polynomial.diagonal().add_(a)
    return polynomial


def _of_vector(grad: Tensor, state: dict[str, Any]) -> Tensor:
    if not state:
        state["step"] = torch.zeros(())
        state["mean"] = torch.zeros_like(grad)
        state["square"] = torch.zeros_like(grad)
    state["step"] += 1
    first, second = _BETAS
    mean: Tensor = state["mean"].lerp_(grad, 1 - first)
    square: Tensor = state["square"].lerp_(grad.square(), 1 - second)
    n = float(state["step"])
    deviation = (square / (1 - second**n)).sqrt().add_(1e-8)
    update: Tensor = (mean / (1 - first**n)).div_(deviation)
    return update
