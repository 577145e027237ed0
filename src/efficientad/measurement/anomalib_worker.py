"""Judges images by anomalib's EfficientAd; runs in an environment that has anomalib.

`anomalib_peer.py` starts it and says how, in JSON: size, device, number of threads,
file of the weights. The first answer are the versions of what runs here, in JSON.
Then come numbers of images, 8 bytes, each followed by as many images, 256 x 256 x 3
bytes. The answer are combined maps of 256 x 256, and local and global maps of 56 x 56
before anomalib enlarges them, all in 32 bits.

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
    """Anomalib's own model, with the weights of a file."""
    size = torch_model.EfficientAdModelSize(settings["size"])
    model = torch_model.EfficientAdModel(model_size=size)
    with np.load(settings["weights"]) as weights:
        model.load_state_dict({k: torch.from_numpy(weights[k]) for k in weights.files})
    return model.eval().requires_grad_(requires_grad=False).to(settings["device"])


def keep_raw_maps() -> list[Tensor]:
    """Let the raw maps be kept where the model pads them, which costs it nothing."""
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
    """Judge what is given until there is no more."""
    kept = keep_raw_maps()
    while header := given.read(8):
        (n_images,) = struct.unpack("<Q", header)
        pixels = np.frombuffer(given.read(n_images * N_BYTES), np.uint8)
        images = torch.from_numpy(pixels.reshape(n_images, SIDE, SIDE, 3).copy())
        kept.clear()
        # As anomalib reads a picture: RGB between 0 and 1.
        batch = images.to(device).permute(0, 3, 1, 2).float() / 255
        combined = model(batch).anomaly_map
        maps = (combined, *kept)
        answers.writelines(tensor.cpu().numpy().tobytes() for tensor in maps)
        answers.flush()


def main() -> None:
    """Open the model, say so, and judge."""
    settings = json.loads(sys.argv[1])
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    torch.set_num_threads(int(settings["threads"]))
    model = opened(settings)
    versions = {name: metadata.version(name) for name in ("anomalib", "torch")}
    answers.write(f"{json.dumps(versions)}\n".encode())
    answers.flush()
    with torch.inference_mode():
        serve(model, settings["device"], sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
