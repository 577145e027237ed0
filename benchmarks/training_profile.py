"""Where the time of a training step goes: the reference script's loop body and ours.

    python benchmarks/training_profile.py --output benchmarks/results

Milliseconds an image by kind of operation, as PyTorch's profiler tells them, of the
steps that `training_speed.py` compares; the profiler itself takes some of the time.
What runs outside of PyTorch's operations (drawing and varying images) is not counted.
"""

import argparse
from pathlib import Path
from typing import Final

from records import RESULTS, write_run
from torch.profiler import ProfilerActivity, profile
from training_speed import REFERENCE, ways

from efficientad.kernels.native import keep_freed_memory

# Parts of names of operations; the first that fits counts.
KINDS: Final = {
    "hard feature loss": ("quantile", "topk", "kthvalue", "sort"),
    "optimizer": ("Optimizer.step",),
    "ReLU, pooling, backward": (
        "AvgPool2DBackward",
        "ReluBackward",
        "_ReluPoolBackward",
    ),
    "ReLU, pooling": ("avg_pool2d", "relu", "_ReluPool"),
    "convolutions, backward": ("ConvolutionBackward", "Conv2dBackward"),
    "convolutions": ("conv2d", "_WinogradConv2d"),
}
OTHERS: Final = "all else"
_N_WARM_UP, _N_STEPS = 2, 5


def kind_of(name: str) -> str:
    """Sort an operation."""
    for kind, parts in KINDS.items():
        if any(part in name for part in parts):
            return kind
    return OTHERS


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, help=f"for example {RESULTS}")
    given = parser.parse_args()
    keep_freed_memory()
    found = ways("small")
    for way in (REFERENCE, "paper", "quick"):
        step, n_images = found[way]
        for _ in range(_N_WARM_UP):
            step()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(_N_STEPS):
                step()
        milliseconds = dict.fromkeys([*KINDS, OTHERS], 0.0)
        for event in profiler.events():
            if event.cpu_parent is None:
                of_step = event.cpu_time_total / 1000 / _N_STEPS
                milliseconds[kind_of(event.name)] += of_step / n_images
        for kind, value in milliseconds.items():
            print(f"{way:12} {kind:26} {value:8.1f} ms an image", flush=True)
            if given.output is None:
                continue
            run = {
                "experiment": "training_profile",
                "category": "small",
                "variant": f"{way}: {kind}",
                "seed": 0,
                "settings": {"size": "small", "steps": _N_STEPS},
                "metrics": {"milliseconds": value},
            }
            write_run(run, given.output)


if __name__ == "__main__":
    main()
