"""Anomalib's AU-PRO on maps of `metrics_speed.py`; runs in the peers' environment."""

import json
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from anomalib.metrics.aupro import _AUPRO
from peak_memory import peak_mib


def main() -> None:
    """Time update and compute; the maps are read before the clock starts."""
    folder, n_images, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    shape = (n_images, size, size)
    maps = torch.from_numpy(np.fromfile(folder / "maps", np.float32).reshape(shape))
    masks = torch.from_numpy(np.fromfile(folder / "masks", np.bool_).reshape(shape))
    start = time.perf_counter()
    metric = _AUPRO(fpr_limit=0.3)
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metric.update(anomaly_map[None], mask[None].int())
    value = float(metric.compute())
    measured = {
        "au_pro": value,
        "seconds": round(time.perf_counter() - start, 2),
        "peak_memory_mib": round(peak_mib()),
        "version": metadata.version("anomalib"),
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
