"""Train this project's detector and write its maps, as `anomalib_worker.py` does.

.venv/bin/python lab/experiments/peers/own_worker.py task.json
"""

import json
import resource
import statistics
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

import efficientad
from efficientad.images.rgb import read_image
from efficientad.method.placement import place_map
from efficientad_lab.benchmark.memory import own_peak_mib

SIDE = 256
BATCH = 8
GIB = 2**30


def main() -> None:
    """Train, predict, write."""
    task_path = Path(sys.argv[1])
    task = json.loads(task_path.read_text())
    folder = task_path.parent
    limit = int(task["memory_gib"] * GIB)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    torch.set_num_threads(task["threads"])
    start = time.perf_counter()
    images = Path(task["images"])
    config = efficientad.TrainConfig(
        preset="quick", seed=task["seed"], validation=images / "held_out"
    )
    predictor = efficientad.train(images / "trained", config)
    trained = time.perf_counter()
    maps, scores, seconds = [], [], []
    for path in task["test"]:
        image = read_image(Path(path))
        start_one = time.perf_counter()
        prediction = predictor.predict(image)
        seconds.append(time.perf_counter() - start_one)
        maps.append(place_map(prediction.combined_grid, SIDE, SIDE))
        scores.append(prediction.image_score)
    batches = []
    for _ in range(3):
        start_one = time.perf_counter()
        predictor.predict_batch([image] * BATCH)
        batches.append(BATCH / (time.perf_counter() - start_one))
    assert predictor.detector is not None
    n_numbers = sum(p.numel() for p in predictor.detector.parameters())
    recipe = predictor.provenance["recipe"]
    facts = {
        "train_seconds": trained - start,
        "steps": recipe["steps"] * recipe["batch_size"],  # images, as recorded before
        "batch": recipe["batch_size"],
        "milliseconds": 1000 * statistics.median(seconds),
        "images_per_second": statistics.median(batches),
        "millions_of_numbers": n_numbers / 1e6,
        "peak_memory_mib": own_peak_mib(),
        "versions": {"torch": metadata.version("torch")},
    }
    np.save(folder / "maps.npy", np.stack(maps))
    np.save(folder / "scores.npy", np.array(scores))
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
