"""The network of a distillation, its steps and its checkpoints.

Every draw of a step follows from the seed and the step's number, so an interrupted and
resumed distillation ends with the same weights, to the bit on a CPU.

Deviations: the `quick` preset trains on random windows with batch normalization, which
is folded away at the end; with a feature cache, the grayscale draw is taken once for
each image; see docs/teachers.md.
"""

import sys
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from efficientad.distillation.batch_norm import NormalizedNetwork, unfold
from efficientad.distillation.config import DistillConfig, recipe_of
from efficientad.distillation.data import DistillationData, Prepared, prefetched
from efficientad.errors import ModelFileError
from efficientad.kernels.winograd import FAST
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.model_files.teachers import open_teacher, stored_weights
from efficientad.training.checkpoint import (
    open_checkpoint,
    read_indices,
    read_progress,
    require_like,
    save_checkpoint,
    whole_checkpoint,
)
from efficientad.training.optimizers import learning_rate, make_optimizer, set_rate

_DIGITS = 4  # of the explained variance of single channels, where it is written
_HELD_OUT_WINDOW_CELLS = 24
_UNFOLDING_BATCHES = 8
# Settings that may change between start and resume. So may the folder of the feature
# cache, but not whether there is one: it changes the grayscale draws.
_FREE_SETTINGS = ("resume", "device", "checkpoint_every", "feature_cache", "start_from")


@dataclass(frozen=True)
class ExplainedVariance:
    """Share of the targets' variance that the network predicts on held-out images.

    It is 1 for a perfect prediction and below 0 where the mean would predict better.
    """

    overall: float
    per_channel: tuple[float, ...]

    def quartiles(self) -> list[float]:
        """Return minimum, quartiles and maximum of the channels, rounded."""
        found = np.quantile(self.per_channel, (0, 0.25, 0.5, 0.75, 1))
        return [round(value, _DIGITS) for value in found.tolist()]


class Distillation:
    """The network being trained, with everything that resuming needs.

    Losses are those of the steps since the last measurement. The log has all
    measurements; the last one is not rounded in `measured`.
    """

    def __init__(self, config: DistillConfig, data: DistillationData) -> None:
        self.config, self.data = config, data
        self.recipe = recipe = recipe_of(config)
        torch.manual_seed(config.seed)
        build = NormalizedNetwork if recipe.has_batch_norm else PatchDescriptionNetwork
        self.network = build(config.size, operations=FAST).to(data.device)
        if data.device.type == "cuda":
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(
            recipe.optimizer,
            self.network.parameters(),
            weight_decay=recipe.weight_decay,
        )
        self.window_cells = recipe.window_cells and min(
            recipe.window_cells, data.n_inner_cells
        )
        path = config.start_from
        self.start = None if path is None else open_teacher(config.size, path)
        self.n_steps_done = 0
        self.losses: list[float] = []
        self.log: list[dict[str, Any]] = []
        self.measured: ExplainedVariance | None = None
        self.seconds = self.seconds_waited = self.preparation_seconds = 0.0

    @property
    def progress(self) -> float:
        """Share of the steps or, with a time limit, of the time that is over."""
        if self.config.minutes is not None:
            return self.seconds / (60 * self.config.minutes)
        return self.n_steps_done / self.recipe.steps

    @property
    def is_finished(self) -> bool:
        """Whether all steps are taken, or the time is over."""
        return self.progress >= 1

    def settings(self) -> dict[str, Any]:
        """Return the settings that a checkpoint must agree on."""
        settings = {
            name: value
            for name, value in asdict(self.config).items()
            if name not in _FREE_SETTINGS and value is not None
        }
        settings |= asdict(self.recipe)
        settings["source"] = Path(self.config.source).name
        settings["has_feature_cache"] = self.config.feature_cache is not None
        settings["start_from"] = self.start and self.start.file_hash
        return settings

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return {
            "settings": self.settings(),
            "source": self.data.source_hash,
            "images": self.data.images.fingerprint(),
        }

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        states = {"network": self.network.state_dict(), "data": self.data.state()}
        content = self._identity | {
            "steps": self.n_steps_done,
            "is_finished": self.is_finished,
            "losses": self.losses,
            "log": self.log,
            "measured": self.measured and asdict(self.measured),
            "seconds": self.seconds,
            "seconds_waited": self.seconds_waited,
            "unreadable": sorted(self.data.images.unreadable),
        }
        save_checkpoint(path, states, self.optimizer, content)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint of this run, or raise `ModelFileError`."""
        states, content = open_checkpoint(path, self._identity, self.optimizer)
        # The number of steps in a limited time is not known.
        n_steps = self.recipe.steps if self.config.minutes is None else sys.maxsize
        with whole_checkpoint(path):
            require_like(states["network"], self.network.state_dict())
            self.network.load_state_dict(states["network"])
            self.data.restore(states["data"])
            self.n_steps_done, self.seconds = read_progress(content, n_steps)
            self.losses = list(map(float, content["losses"]))
            self.log = [dict(line) for line in content["log"]]
            self.seconds_waited = float(content["seconds_waited"])
            self.data.images.unreadable.update(read_indices(content, "unreadable"))
            if content["measured"] is not None:
                entry = content["measured"]
                overall, per_channel = (entry[k] for k in ("overall", "per_channel"))
                self.measured = ExplainedVariance(
                    overall, tuple(map(float, per_channel))
                )

    def load_start(self) -> None:
        """Take over the weights of the teacher to start from."""
        if self.start is None:
            return
        if not isinstance(self.network, NormalizedNetwork):
            self.network.load_state_dict(self.start.network.state_dict())
            return
        batches = (self._prepare(3, i) for i in range(_UNFOLDING_BATCHES))
        inputs = (self.data.finish(batch)[0] for batch in batches)
        unfold(self.network, self.start.network, inputs)

    def has_made(self, path: Path) -> bool:
        """Return whether a file holds the teacher of this run."""
        try:
            teacher = open_teacher(self.config.size, path)
        except ModelFileError:  # not there, damaged, or of another kind
            return False
        own, stored = stored_weights(self.teacher()), stored_weights(teacher.network)
        return all(torch.equal(own[name], value) for name, value in stored.items())

    @cached_property
    def _batches(self) -> Generator[Prepared, None, None]:
        # The number of steps in a limited time is not known.
        end = self.recipe.steps if self.config.minutes is None else sys.maxsize
        return prefetched(partial(self._prepare, 1), range(self.n_steps_done, end))

    def close(self) -> None:
        """End the prefetch of images."""
        self._batches.close()

    def _prepare(self, purpose: int, number: int) -> Prepared:
        rng = np.random.default_rng((self.config.seed, purpose, number))
        rows, n = self.data.rows, self.recipe.batch_size
        drawn = rng.choice(len(rows), n, replace=len(rows) < n) + rows.start
        return self.data.prepare(drawn.tolist(), rng, self.window_cells)

    def take_step(self) -> float:
        """Take one optimizer step and return the loss."""
        recipe, is_first = self.recipe, "_batches" not in vars(self)
        started = time.perf_counter()
        prepared = next(self._batches)
        if not is_first:  # which no earlier step could prefetch
            self.seconds_waited += time.perf_counter() - started
        inputs, targets = self.data.finish(prepared)
        rate = learning_rate(self.progress, recipe.learning_rate, recipe.rate_schedule)
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
    def measure(self) -> ExplainedVariance:
        """Measure the explained variance on a fixed window of each held-out image.

        The result is appended to the log, with the mean loss since the one before.
        """
        self.network.eval()
        error = total = square = torch.zeros((), dtype=torch.float64)
        n = 0
        for inputs, targets in self._held_out_windows:
            exact = targets.double()
            residual = self.network(inputs).double() - exact
            error = error + residual.square().sum((0, 2, 3)).cpu()
            total = total + exact.sum((0, 2, 3)).cpu()
            square = square + exact.square().sum((0, 2, 3)).cpu()
            n += targets[:, 0].numel()
        # Normalized targets are of order one, so nothing cancels in double precision.
        scatter = square - total.square() / n
        # A constant channel has no variance to explain.
        per_channel = torch.where(scatter > 0, 1 - error / scatter, 0.0)
        overall = float(1 - error.sum() / scatter.sum())
        self.measured = ExplainedVariance(overall, tuple(per_channel.tolist()))
        rounded = [round(value, _DIGITS) for value in self.measured.per_channel]
        self.log.append(
            {
                "step": self.n_steps_done,
                "loss": float(np.mean(self.losses)) if self.losses else None,
                "explained_variance": overall,
                "explained_variance_quartiles": self.measured.quartiles(),
                "explained_variance_per_channel": rounded,
                "seconds": round(self.seconds, 1),
                "seconds_waited_for_data": round(self.seconds_waited, 3),
            }
        )
        self.losses.clear()
        return self.measured

    @cached_property
    def _held_out_windows(self) -> list[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng((self.config.seed, 2))
        n_cells = min(_HELD_OUT_WINDOW_CELLS, self.data.n_inner_cells)
        return [
            self.data.finish(self.data.prepare([row], rng, n_cells))
            for row in self.data.held_out_rows
        ]

    def teacher(self) -> PatchDescriptionNetwork:
        """Return the teacher with its batch normalization folded."""
        network = self.network.eval()
        return network.folded() if isinstance(network, NormalizedNetwork) else network

    def provenance(self) -> dict[str, Any]:
        """Return where the teacher comes from."""
        assert self.measured is not None
        facts = {
            "settings": self.settings(),
            "source_hash": self.data.source_hash,
            "source_architecture": self.data.features.source_network.architecture,
            "images": self.data.images.description(),
            "n_images": len(self.data.numbers),
            "n_unreadable_images": len(self.data.images.unreadable),
            "n_steps": self.n_steps_done,
            "explained_variance": self.measured.overall,
            "explained_variance_quartiles": self.measured.quartiles(),
            "hours": self.seconds / 3600,
            "preparation_hours": self.preparation_seconds / 3600,
        }
        if self.start is not None:
            names = "n_steps", "hours", "explained_variance", "start"
            earlier = self.start.provenance
            facts["start"] = {name: earlier[name] for name in names if name in earlier}
        return facts
