"""A process that runs anomalib's EfficientAd, in an environment with anomalib.

`anomalib_peer.py` starts it with JSON settings: size, device, number of threads, file
of the weights, and the pipe for the answers, which keeps them apart from what libraries
print. The first answer is a line of JSON with versions. Each request is the number of
images, 8 bytes, followed by the images, 256 x 256 x 3 bytes each. The answer has the
combined maps of 256 x 256 and the local and global maps of 56 x 56, as 32-bit floats.

Nothing of this project is imported, and its package need not be importable.
"""

import json
import os
import struct
import sys
from importlib import metadata
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np
import torch
from anomalib.models.image.efficient_ad import torch_model
from torch import Tensor

SIDE = 256
N_BYTES = SIDE * SIDE * 3


def opened(settings: dict[str, str]) -> torch_model.EfficientAdModel:
    """Return anomalib's own model with the weights of a file."""
    size = torch_model.EfficientAdModelSize(settings["size"])
    model = torch_model.EfficientAdModel(model_size=size)
    with np.load(settings["weights"]) as weights:
        model.load_state_dict({k: torch.from_numpy(weights[k]) for k in weights.files})
    return model.eval().requires_grad_(requires_grad=False).to(settings["device"])


def keep_raw_maps() -> list[Tensor]:
    """Return a list that gets the raw maps of each call, where the model pads them."""
    kept: list[Tensor] = []
    functional = torch_model.F

    def pad(raw_map: Tensor, *margins: tuple[int, ...]) -> Tensor:
        kept.append(raw_map)
        padded: Tensor = functional.pad(raw_map, *margins)
        return padded

    torch_model.F = SimpleNamespace(**vars(functional) | {"pad": pad})
    return kept


def serve(
    model: torch_model.EfficientAdModel, device: str, given: BinaryIO, answers: BinaryIO
) -> None:
    """Answer requests until there are no more."""
    kept = keep_raw_maps()
    while header := given.read(8):
        (n_images,) = struct.unpack("<Q", header)
        pixels = np.frombuffer(given.read(n_images * N_BYTES), np.uint8)
        images = torch.from_numpy(pixels.reshape(n_images, SIDE, SIDE, 3).copy())
        kept.clear()
        # The layout of anomalib's loader: RGB between 0 and 1, channels first.
        batch = images.to(device).permute(0, 3, 1, 2).contiguous().float() / 255
        combined = model(batch).anomaly_map
        local_map, global_map = kept
        maps = (combined, local_map, global_map)
        answers.writelines(tensor.cpu().numpy().tobytes() for tensor in maps)
        answers.flush()


def main() -> None:
    """Open the model, report it, and answer requests."""
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(int(settings["threads"]))
    model = opened(settings)
    versions = {name: metadata.version(name) for name in ("anomalib", "torch")}
    with os.fdopen(int(settings["answers"]), "wb") as answers, torch.inference_mode():
        answers.write(f"{json.dumps(versions)}\n".encode())
        answers.flush()
        serve(model, settings["device"], sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
