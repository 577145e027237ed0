"""A teacher out of a deep source network (paper, section 3.1; supplement, Algorithm 3).

The patch description network learns to predict, from 33 x 33 pixels alone, what a deep
network says about the image there. Its targets are source features, normalized per
channel over many images. What it cannot know from so small a patch it averages out; the
share it does predict on images it has never seen is the held-out explained variance.

Deviations: the `quick` preset trains on random windows with batch normalization, which
is folded away at the end, and takes the grayscale draw once per image; see
docs/teachers.md.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from efficientad.errors import DatasetError, ModelFileError, StorageError, TrainingError
from efficientad.images import INPUT_SIZE, RGBImage, file_hash, resize_image
from efficientad.kernels.native import keep_freed_memory
from efficientad.method.inputs import normalize_images
from efficientad.method.networks import (
    PATCH_SIZE,
    PATCH_STRIDE,
    PatchDescriptionNetwork,
)
from efficientad.storage import require_writable
from efficientad.training import tensor_file
from efficientad.training.config import DISTILL_RECIPES, DistillConfig, DistillRecipe
from efficientad.training.devices import choose_device
from efficientad.training.feature_cache import (
    GRID_SIZE,
    FeatureCache,
    channel_statistics,
)
from efficientad.training.pretraining_images import (
    PretrainingImages,
    open_pretraining_images,
)
from efficientad.training.progress import Progress
from efficientad.training.schedule import learning_rate
from efficientad.training.source_networks import (
    SourceFeatures,
    find_source_network,
    open_source_network,
)
from efficientad.training.teachers import save_teacher

SOURCE_INPUT_SIZE = 512
# Channel statistics are taken over at most so many images (the paper's number).
_STATISTICS_IMAGES = 10_000
# The padded grid's cell j looks at the patch around pixel 4j, the unpadded grid's cell
# i around 4i + 16: the first cells whose patch lies inside the image.
_FIRST_INNER_CELL = (PATCH_SIZE - 1) // 2 // PATCH_STRIDE
_N_INNER_CELLS = (INPUT_SIZE - PATCH_SIZE) // PATCH_STRIDE + 1
_HELD_OUT_WINDOW_CELLS = 24
_PCA_IMAGES = 200

Targets = Float[Tensor, "batch 384 rows columns"]


@dataclass(frozen=True)
class ExplainedVariance:
    """Share of the targets' variance that the network predicts on held-out images."""

    overall: float
    per_channel: tuple[float, ...]


def recipe_of(config: DistillConfig) -> DistillRecipe:
    """Give the preset's numbers, with what the config sets itself."""
    given = {
        name: getattr(config, name)
        for name in ("steps", "batch_size", "learning_rate", "rate_schedule")
        if getattr(config, name) is not None
    }
    return replace(DISTILL_RECIPES[config.preset], **given)


class _Material:
    """Images and normalized source features, whole or in windows."""

    def __init__(
        self,
        images: PretrainingImages,
        config: DistillConfig,
        device: torch.device,
        report: Callable[[str], None],
    ) -> None:
        self.images = images
        self.config = config
        self.device = device
        n = len(images) if config.n_images is None else config.n_images
        if n > len(images) or n <= config.n_held_out:
            raise DatasetError(
                f"needed more than {config.n_held_out} images (n_held_out) and at "
                f"least {n} (n_images), found {len(images)}; give more images"
            )
        order = np.random.default_rng(config.seed).permutation(len(images))
        self.numbers = tuple(int(i) for i in order[:n])
        self.rows = range(config.n_held_out, n)
        self.held_out_rows = range(config.n_held_out)
        network = open_source_network(config.source).eval().to(device)
        self.features = SourceFeatures(network, config.reduction, seed=config.seed)
        self.features.to(device)
        if config.reduction == "pca":
            report("fitting principal components of the source features")
            fitting = self.numbers[-_PCA_IMAGES:]
            self.features.fit(self._source_input([number]) for number in fitting)
        self.cache = self._cache(report)
        self._pixels: dict[int, RGBImage] = {}
        self.mean, self.std = self._statistics()

    def _cache(self, report: Callable[[str], None]) -> np.ndarray | None:
        folder = self.config.feature_cache
        if folder is None:
            return None
        cache = FeatureCache(
            folder, self.numbers, self.features.n_channels, self._fingerprint()
        )
        n, start = len(self.numbers), time.monotonic()
        n_before = cache.n_done()

        def on_progress(n_done: int) -> None:
            if n_done % 100 == 0:
                rate = (n_done - n_before) / (time.monotonic() - start)
                report(
                    f"source features {n_done} of {n}, {rate:.1f} images/s, "
                    f"{(n - n_done) / rate / 60:.0f} min left"
                )

        cache.build(self.features, lambda i: self._source_input([i])[0], on_progress)
        return cache.open()

    def _fingerprint(self) -> str:
        source = file_hash(find_source_network(self.config.source))
        c = self.config
        return (
            f"{source} {c.reduction} {c.seed} {c.grayscale_share} "
            f"{self.images.fingerprint()}"
        )

    def pixels(self, number: int) -> RGBImage:
        """Give the image as both networks see it: 256 x 256, some in gray."""
        if number not in self._pixels:
            image = resize_image(self.images.read(number), INPUT_SIZE, INPUT_SIZE)
            draw = np.random.default_rng((self.config.seed, number)).random()
            if draw < self.config.grayscale_share:
                gray = Image.fromarray(image).convert("L").convert("RGB")
                image = np.asarray(gray)
            self._pixels[number] = image
        return self._pixels[number]

    def inputs(self, numbers: Sequence[int]) -> Tensor:
        pixels = np.stack([self.pixels(number) for number in numbers])
        return normalize_images(torch.from_numpy(pixels).to(self.device))

    def _source_input(self, numbers: Sequence[int]) -> Tensor:
        size = (SOURCE_INPUT_SIZE, SOURCE_INPUT_SIZE)
        return functional.interpolate(self.inputs(numbers), size, mode="bilinear")

    def raw_targets(self, row: int, cells: tuple[slice, slice]) -> Tensor:
        """Give (channels, rows, columns) source features of one image."""
        if self.cache is None:
            features: Tensor = self.features(self._source_input([self.numbers[row]]))
            grid = features[0]
            return grid[:, cells[0], cells[1]]
        window = np.array(self.cache[row, cells[0], cells[1]])
        return torch.from_numpy(window).to(self.device).float().permute(2, 0, 1)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        rows = self.rows[:_STATISTICS_IMAGES]
        if self.cache is not None:
            mean, std = channel_statistics(self.cache, rows)
        else:
            mean, std = channel_statistics(_Computed(self), rows)
        shape = (1, -1, 1, 1)
        to_grid = [torch.from_numpy(v).to(self.device).view(shape) for v in (mean, std)]
        return to_grid[0], to_grid[1].clamp(min=1e-6)

    def draw(
        self, rng: np.random.Generator, n: int, window_cells: int | None
    ) -> tuple[Tensor, Targets]:
        """Give inputs and normalized targets of random training images."""
        rows = [int(row) for row in rng.choice(self.rows, n, replace=False)]
        return self.batch(rows, rng, window_cells)

    def batch(
        self, rows: Sequence[int], rng: np.random.Generator, window_cells: int | None
    ) -> tuple[Tensor, Targets]:
        """Give inputs and normalized targets, whole or in one random window each."""
        images = self.inputs([self.numbers[row] for row in rows])
        if window_cells is None:
            whole = slice(0, GRID_SIZE)
            targets = [self.raw_targets(row, (whole, whole)) for row in rows]
            return images, (torch.stack(targets) - self.mean) / self.std
        inputs, targets = [], []
        side = (window_cells - 1) * PATCH_STRIDE + PATCH_SIZE
        for image, row in zip(images, rows, strict=True):
            i, j = rng.integers(0, _N_INNER_CELLS - window_cells + 1, 2)
            top, left = PATCH_STRIDE * i, PATCH_STRIDE * j
            inputs.append(image[:, top : top + side, left : left + side])
            first = (i + _FIRST_INNER_CELL, j + _FIRST_INNER_CELL)
            cells = (
                slice(first[0], first[0] + window_cells),
                slice(first[1], first[1] + window_cells),
            )
            targets.append(self.raw_targets(row, cells))
        return torch.stack(inputs), (torch.stack(targets) - self.mean) / self.std


class _Computed:
    """Looks like a feature cache to `channel_statistics`, computing what is asked."""

    def __init__(self, material: _Material) -> None:
        self._material = material
        self.shape = (material.features.n_channels,)

    def __getitem__(self, row: int) -> np.ndarray:
        whole = slice(0, GRID_SIZE)
        grid = self._material.raw_targets(row, (whole, whole))
        return grid.permute(1, 2, 0).cpu().numpy()


class _Distillation:
    """The network being trained, with everything that resuming needs."""

    def __init__(
        self, config: DistillConfig, recipe: DistillRecipe, material: _Material
    ) -> None:
        self.config, self.recipe, self.material = config, recipe, material
        torch.manual_seed(config.seed)
        self.network = PatchDescriptionNetwork(
            config.size, has_batch_norm=recipe.has_batch_norm
        ).to(material.device)
        maker = (
            torch.optim.AdamW if recipe.rate_schedule == "cosine" else torch.optim.Adam
        )
        self.optimizer = maker(
            self.network.parameters(), weight_decay=recipe.weight_decay, fused=True
        )
        self.n_steps_done = 0
        self.seconds = 0.0

    def settings(self) -> dict[str, Any]:
        """Give what a checkpoint must agree on."""
        ignored = ("resume", "device", "checkpoint_every", "feature_cache")
        settings = {k: v for k, v in asdict(self.config).items() if k not in ignored}
        return {**settings, **asdict(self.recipe)}

    def save(self, path: Path) -> None:
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= tensor_file.optimizer_tensors(self.optimizer)
        state = {"steps": self.n_steps_done, "seconds": self.seconds}
        content = {"settings": self.settings(), **state}
        tensor_file.write(path, "checkpoint", tensors, content)

    def restore(self, path: Path) -> None:
        tensors, content = tensor_file.read(path, "checkpoint")
        if content.get("settings") != json.loads(json.dumps(self.settings())):
            raise ModelFileError(
                f"{path} is a checkpoint of other settings; use the settings it "
                "was made with, or start without --resume"
            )
        prefix = "network."
        self.network.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k[:8] == prefix}
        )
        tensor_file.restore_optimizer(self.optimizer, tensors)
        self.n_steps_done = content["steps"]
        self.seconds = content["seconds"]

    def step(self) -> float:
        """Take one optimizer step; every draw follows from the seed and its number."""
        recipe, number = self.recipe, self.n_steps_done
        rng = np.random.default_rng((self.config.seed, 1, number))
        inputs, targets = self.material.draw(
            rng, recipe.batch_size, recipe.window_cells
        )
        rate = learning_rate(
            number / recipe.steps, recipe.learning_rate, recipe.rate_schedule
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        self.network.train()
        with torch.autocast(
            inputs.device.type, torch.bfloat16, enabled=self.config.mixed_precision
        ):
            descriptors = self.network(inputs, padded=recipe.window_cells is None)
        loss = functional.mse_loss(descriptors.float(), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.n_steps_done += 1
        return loss.item()

    @torch.no_grad()
    def explained_variance(self) -> ExplainedVariance:
        """Measure on a fixed window of every held-out image."""
        self.network.eval()
        rng = np.random.default_rng((self.config.seed, 2))
        error = torch.zeros((), dtype=torch.float64)
        total = square = torch.zeros((), dtype=torch.float64)
        n = 0
        for row in self.material.held_out_rows:
            inputs, targets = self.material.batch([row], rng, _HELD_OUT_WINDOW_CELLS)
            residual = (self.network(inputs) - targets).double().cpu()
            exact = targets.double().cpu()
            error = error + residual.square().sum((0, 2, 3))
            total, square = (
                total + exact.sum((0, 2, 3)),
                square + exact.square().sum((0, 2, 3)),
            )
            n += targets[0, 0].numel()
        # Normalized targets are of order one, so nothing cancels in double precision.
        scatter = square - total.square() / n
        per_channel = 1 - error / scatter
        overall = float(1 - error.sum() / scatter.sum())
        return ExplainedVariance(overall, tuple(per_channel.tolist()))


def distill(
    images: Path | Sequence[Path],
    config: DistillConfig,
    *,
    output: Path,
    provenance: dict[str, Any] | None = None,
) -> ExplainedVariance:
    """Distil a teacher and write it to a file.

    Beside the output stand, while running, a checkpoint (`.checkpoint`) and a log
    (`.jsonl`, one line per measurement).

    Args:
        images: Folders or uncompressed tars of natural images.
        config: Settings.
        output: The teacher file to write.
        provenance: More facts for the file, such as licences and hardware.

    Returns:
        The explained variance on held-out images at the end.

    Raises:
        DatasetError: If there are too few images.
        ModelFileError: If the source network or checkpoint cannot be used.
        TrainingError: If the loss is not finite; checkpoints are kept.
        StorageError: If a result cannot be written.
    """
    keep_freed_memory()
    recipe = recipe_of(config)
    device = choose_device(config.device)
    require_writable(output)
    pictures = open_pretraining_images(images)
    checkpoint = output.with_name(output.name + ".checkpoint")
    log = output.with_name(output.name + ".jsonl")
    progress = Progress(recipe.steps, "step")
    material = _Material(pictures, config, device, progress.note)
    run = _Distillation(config, recipe, material)
    if config.resume and checkpoint.exists():
        run.restore(checkpoint)
    measured = _run(run, progress, checkpoint, log)
    facts = {
        "settings": run.settings() | {"source": Path(config.source).name},
        "source_hash": file_hash(find_source_network(config.source)),
        "images": pictures.description(),
        "n_images": len(material.numbers),
        "explained_variance": measured.overall,
        "hours": run.seconds / 3600,
        **(provenance or {}),
    }
    network = run.network.eval()
    save_teacher(network.folded() if recipe.has_batch_norm else network, facts, output)
    return measured


def _run(
    run: _Distillation, progress: Progress, checkpoint: Path, log: Path
) -> ExplainedVariance:
    last = time.monotonic()
    losses: list[float] = []
    measured = None
    while run.n_steps_done < run.recipe.steps:
        losses.append(run.step())
        if not np.isfinite(losses[-1]):
            raise TrainingError(
                f"the loss is not finite at step {run.n_steps_done}; lower "
                f"--learning-rate and go on with --resume from {checkpoint}"
            )
        progress.update(run.n_steps_done, loss=losses[-1])
        is_last = run.n_steps_done == run.recipe.steps
        if is_last or run.n_steps_done % run.config.checkpoint_every == 0:
            measured = run.explained_variance()
            now = time.monotonic()
            run.seconds, last = run.seconds + now - last, now
            _log(log, run, float(np.mean(losses)), measured)
            losses.clear()
            progress.note(
                f"step {run.n_steps_done}: held-out explained variance "
                f"{measured.overall:.4f}"
            )
            run.save(checkpoint)
    return measured or run.explained_variance()


def _log(
    path: Path, run: _Distillation, loss: float, measured: ExplainedVariance
) -> None:
    line = {
        "step": run.n_steps_done,
        "loss": loss,
        "explained_variance": measured.overall,
        "explained_variance_quartiles": _quartiles(measured.per_channel),
        "seconds": round(run.seconds, 1),
    }
    try:
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise StorageError(
            f"cannot write {path} ({error.strerror}); free some space and go on with "
            "--resume"
        ) from error


def _quartiles(values: Iterable[float]) -> list[float]:
    return [
        round(float(v), 4) for v in np.quantile(list(values), (0, 0.25, 0.5, 0.75, 1))
    ]
