"""The network of a distillation, with all that a step and a checkpoint need.

Every draw of a step follows from the seed and the step's number, so an interrupted and
resumed distillation ends with the same weights, to the bit on a CPU.

Deviations: the `quick` preset trains on random windows with batch normalization, which
is folded away at the end; where features are kept, the grayscale draw is taken once per
image; see docs/teachers.md.
"""

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from efficientad.distillation.config import (
    DISTILL_RECIPES,
    DistillConfig,
    DistillRecipe,
)
from efficientad.distillation.material import Material, Prepared
from efficientad.errors import ModelFileError
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.model_files import container as tensor_file
from efficientad.model_files.teachers import open_teacher
from efficientad.training.optimizers import make_optimizer, set_rate
from efficientad.training.schedule import learning_rate

DIGITS = 4
"""Of the explained variance of single channels, where it is written down."""
_HELD_OUT_WINDOW_CELLS = 24
_RECIPE_SETTINGS = (
    "steps",
    "batch_size",
    "learning_rate",
    "rate_schedule",
    "optimizer",
)
# What a checkpoint need not agree on. Where features are kept is free, whether they are
# is not: the grayscale draws are others then.
_FREE_SETTINGS = ("resume", "device", "checkpoint_every", "feature_cache", "snapshots")


@dataclass(frozen=True)
class ExplainedVariance:
    """Share of the targets' variance that the network predicts on held-out images.

    One where it predicts all; below zero where the mean would predict better.
    """

    overall: float
    per_channel: tuple[float, ...]

    def quartiles(self) -> list[float]:
        """Least, quartiles and most of the channels, rounded to be read."""
        found = np.quantile(self.per_channel, (0, 0.25, 0.5, 0.75, 1))
        return [round(value, DIGITS) for value in found.tolist()]


def recipe_of(config: DistillConfig) -> DistillRecipe:
    """Give the preset's numbers, with what the config sets itself."""
    given = {
        name: getattr(config, name)
        for name in _RECIPE_SETTINGS
        if getattr(config, name) is not None
    }
    return replace(DISTILL_RECIPES[config.preset], **given)


class Distillation:
    """The network being trained, with everything that resuming needs."""

    def __init__(
        self, config: DistillConfig, recipe: DistillRecipe, material: Material
    ) -> None:
        self.config, self.recipe, self.material = config, recipe, material
        torch.manual_seed(config.seed)
        self.network = PatchDescriptionNetwork(
            config.size, has_batch_norm=recipe.has_batch_norm
        ).to(material.device)
        if material.device.type == "cuda":
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(
            recipe.optimizer,
            self.network.parameters(),
            weight_decay=recipe.weight_decay,
        )
        self.window_cells = recipe.window_cells and min(
            recipe.window_cells, material.n_inner_cells
        )
        self._held_out: list[tuple[Tensor, Tensor]] = []
        self.n_steps_done = 0
        self.losses: list[float] = []
        """Of the steps since the last line of the log."""
        self.seconds = self.seconds_waited = 0.0
        self.preparation_seconds = 0.0

    def settings(self) -> dict[str, Any]:
        """Give what a checkpoint must agree on, as JSON knows it."""
        settings = {
            name: value
            for name, value in asdict(self.config).items()
            if name not in _FREE_SETTINGS
        }
        if self.config.stride_in_first_convolution is None:
            del settings["stride_in_first_convolution"]  # as the file says
        settings |= asdict(self.recipe) | {
            "source": Path(self.config.source).name,
            "keeps_features": self.config.feature_cache is not None,
        }
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return {
            "settings": self.settings(),
            "source": self.material.source_hash,
            "images": self.material.images.fingerprint(),
        }

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        named = {
            "network": self.network.state_dict(),
            "material": self.material.state(),
        }
        tensors = {
            f"{part}.{name}": value
            for part, state in named.items()
            for name, value in state.items()
        }
        tensors |= tensor_file.optimizer_tensors(self.optimizer)
        state = {
            "steps": self.n_steps_done,
            "losses": self.losses,
            "seconds": self.seconds,
            "seconds_waited": self.seconds_waited,
            "unreadable": sorted(self.material.images.unreadable),
        }
        tensor_file.write(path, "checkpoint", tensors, self._identity | state)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ModelFileError: If it is unusable, or of other settings, source or images.
        """
        tensors, content = tensor_file.read(path, "checkpoint")
        if any(content.get(k) != v for k, v in self._identity.items()):
            raise ModelFileError(
                f"{path} is a checkpoint of other settings, source network or images; "
                "use those it was made with, or remove it to start anew"
            )
        self.network.load_state_dict(tensor_file.with_prefix(tensors, "network."))
        self.material.restore(tensor_file.with_prefix(tensors, "material."))
        tensor_file.restore_optimizer(self.optimizer, tensors)
        self.n_steps_done = content["steps"]
        self.seconds = content["seconds"]
        self.losses = content.get("losses", [])
        self.seconds_waited = content.get("seconds_waited", 0.0)
        self.material.images.unreadable.update(content.get("unreadable", ()))

    def has_made(self, path: Path) -> bool:
        """Whether a teacher is there, and is the one that this run ends in."""
        try:
            teacher = open_teacher(self.config.size, path)
        except ModelFileError:  # not there, damaged, or of another kind
            return False
        return not teacher.differing(self.teacher())

    def prepare(self, number: int) -> Prepared:
        """Draw and read the images of a step; safe in threads."""
        rng = np.random.default_rng((self.config.seed, 1, number))
        n_rows = len(self.material.rows)
        drawn = rng.choice(
            n_rows, self.recipe.batch_size, replace=n_rows < self.recipe.batch_size
        )
        rows = drawn + self.material.rows.start
        return self.material.prepare(rows.tolist(), rng, self.window_cells)

    def step(self, prepared: Prepared) -> float:
        """Take one optimizer step and give the loss."""
        recipe = self.recipe
        inputs, targets = self.material.finished(prepared, self.window_cells)
        progress = self.n_steps_done / recipe.steps
        rate = learning_rate(progress, recipe.learning_rate, recipe.rate_schedule)
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        self.network.train()
        if inputs.is_cuda:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(
            inputs.device.type, torch.bfloat16, enabled=self.config.mixed_precision
        ):
            descriptors = self.network(inputs, padded=self.window_cells is None)
        loss = functional.mse_loss(descriptors.float(), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.n_steps_done += 1
        return loss.item()

    @torch.no_grad()
    def explained_variance(self) -> ExplainedVariance:
        """Measure on a fixed window of every held-out image."""
        self.network.eval()
        error = total = square = torch.zeros((), dtype=torch.float64)
        n = 0
        for inputs, targets in self._held_out_windows():
            exact = targets.double()
            residual = self.network(inputs).double() - exact
            error = error + residual.square().sum((0, 2, 3)).cpu()
            total = total + exact.sum((0, 2, 3)).cpu()
            square = square + exact.square().sum((0, 2, 3)).cpu()
            n += targets[:, 0].numel()
        # Normalized targets are of order one, so nothing cancels in double precision.
        scatter = square - total.square() / n
        # Of a channel that never changes, nothing is explained.
        per_channel = torch.where(scatter > 0, 1 - error / scatter, 0.0)
        overall = float(1 - error.sum() / scatter.sum())
        return ExplainedVariance(overall, tuple(per_channel.tolist()))

    def _held_out_windows(self) -> list[tuple[Tensor, Tensor]]:
        if not self._held_out:
            rng = np.random.default_rng((self.config.seed, 2))
            n_cells = min(_HELD_OUT_WINDOW_CELLS, self.material.n_inner_cells)
            for row in self.material.held_out_rows:
                prepared = self.material.prepare([row], rng, n_cells)
                self._held_out.append(self.material.finished(prepared, n_cells))
        return self._held_out

    def teacher(self) -> PatchDescriptionNetwork:
        """Give the teacher as it is used: batch normalization folded."""
        network = self.network.eval()
        return network.folded() if self.recipe.has_batch_norm else network

    def facts(self, measured: ExplainedVariance) -> dict[str, Any]:
        """Say how the teacher came to be."""
        return {
            "settings": self.settings(),
            "source_hash": self.material.source_hash,
            "source_architecture": self.material.features.source_network.architecture,
            "images": self.material.images.description(),
            "n_images": len(self.material.numbers),
            "n_unreadable_images": len(self.material.images.unreadable),
            "n_steps": self.n_steps_done,
            "explained_variance": measured.overall,
            "explained_variance_quartiles": measured.quartiles(),
            "hours": self.seconds / 3600,
            "preparation_hours": self.preparation_seconds / 3600,
        }
