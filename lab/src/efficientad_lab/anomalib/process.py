"""A process that runs a model of anomalib, in an environment with anomalib.

`engine.py` starts it with JSON settings: device, number of threads, the pipe for the
answers, and either the file of a detector's weights (`weights`) or a training to do
(`training`). The pipe keeps the answers apart from what libraries print. The first
answer is a line of JSON: versions, the names and sizes of the outputs, and facts of the
training. Each request is the number of images, 8 bytes, followed by the images, 256 x
256 x 3 bytes each. The answer has the outputs one after the other, as 32-bit floats.

Nothing of this project is imported, and its package need not be importable.
"""

import json
import os
import struct
import sys
from collections.abc import Callable
from importlib import metadata
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

SIDE = 256
GRID = 56
N_BYTES = SIDE * SIDE * 3

Outputs = dict[str, list[int]]
"""Size of each output by name: a map's rows and columns, or a vector's length."""
Compute = Callable[[Tensor], tuple[Tensor, ...]]
"""Function from images, (n, 3, 256, 256) between 0 and 1, to the outputs."""


def with_weights(settings: dict[str, Any]) -> tuple[Compute, Outputs]:
    """Return anomalib's EfficientAd with the weights of a file, and its outputs.

    The outputs are the raw maps, which the model enlarges before it combines them.
    """
    from anomalib.models.image.efficient_ad import torch_model  # noqa: PLC0415

    size = torch_model.EfficientAdModelSize(settings["size"])
    model = torch_model.EfficientAdModel(model_size=size)
    with np.load(settings["weights"]) as weights:
        model.load_state_dict({k: torch.from_numpy(weights[k]) for k in weights.files})
    model = model.eval().requires_grad_(requires_grad=False).to(settings["device"])
    found: list[Tensor] = []
    functional = torch_model.F

    def pad(raw_map: Tensor, *margins: tuple[int, ...]) -> Tensor:
        found.append(raw_map)
        padded: Tensor = functional.pad(raw_map, *margins)
        return padded

    # The model pads the raw maps before it enlarges them.
    torch_model.F = SimpleNamespace(**vars(functional) | {"pad": pad})

    def compute(images: Tensor) -> tuple[Tensor, ...]:
        found.clear()
        model(images)
        local_map, global_map = found
        return local_map, global_map

    return compute, {"local": [GRID, GRID], "global": [GRID, GRID]}


def serve(compute: Compute, device: str, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    while header := requests.read(8):
        (n_images,) = struct.unpack("<Q", header)
        pixels = np.frombuffer(requests.read(n_images * N_BYTES), np.uint8)
        images = torch.from_numpy(pixels.reshape(n_images, SIDE, SIDE, 3).copy())
        # The layout of anomalib's loader: RGB between 0 and 1, channels first.
        batch = images.to(device).permute(0, 3, 1, 2).contiguous().float() / 255
        outputs = compute(batch)
        answers.writelines(output.float().cpu().numpy().tobytes() for output in outputs)
        answers.flush()


def main() -> None:
    """Open or train the model, report it, and answer requests."""
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(int(settings["threads"]))
    facts: dict[str, Any] = {}
    if "training" in settings:
        import training  # noqa: PLC0415 - beside this file

        compute, outputs, facts = training.trained(settings["training"])
    else:
        compute, outputs = with_weights(settings)
    versions = {name: metadata.version(name) for name in ("anomalib", "torch")}
    ready = {"versions": versions, "outputs": outputs, **facts}
    with os.fdopen(int(settings["answers"]), "wb") as answers, torch.inference_mode():
        answers.write(f"{json.dumps(ready)}\n".encode())
        answers.flush()
        serve(compute, settings["device"], sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
