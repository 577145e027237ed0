"""A teacher out of a deep source network (paper, section 3.1; supplement, Algorithm 3).

The patch description network learns to predict, from 33 x 33 pixels alone, what a deep
network says about the image there. Its targets are source features, normalized per
channel over many images. What it cannot know from so small a patch it averages out; the
share it does predict on images it has never seen is the held-out explained variance.
"""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from efficientad.distillation.config import DistillConfig, DistillRecipe
from efficientad.distillation.files import DistillationFiles
from efficientad.distillation.material import Material
from efficientad.distillation.run import (
    DIGITS,
    Distillation,
    ExplainedVariance,
    recipe_of,
)
from efficientad.distillation.source_networks import find_source_network
from efficientad.errors import ConfigError, TrainingError
from efficientad.model_files.teachers import save_teacher
from efficientad.natural_images.pictures import open_images
from efficientad.storage import require_writable
from efficientad.training.devices import choose_device
from efficientad.training.interruption import held_back_interrupt
from efficientad.training.prefetch import Prefetcher
from efficientad.training.progress import Progress, tell


def distill(
    images: Path | str | Sequence[Path | str],
    config: DistillConfig,
    *,
    output: Path | str,
    provenance: dict[str, Any] | None = None,
) -> ExplainedVariance:
    """Distil a teacher and write it to a file.

    Beside the output stand a checkpoint (`.checkpoint`), a log (`.jsonl`, one line per
    measurement), and the snapshots that were asked for. To resume what is finished
    changes nothing.

    Args:
        images: Folders or uncompressed tars of natural images.
        config: Settings.
        output: The teacher file to write.
        provenance: More facts for the file, such as licences and hardware.

    Returns:
        The explained variance on held-out images at the end.

    Raises:
        DatasetError: If there are too few images.
        ImageError: If more than one in a hundred cannot be read.
        ModelFileError: If the source network or checkpoint cannot be used.
        ConfigError: If settings exclude each other.
        TrainingError: If the loss is not finite; checkpoints are kept.
        StorageError: If a result cannot be written.
    """
    recipe = recipe_of(config)
    snapshots = _snapshot_steps(config, recipe)
    device = choose_device(config.device)
    output = Path(output)
    if find_source_network(config.source).resolve() == output.resolve():
        raise ConfigError(
            f"{output} is the source network's own file; choose another output"
        )
    require_writable(output)
    files = DistillationFiles(output)
    files.require_decision(is_to_go_on=config.resume)
    material = Material(open_images(images), config, device)
    run = Distillation(config, recipe, material)
    if config.resume and files.checkpoint.exists():
        run.restore(files.checkpoint)
        if run.n_steps_done >= recipe.steps and run.has_made(output):
            files.tell_missing(snapshots)
            tell(f"{output} is finished, and stays as it is")
            return _measured_at_the_end(run, files)
    started = time.monotonic()
    material.get_ready()
    run.preparation_seconds = time.monotonic() - started
    with closing(Progress(recipe.steps, "step", n_done=run.n_steps_done)) as progress:
        files.cut_log(run.n_steps_done)
        sitting = _Sitting(run, progress, files, snapshots, provenance or {})
        measured = sitting.to_the_end()
    save_teacher(run.teacher(), run.facts(measured) | (provenance or {}), output)
    return measured


def _measured_at_the_end(
    run: Distillation, files: DistillationFiles
) -> ExplainedVariance:
    """Give what the log of a run says of its last step; measure where it is gone."""
    last = files.last_line()
    if last.get("step") == run.n_steps_done:
        per_channel = tuple(last["explained_variance_per_channel"])
        return ExplainedVariance(last["explained_variance"], per_channel)
    run.material.get_ready()
    return run.explained_variance()


def _snapshot_steps(config: DistillConfig, recipe: DistillRecipe) -> dict[int, float]:
    """Give the share whose teacher is kept after each of these steps."""
    shares = {max(1, round(s * recipe.steps)): s for s in config.snapshots}
    if len(shares) < len(config.snapshots):
        raise ConfigError(
            f"snapshots must be taken after different steps, {config.snapshots} of "
            f"{recipe.steps} are not; leave some out"
        )
    return shares


class _Sitting:
    """The steps from where a distillation stands to its end, or to Ctrl-C."""

    def __init__(
        self,
        run: Distillation,
        progress: Progress,
        files: DistillationFiles,
        snapshot_at: Mapping[int, float],
        provenance: dict[str, Any],
    ) -> None:
        self.run, self.progress, self.files = run, progress, files
        self.snapshot_at, self.provenance = snapshot_at, provenance
        self.data = Prefetcher(run.prepare, run.n_steps_done, run.recipe.steps)
        self.seconds_before, self.started = run.seconds, time.monotonic()
        self.waited_before = run.seconds_waited
        files.tell_missing(
            {n: s for n, s in snapshot_at.items() if n <= run.n_steps_done}
        )
        self.measured: ExplainedVariance | None = None

    def to_the_end(self) -> ExplainedVariance:
        """Take all steps; Ctrl-C ends the step at work and writes a checkpoint."""
        run, every = self.run, self.run.config.checkpoint_every
        with held_back_interrupt() as was_interrupted, closing(self.data):
            while run.n_steps_done < run.recipe.steps:
                self._step()
                number = run.n_steps_done
                is_due = number == run.recipe.steps or number % every == 0
                if is_due or number in self.snapshot_at:
                    self._measure()
                if number in self.snapshot_at:
                    self._keep_snapshot(self.snapshot_at[number])
                if is_due or was_interrupted():
                    run.save(self.files.checkpoint)
                if was_interrupted():
                    raise KeyboardInterrupt
        return self.measured or _measured_at_the_end(run, self.files)

    def _step(self) -> None:
        loss = self.run.step(self.data.take())
        self._require_finite(loss)
        self.run.losses.append(loss)
        self.run.seconds_waited = self.waited_before + self.data.seconds_waited
        self.run.seconds = self.seconds_before + time.monotonic() - self.started
        self.progress.update(self.run.n_steps_done, loss=loss)

    def _measure(self) -> None:
        run = self.run
        self.measured = run.explained_variance()
        self._require_finite(self.measured.overall)
        per_channel = [round(value, DIGITS) for value in self.measured.per_channel]
        self.files.log(
            {
                "step": run.n_steps_done,
                "loss": float(np.mean(run.losses)),
                "explained_variance": self.measured.overall,
                "explained_variance_quartiles": self.measured.quartiles(),
                "explained_variance_per_channel": per_channel,
                "seconds": round(run.seconds, 1),
                "seconds_waited_for_data": round(run.seconds_waited, 3),
            }
        )
        run.losses.clear()
        self.progress.note(
            f"step {run.n_steps_done}: held-out explained variance "
            f"{self.measured.overall:.4f}"
        )

    def _keep_snapshot(self, share: float) -> None:
        assert self.measured is not None
        facts = self.run.facts(self.measured) | self.provenance
        save_teacher(self.run.teacher(), facts, self.files.snapshot(share))

    def _require_finite(self, value: float) -> None:
        if not math.isfinite(value):
            checkpoint = self.files.checkpoint
            kept = f"; the last checkpoint, {checkpoint}, is kept" * checkpoint.exists()
            raise TrainingError(
                f"the loss is not finite at step {self.run.n_steps_done}; start again "
                f"with a lower --learning-rate and another --output{kept}"
            )
