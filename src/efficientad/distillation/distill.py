"""Distillation of a teacher (paper, section 3.1; supplement, Algorithm 3).

The patch description network learns to predict, from 33 x 33 pixels alone, the features
of a deep source network there, normalized per channel over many images. What so small a
patch does not tell, it averages out. The share that it predicts on images it has never
seen is the held-out explained variance.
"""

import json
import logging
import os
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from efficientad.distillation.config import DistillConfig, recipe_of
from efficientad.distillation.data import DistillationData
from efficientad.distillation.run import Distillation, ExplainedVariance
from efficientad.distillation.source_networks import find_source_network
from efficientad.engines.pytorch import choose_device
from efficientad.errors import ConfigError
from efficientad.model_files import container as tensor_file
from efficientad.model_files.json_text import from_json, to_json
from efficientad.model_files.teachers import save_teacher
from efficientad.natural_images.pictures import open_images
from efficientad.settings import checks_arguments
from efficientad.storage import require_writable, write_atomically
from efficientad.training.checkpoint import CheckpointFile, unfinished
from efficientad.training.loop import (
    Interrupts,
    immediate_interrupts,
    require_finite,
    take_steps,
)

logger = logging.getLogger(__name__)


@checks_arguments
def distill(
    images: Path | str | Sequence[Path | str],
    config: DistillConfig,
    *,
    output: Path | str,
    provenance: dict[str, Any] | None = None,
    interrupts: Interrupts = immediate_interrupts,
) -> ExplainedVariance:
    """Distil a teacher and write it to a file.

    A checkpoint (`.checkpoint`), a log (`.jsonl`, one line for each measurement) and
    the snapshots of the config are written beside the output. Resuming a finished
    distillation changes nothing.

    Args:
        images: Folders or uncompressed tars of natural images.
        config: Settings.
        output: Teacher file to write.
        provenance: More facts for the file, such as licences and hardware.
        interrupts: Context manager around the steps. When the function it returns is
            true after a step, a checkpoint is written and KeyboardInterrupt raised.
            Default: Ctrl-C acts at once.

    Returns:
        The explained variance on held-out images at the end.

    Raises:
        DatasetError: If there are too few images.
        ImageError: If more than one in a hundred cannot be read.
        ModelFileError: If source network, first teacher or checkpoint cannot be used,
            or the checkpoint is of another run.
        ConfigError: If settings exclude each other, an argument has another type, or
            the provenance is not JSON-like.
        TrainingError: If the loss is not finite; the last checkpoint stays.
        StorageError: If a result cannot be written.
    """
    output = Path(output)
    facts = from_json(to_json(provenance or {}))
    checkpoint = output.with_name(f"{output.name}.checkpoint")
    snapshots = _snapshots(config, output)
    device = choose_device(config.device)
    _require_other_file(output, "source network", find_source_network(config.source))
    if config.start_from is not None:
        _require_other_file(output, "first teacher", config.start_from)
    require_writable(output)
    has_checkpoint = checkpoint.exists()
    if config.resume and not has_checkpoint:
        logger.info("no checkpoint at %s: this begins anew", checkpoint)
    if has_checkpoint and not config.resume:
        _require_finished(checkpoint, output)
    own = CheckpointFile(checkpoint)
    run = Distillation(config, DistillationData(open_images(images), config, device))
    if config.resume and has_checkpoint:
        run.restore(checkpoint)
    if run.is_finished and run.has_made(output):
        logger.info("%s is finished, and stays as it is", output)
    else:
        if not run.is_finished:
            _take_steps(run, own, snapshots, facts, interrupts)
        save_teacher(run.teacher(), run.provenance() | facts, output)
    assert run.measured is not None
    return run.measured


def _snapshots(config: DistillConfig, output: Path) -> dict[int, Path]:
    """Return the files of the snapshots by the steps after which they are written."""
    steps = recipe_of(config).steps
    paths = {
        max(1, round(s * steps)): output.with_stem(f"{output.stem}_at_{100 * s:g}")
        for s in config.snapshots
    }
    if len(paths) < len(config.snapshots):
        raise ConfigError(
            f"snapshots must be taken after different steps, {config.snapshots} of "
            f"{steps} are not; leave some out"
        )
    return paths


def _require_other_file(output: Path, name: str, path: Path) -> None:
    if os.path.realpath(path) == os.path.realpath(output):
        raise ConfigError(f"{output} is the {name}'s own file; choose another output")


def _require_finished(checkpoint: Path, output: Path) -> None:
    """Refuse to overwrite the checkpoint of an unfinished run."""
    _, content = tensor_file.read(checkpoint, "checkpoint")
    # A teacher is written after its last checkpoint.
    if (
        not content.get("is_finished")
        or not output.exists()
        or checkpoint.stat().st_mtime_ns > output.stat().st_mtime_ns
    ):
        raise unfinished(checkpoint)


def _take_steps(
    run: Distillation,
    own: CheckpointFile,
    snapshots: dict[int, Path],
    facts: dict[str, Any],
    interrupts: Interrupts,
) -> None:
    started = time.monotonic()
    run.data.get_ready()
    if run.n_steps_done == 0:
        run.load_start()
    run.preparation_seconds = time.monotonic() - started
    checkpoint = own.path
    log_file = checkpoint.with_suffix(".jsonl")
    minutes = run.config.minutes

    def remedy() -> str:
        rest = f"; the last checkpoint, {checkpoint}, stays" * checkpoint.exists()
        return f"start again with a lower --learning-rate and another --output{rest}"

    def after_step(loss: float, must_save: bool) -> None:  # noqa: FBT001
        number = run.n_steps_done
        run.losses.append(loss)
        is_due = run.is_finished or number % run.config.checkpoint_every == 0
        if is_due or number in snapshots:
            explained = run.measure().overall
            require_finite(explained, number, remedy)
            logger.info("step %d: held-out explained variance %.4f", number, explained)
            lines = (f"{json.dumps(line, allow_nan=False)}\n" for line in run.log)
            write_atomically(log_file, "".join(lines).encode())
        if number in snapshots:
            save_teacher(run.teacher(), run.provenance() | facts, snapshots[number])
        if is_due or must_save:
            own.write(run.save)

    count = run.recipe.steps, "step"
    if minutes is not None:
        count = max(1, round(60 * minutes)), "second"
    with closing(run):
        take_steps(run, count, after_step, interrupts, remedy)
