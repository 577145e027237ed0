"""Judges images by anomalib's EfficientAd; runs in an environment that has anomalib.

`anomalib_peer.py` starts it and says how, in JSON: size, device, number of threads,
file of the weights, and the pipe for the answers, so that nothing a library prints gets
between them. The first answer is the versions of what runs here, in JSON. Then come
numbers of images, 8 bytes, each followed by as many images, 256 x 256 x 3 bytes.
Answers are combined maps of 256 x 256, and the local and global maps of 56 x 56 that
anomalib enlarges, all in 32 bits.

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
        # As anomalib's loader gives them: RGB between 0 and 1, channel after channel.
        batch = images.to(device).permute(0, 3, 1, 2).contiguous().float() / 255
        combined = model(batch).anomaly_map
        local_map, global_map = kept
        maps = (combined, local_map, global_map)
        answers.writelines(tensor.cpu().numpy().tobytes() for tensor in maps)
        answers.flush()


def main() -> None:
    """Open the model, say so, and judge."""
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
