"""Golden vectors of deployment: what every engine and language must say.

A detector whose weights follow from a counter, three small images in `deployment/`, and
`deployment/expected.json`: score, p-value, decision and some pixels of the combined
map, computed by the plain networks in double precision. Made by

    python tests/golden/make_deployment.py

which is needed again only when the method itself changes. Weights are not drawn by
PyTorch or by NumPy's distributions, whose numbers may change with their versions.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from efficientad.decisions.decision import Calibration
from efficientad.engines.names import DetectorEngine
from efficientad.images.rgb import INPUT_SIZE, read_image, resize_image
from efficientad.inspection.opening import detector_engine
from efficientad.inspection.predictor import Predictor
from efficientad.method.detector import ChannelStatistics, Detector
from efficientad.method.maps import (
    MapScale,
    combine_maps,
    image_scores,
    normalize_maps,
)
from efficientad.method.networks import Autoencoder, PatchDescriptionNetwork
from efficientad.method.placement import place_map
from efficientad.model_files.tensors import as_arrays
from efficientad_lab.benchmark.baseline import baseline, outputs

FOLDER = Path(__file__).resolve().parent / "deployment"
STEP = 8
"""Every so many rows and columns of a map are kept."""


def uniform(seed: int, shape: tuple[int, ...]) -> NDArray[np.floating]:
    """Numbers from -1 to 1, the same for ever."""
    raw = np.random.PCG64(seed).random_raw(int(np.prod(shape)))
    numbers: NDArray[np.floating] = (raw >> np.uint64(11)) * 2.0**-52 - 1
    return numbers.reshape(shape)


def golden_predictor(engine: DetectorEngine = "auto") -> Predictor:
    """Networks with fixed weights as large as untrained ones; a fixed calibration."""
    networks = (
        PatchDescriptionNetwork("small"),
        PatchDescriptionNetwork("small", 768),
        Autoencoder(),
    )
    seed = 0
    for network in networks:
        for module in network.modules():
            if not isinstance(module, torch.nn.Conv2d):
                continue
            assert module.bias is not None
            n_in = module.weight[0].numel()
            for parameter in (module.weight, module.bias):
                seed += 1
                values = uniform(seed, tuple(parameter.shape)) * (3 / n_in) ** 0.5
                parameter.data = torch.from_numpy(values).float()
    mean = torch.from_numpy(0.1 * uniform(1001, (384,))).float()
    std = torch.from_numpy(0.5 + 0.2 * uniform(1002, (384,))).float()
    detector = Detector(*networks, ChannelStatistics(mean, std))
    detector.eval().requires_grad_(requires_grad=False)
    scales = {"local": MapScale(2.3, 3.6), "global": MapScale(0.36, 0.53)}
    return Predictor(
        engine=detector_engine(detector, engine),
        calibration=Calibration(
            scales, (0.04, 0.08, 0.13, 0.15), 0.4, threshold_rule="steady"
        ),
        provenance={"seed": 0, "training_images": {"a.png": "00"}},
        size="small",
        weights=as_arrays(detector.state_dict()),
    )


def golden_images() -> dict[str, Image.Image]:
    """One of each kind a camera's software writes: RGB, 16 bits gray, with alpha."""
    smooth = {
        name: np.asarray(
            Image.fromarray(
                (127.5 * (1 + uniform(seed, (5, 7, 4)))).astype(np.uint8)
            ).resize((width, height), Image.Resampling.BICUBIC)
        )
        for name, seed, height, width in (
            ("rgb", 2001, 72, 96),
            ("deep_gray", 2002, 56, 200),
            ("alpha", 2003, 120, 64),
        )
    }
    deep = smooth["deep_gray"][..., 0].astype(np.uint16) * 257
    return {
        "rgb.png": Image.fromarray(smooth["rgb"][..., :3]),
        "deep_gray.png": Image.fromarray(deep),
        "alpha.png": Image.fromarray(smooth["alpha"]),
    }


def expected(predictor: Predictor, path: Path) -> dict[str, Any]:
    """What the plain networks say in double precision."""
    assert predictor.detector is not None
    image = read_image(path)
    resized = resize_image(image, INPUT_SIZE, INPUT_SIZE)
    networks = baseline(predictor.detector).moved(torch.device("cpu"), torch.float64)
    maps, _ = outputs(networks, torch.from_numpy(resized[np.newaxis]))
    raw = {name: grids.float().numpy() for name, grids in maps.items()}
    combined = combine_maps(normalize_maps(raw, predictor.calibration.scales))
    score = float(image_scores(combined)[0])
    placed = place_map(combined[0], *image.shape[:2])
    return {
        "image_score": score,
        "p_value": predictor.calibration.p_value(score),
        "is_anomalous": score > predictor.calibration.threshold,
        "map": [[round(float(v), 6) for v in row] for row in placed[::STEP, ::STEP]],
    }


def main() -> None:
    """Write the images and what is expected of them."""
    FOLDER.mkdir(exist_ok=True)
    for name, image in golden_images().items():
        image.save(FOLDER / name)
    predictor = golden_predictor()
    vectors = {
        path.name: expected(predictor, path) for path in sorted(FOLDER.glob("*.png"))
    }
    # A row of a map stands in one line.
    text = re.sub(r",\n {4,}", ", ", json.dumps(vectors, indent=1))
    (FOLDER / "expected.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
