"""Muon: orthogonal steps for matrices, Adam's for vectors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from efficientad.training.checkpoint import open_checkpoint, save_checkpoint
from efficientad.training.optimizers import (
    Muon,
    make_optimizer,
    orthogonalized,
    set_rate,
)


def test_singular_values_come_near_one_and_directions_stay() -> None:
    torch.manual_seed(0)
    left = torch.linalg.qr(torch.randn(24, 24)).Q
    right = torch.linalg.qr(torch.randn(80, 24)).Q
    matrix = left @ torch.diag(torch.logspace(0, -1.5, 24)) @ right.T

    result = orthogonalized(matrix)

    in_its_directions = left.T @ result @ right
    singular = in_its_directions.diagonal()
    assert singular.min() > 0.6
    assert singular.max() < 1.3
    off_diagonal = in_its_directions - torch.diag(singular)
    assert off_diagonal.abs().max() < 1e-4


def test_small_matrix_iteration_equals_newton_and_schulz_as_written() -> None:
    torch.manual_seed(1)
    matrix = torch.randn(16, 100)
    x = matrix.double() / matrix.double().norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x

    torch.testing.assert_close(orthogonalized(matrix).double(), x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (64, 2, 2, 2)])
def test_a_step_changes_a_kernel_by_its_rate(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(shape))
    before = kernel.detach().clone()
    optimizer = Muon([kernel])
    set_rate(optimizer, 0.1)
    kernel.grad = 1000 * torch.randn(shape)

    optimizer.step()

    change = (kernel.detach() - before).flatten(1)
    tall = max(1.0, change.shape[0] / change.shape[1]) ** 0.5
    singular = torch.linalg.svdvals(change) / tall
    assert singular.min() > 0.06
    assert singular.max() < 0.13


def test_a_wide_layer_changes_like_two_layers_side_by_side() -> None:
    torch.manual_seed(0)
    whole = nn.Parameter(torch.zeros(768, 6))
    halves = [nn.Parameter(torch.zeros(384, 6)) for _ in range(2)]
    whole.grad = torch.randn(768, 6) * torch.linspace(1, 100, 768)[:, None]
    for half, grad in zip(halves, whole.grad.split(384), strict=True):
        half.grad = grad.clone()

    for optimizer in (Muon([whole]), Muon(halves)):
        set_rate(optimizer, 0.1)
        optimizer.step()

    assert whole.detach().abs().sum() > 0
    assert torch.equal(whole.detach(), torch.cat([h.detach() for h in halves]))


def test_vectors_take_the_steps_of_adam() -> None:
    ours = nn.Parameter(torch.linspace(-1, 1, 5))
    theirs = nn.Parameter(ours.detach().clone())
    muon = Muon([ours])
    adam = torch.optim.Adam([theirs], lr=0.015)  # a smaller rate than for matrices
    set_rate(muon, 0.1)
    for step in range(4):
        for parameter, optimizer in ((ours, muon), (theirs, adam)):
            parameter.grad = torch.sin(parameter.detach() * (step + 1))
            optimizer.step()

    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_a_restored_optimizer_goes_on_to_the_bit(name: str, tmp_path: Path) -> None:
    def run(n_steps: int, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for step in range(n_steps):
            rng = np.random.default_rng(step)
            inputs = torch.from_numpy(rng.normal(size=(2, 3, 6, 6))).float()
            set_rate(optimizer, 0.01)
            optimizer.zero_grad()
            network(inputs).square().mean().backward()
            optimizer.step()

    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = nn.Conv2d(3, 4, 3)
        return network, make_optimizer(name, network.parameters(), weight_decay=1e-3)  # type: ignore[arg-type]

    network, optimizer = made()
    run(3, network, optimizer)
    resumed, other = made()
    resumed.load_state_dict(network.state_dict())
    save_checkpoint(tmp_path / "checkpoint", {}, optimizer, {})
    open_checkpoint(tmp_path / "checkpoint", {}, other)
    run(2, network, optimizer)
    run(2, resumed, other)

    for a, b in zip(network.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
