"""Distillation of a teacher (paper, section 3.1; supplement, Algorithm 3).

The patch description network learns to predict, from 33 x 33 pixels alone, the features
of a deep source network there, normalized per channel over many images. What so small a
patch does not tell, it averages out. The share that it predicts on images it has never
seen is the held-out explained variance.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from efficientad.distillation.config import DistillConfig, recipe_of
from efficientad.distillation.data import DistillationData
from efficientad.distillation.files import DistillationFiles
from efficientad.distillation.run import Distillation, ExplainedVariance
from efficientad.distillation.source_networks import find_source_network
from efficientad.errors import ConfigError
from efficientad.model_files.teachers import save_teacher
from efficientad.natural_images.pictures import open_images
from efficientad.storage import require_writable
from efficientad.training.devices import choose_device
from efficientad.training.interruption import Interrupts, immediate_interrupts
from efficientad.training.loop import require_finite, take_steps

logger = logging.getLogger(__name__)


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
        ModelFileError: If source network, first teacher or checkpoint cannot be used.
        ConfigError: If settings exclude each other.
        TrainingError: If the loss is not finite; the last checkpoint stays.
        StorageError: If a result cannot be written.
    """
    output = Path(output)
    snapshots = _snapshot_steps(config)
    device = choose_device(config.device)
    _require_other_file(output, "source network", find_source_network(config.source))
    if config.start_from is not None:
        _require_other_file(output, "first teacher", config.start_from)
    require_writable(output)
    files = DistillationFiles(output)
    files.require_decision(resume=config.resume)
    run = Distillation(config, DistillationData(open_images(images), config, device))
    if config.resume and files.checkpoint.exists():
        run.restore(files.checkpoint)
    files.report_missing(snapshots, run.n_steps_done)
    if run.is_finished and run.has_made(output):
        logger.info("%s is finished, and stays as it is", output)
    else:
        if not run.is_finished:
            _prepare(run, files)
            _take_steps(run, files, snapshots, provenance or {}, interrupts)
        save_teacher(run.teacher(), run.provenance() | (provenance or {}), output)
    assert run.measured is not None
    return run.measured


def _require_other_file(output: Path, name: str, path: Path) -> None:
    if path.resolve() == output.resolve():
        raise ConfigError(f"{output} is the {name}'s own file; choose another output")


def _snapshot_steps(config: DistillConfig) -> dict[int, float]:
    """Return the shares by the step after which their snapshot is taken."""
    steps = recipe_of(config).steps
    shares = {max(1, round(s * steps)): s for s in config.snapshots}
    if len(shares) < len(config.snapshots):
        raise ConfigError(
            f"snapshots must be taken after different steps, {config.snapshots} of "
            f"{steps} are not; leave some out"
        )
    return shares


def _prepare(run: Distillation, files: DistillationFiles) -> None:
    """Do what the steps need."""
    started = time.monotonic()
    run.data.get_ready()
    if run.n_steps_done == 0:
        run.load_start()
    run.preparation_seconds = time.monotonic() - started
    files.cut_log(run.n_steps_done)


def _take_steps(
    run: Distillation,
    files: DistillationFiles,
    snapshots: Mapping[int, float],
    provenance: dict[str, Any],
    interrupts: Interrupts,
) -> None:
    """Take all remaining steps, with checkpoints and measurements."""
    every, minutes = run.config.checkpoint_every, run.config.minutes

    def remedy() -> str:
        checkpoint = files.checkpoint
        kept = f"; the last checkpoint, {checkpoint}, is kept" * checkpoint.exists()
        return f"start again with a lower --learning-rate and another --output{kept}"

    def after_step(loss: float, must_save: bool) -> None:  # noqa: FBT001
        number = run.n_steps_done
        run.losses.append(loss)
        is_due = run.is_finished or number % every == 0
        if is_due or number in snapshots:
            explained = run.measure().overall
            require_finite(explained, number, remedy)
            files.log(run.log_line())
            run.losses.clear()
            logger.info("step %d: held-out explained variance %.4f", number, explained)
        if number in snapshots:
            path = files.snapshot(snapshots[number])
            save_teacher(run.teacher(), run.provenance() | provenance, path)
        if is_due or must_save:
            run.save(files.checkpoint)

    count = run.recipe.steps, "step"
    if minutes is not None:
        count = max(1, round(60 * minutes)), "second"
    with closing(run):
        take_steps(run, count, after_step, interrupts, remedy)
