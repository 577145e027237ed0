"""Student and autoencoder on normal images (paper, section 3; supplement, Algorithm 1).

`train` is the whole way from images to a calibrated detector. It is deterministic:
every draw of a step follows from the seed and the step's number, so an interrupted and
resumed training ends with the same weights, to the bit on a CPU.
"""

import logging
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch

from efficientad import __version__
from efficientad.calibration.composition import learn_composition
from efficientad.calibration.fit import fit_calibration
from efficientad.calibration.normal_images import NormalImages, training_and_validation
from efficientad.calibration.rule_files import rule_of
from efficientad.datasets import Category
from efficientad.engines.pytorch import choose_device
from efficientad.images.rgb import ImageLike
from efficientad.inspection.opening import detector_engine, require_detector_name, save
from efficientad.inspection.predictor import Predictor
from efficientad.inspection.tiling import (
    WHOLE,
    AspectError,
    input_size_for,
    whole_views,
)
from efficientad.kernels.winograd import FAST
from efficientad.method.detector import Detector
from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork
from efficientad.method.sizes import DESCRIPTOR_CHANNELS
from efficientad.model_files.teachers import Teacher, open_teacher
from efficientad.model_files.tensors import as_arrays
from efficientad.natural_images.pictures import (
    PretrainingImages,
    open_pretraining_images,
)
from efficientad.settings import checks_arguments
from efficientad.storage import require_writable
from efficientad.training.checkpoint import (
    CheckpointFile,
    open_checkpoint,
    read_indices,
    read_progress,
    require_like,
    save_checkpoint,
    unfinished,
    whole_checkpoint,
)
from efficientad.training.config import PAPER, Preset, Recipe, TrainConfig
from efficientad.training.loop import Interrupts, immediate_interrupts, take_steps
from efficientad.training.optimizers import learning_rate, make_optimizer, set_rate
from efficientad.training.paper_step import PaperStep
from efficientad.training.principal_axes import along_axes, images_for_axes
from efficientad.training.provenance import finished_detector, provenance_of
from efficientad.training.quick import QUICK, QuickRecipe, QuickStep
from efficientad.training.step import Material, Step

RECIPES: Final[dict[Preset, Recipe]] = {"paper": PAPER, "quick": QUICK}
_CHECKPOINT_SECONDS = 30.0
_REMEDY = "look for broken images, or try another seed"

logger = logging.getLogger(__name__)

OnStep = Callable[[int, Detector], None]
"""Gets the number of optimizer steps taken and the detector as it is then."""


def recipe_of(config: TrainConfig, device: torch.device) -> Recipe:
    """Return the numbers of the preset, with what the config sets itself."""
    preset = config.preset or ("quick" if device.type == "cpu" else "paper")
    given = {
        name: value
        for name in ("steps", "batch_size", "local_channels", "global_channels")
        if (value := getattr(config, name)) is not None
    }
    return replace(RECIPES[preset], **given)


@checks_arguments
def train(
    images: Path | str | Category | Sequence[ImageLike],
    config: TrainConfig | None = None,
    *,
    output: Path | str | None = None,
    recipe: Recipe | None = None,
    on_step: OnStep | None = None,
    interrupts: Interrupts = immediate_interrupts,
) -> Predictor:
    """Train and calibrate a detector on normal images.

    Args:
        images: Folder of normal images, category folder in MVTec AD's layout (then
            `train/good`, and `validation/good` where it exists), an opened category, or
            the images; arrays are RGB (`as_rgb` converts others).
        config: Settings. None: the defaults.
        output: Detector file to write (`part.ead`). While training, a checkpoint stands
            beside it, from which `config.resume` goes on. A finished detector of the
            same images and settings stays as it is.
        recipe: Numbers that no setting reaches, for ablations. None: those of the
            preset, with what the config sets itself.
        on_step: Function that is called before the first step and after each one. It
            must leave the networks and the random numbers of PyTorch as they are.
        interrupts: Context manager around the steps. When the function it returns is
            true after a step, the training writes a checkpoint and raises
            KeyboardInterrupt. Default: Ctrl-C acts at once, and the last checkpoint is
            up to half a minute old.

    Returns:
        The calibrated predictor; `predictor.detector` has the networks.

    Raises:
        ConfigError: If an argument has another type, or the output another ending.
        DatasetError, ImageError: If the images cannot be used.
        ModelFileError: If teacher or checkpoint cannot be used, or the checkpoint is of
            another run.
        TrainingError: If the loss is not finite.
        StorageError: If a file cannot be written.
    """
    config = config or TrainConfig()
    device = choose_device(config.device)
    target = Path(output) if output is not None else None
    checkpoint = None
    if target is not None:
        require_detector_name(target)
        require_writable(target)
        checkpoint = CheckpointFile(target.with_name(target.name + ".checkpoint"))
    has_checkpoint = checkpoint is not None and checkpoint.path.exists()
    if checkpoint is not None and has_checkpoint and not config.resume:
        raise unfinished(checkpoint.path)
    teacher = open_teacher(config.size, config.teacher)
    recipe = recipe or recipe_of(config, device)
    quick = recipe if isinstance(recipe, QuickRecipe) else None
    training, validation = images_for_training(
        images, config, unasked=quick is not None
    )
    rule = rule_of(config.rule, [*training.sizes, *validation.sizes])
    pretraining_images = (
        open_pretraining_images(config.pretraining_images)
        if config.has_pretraining_penalty
        else None
    )
    provenance = provenance_of(
        config, recipe, teacher, training, validation, pretraining_images
    )
    if config.resume and target is not None and not has_checkpoint:
        finished = finished_detector(target, config, provenance, rule, training)
        if finished is not None:
            return finished
    run = _Training(config, recipe, device, teacher, training, pretraining_images)
    if checkpoint is not None and has_checkpoint:
        run.restore(checkpoint.path)
    run.to_the_end(checkpoint, on_step, interrupts)
    detector = run.finished_detector()
    engine = detector_engine(detector)
    measured = None
    if quick and quick.has_composition:
        composition, measured = learn_composition(
            engine, training.pixels, seed=config.seed
        )
        if composition is not None:
            detector.set_composition(composition)
            engine = detector_engine(detector)
    calibration = fit_calibration(
        engine,
        validation.pixels,
        false_alarm_budget=config.false_alarm_budget,
        divides_by_level=quick is not None and quick.divides_by_level,
        training=measured,
        names=validation.names,
        rule=rule,
        alignment=training.preparation.alignment,
    )
    calibration = replace(calibration, unsure_budget=config.unsure_budget)
    predictor = Predictor(
        engine=engine,
        calibration=calibration,
        provenance=run.environment() | provenance,
        size=detector.size,
        preparation=training.preparation,
        weights=as_arrays(detector.state_dict()),
    )
    if target is not None:
        save(predictor, target)
        if checkpoint is not None:
            checkpoint.remove()
    return predictor


def images_for_training(
    images: Path | str | Category | Sequence[ImageLike],
    config: TrainConfig,
    *,
    unasked: bool,
) -> tuple[NormalImages, NormalImages]:
    """Return the training images and the held-out ones.

    Args:
        images: As for `train`.
        config: Settings of the training.
        unasked: Whether they may be in tiles or aligned where no setting says so.
    """
    otherwise: Literal["never"] | None = None if unasked else "never"
    tile = config.tile or otherwise
    read = partial(
        training_and_validation,
        images,
        validation=config.validation,
        validation_share=config.validation_share,
        seed=config.seed,
        align=config.align or otherwise,
        levels=config.levels,
    )
    try:
        return read(size=partial(input_size_for, tile=tile, scale=config.scale))
    except AspectError:
        if tile is not None:
            raise
        logger.info("no tiles after all: not all images are narrow")
        return read()


class _Training:
    """The networks being trained, with everything that resuming needs."""

    def __init__(
        self,
        config: TrainConfig,
        recipe: Recipe,
        device: torch.device,
        teacher: Teacher,
        training: NormalImages,
        pretraining_images: PretrainingImages | None,
    ) -> None:
        self.config = config
        self.recipe = recipe
        self.training = training
        self.teacher_hash = teacher.file_hash
        self.pretraining_images = pretraining_images
        self.n_steps_done = 0
        self.seconds = 0.0
        network = teacher.network.to(device).eval().requires_grad_(requires_grad=False)
        network.operations = FAST
        self.material = Material(
            network,
            whole_views(training.pixels),
            pretraining_images,
            device,
            training.pixels if training.size != WHOLE else None,
        )
        self.step: Step
        if isinstance(recipe, QuickRecipe):
            self.step = QuickStep(self.material, recipe)
        else:
            self.step = PaperStep(self.material, recipe)
        torch.manual_seed(config.seed)
        student = PatchDescriptionNetwork(
            config.size, 2 * DESCRIPTOR_CHANNELS, operations=FAST
        )
        autoencoder = Autoencoder(operations=FAST)
        self.step.start(student)
        self.detector = Detector(
            network, student, autoencoder, self.step.statistics
        ).to(device)
        learned = [*student.parameters(), *autoencoder.parameters()]
        self.optimizer = make_optimizer(
            recipe.optimizer,
            [parameter for parameter in learned if parameter.requires_grad],
            weight_decay=recipe.weight_decay,
        )

    def to_the_end(
        self,
        checkpoint: CheckpointFile | None,
        on_step: OnStep | None,
        interrupts: Interrupts,
    ) -> None:
        """Take all remaining steps, with a checkpoint every half minute."""
        last_saved = time.monotonic()

        def after_step(_loss: float, must_save: bool) -> None:  # noqa: FBT001
            nonlocal last_saved
            if on_step is not None:
                on_step(self.n_steps_done, self.detector)
            is_due = time.monotonic() - last_saved > _CHECKPOINT_SECONDS
            if checkpoint is not None and (is_due or must_save):
                checkpoint.write(self.save)
                last_saved = time.monotonic()

        if on_step is not None:
            on_step(self.n_steps_done, self.detector)
        count = self.recipe.steps, "step"
        take_steps(self, count, after_step, interrupts, lambda: _REMEDY)

    @property
    def progress(self) -> float:
        """Share of the steps that are taken."""
        return self.n_steps_done / self.recipe.steps

    def take_step(self) -> float:
        """Take one optimizer step and return the total loss."""
        number, recipe = self.n_steps_done, self.recipe
        rng = np.random.default_rng((self.config.seed, number))
        torch.manual_seed(int(rng.integers(2**63)))
        rate = learning_rate(self.progress, recipe.learning_rate, recipe.rate_schedule)
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.step.losses(self.detector, rng).total()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.n_steps_done += 1
        return float(loss.detach())

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """Settings that a checkpoint must agree on."""
        return {
            "size": self.config.size,
            "seed": self.config.seed,
            "recipe": asdict(self.recipe),
            "teacher": self.teacher_hash,
            "training_images": self.training.hashes,
            "input_size": list(self.training.size),
            "is_aligned": self.training.preparation.alignment is not None,
            "pretraining_images": self.pretraining_images
            and self.pretraining_images.fingerprint(),
        }

    @property
    def _unreadable(self) -> set[int]:
        """Pretraining images that were found damaged so far."""
        images = self.pretraining_images
        return set() if images is None else images.unreadable

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        states = {
            "student": self.detector.student.state_dict(),
            "autoencoder": self.detector.autoencoder.state_dict(),
        }
        content = {
            "settings": self._settings,
            "steps": self.n_steps_done,
            "seconds": self.seconds,
            "unreadable": sorted(self._unreadable),
        }
        save_checkpoint(path, states, self.optimizer, content)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ModelFileError: If it is unusable, or of other settings or images.
        """
        identity = {"settings": self._settings}
        states, content = open_checkpoint(path, identity, self.optimizer)
        with whole_checkpoint(path):
            for name in ("student", "autoencoder"):
                network: torch.nn.Module = getattr(self.detector, name)
                require_like(states[name], network.state_dict())
                network.load_state_dict(states[name])
            n_steps = self.recipe.steps
            self.n_steps_done, self.seconds = read_progress(content, n_steps)
            self._unreadable.update(read_indices(content, "unreadable"))

    def finished_detector(self) -> Detector:
        """Return the trained detector, in evaluation mode and without gradients."""
        detector = self.detector.eval().requires_grad_(requires_grad=False)
        n_channels = self.recipe.local_channels, self.recipe.global_channels
        if n_channels == (DESCRIPTOR_CHANNELS, DESCRIPTOR_CHANNELS):
            return detector
        # Deviation: the paper sums over all 384 channels.
        kinds = images_for_axes(self.material, self.config.seed)
        return along_axes(detector, kinds, *n_channels)

    def environment(self) -> dict[str, Any]:
        """Return versions, device and time of the training."""
        return {
            "efficientad": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": str(self.detector.device),
            "training_seconds": round(self.seconds, 1),
            "made_on": datetime.now(UTC).date().isoformat(),
            "n_unreadable_pretraining_images": len(self._unreadable),
        }
