"""The picture of the README: predictions for parts that the demo draws.

efficientad demo
python lab/experiments/readme_picture/run.py demo/part.ead demo/parts
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from efficientad.images.heatmaps import Tile, panel
from efficientad.images.rgb import read_image, resize_image
from efficientad.inspection.opening import load
from efficientad.inspection.panels import prediction_overlay, with_boxes

OUTPUT = Path(__file__).resolve().parents[3] / "docs" / "predictions.jpg"
SHOWN = ("good/000", "scratch/001", "dent/000", "missing/001")
SIDE = 220


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("category", type=Path)
    given = parser.parse_args()
    predictor = load(given.model)
    images: list[Tile] = []
    maps: list[Tile] = []
    for name in SHOWN:
        path = given.category / "test" / f"{name}.png"
        prediction = predictor.predict(path)
        image = resize_image(read_image(path), SIDE, SIDE)
        images.append(Tile(name.partition("/")[0], with_boxes(image, prediction)))
        text = f"{prediction.decision}, score {prediction.image_score:.2f}"
        maps.append(Tile(text, prediction_overlay(image, prediction)))
    rows = [panel(tiles, height=SIDE) for tiles in (images, maps)]
    Image.fromarray(np.concatenate(rows)).save(OUTPUT, quality=88, optimize=True)


if __name__ == "__main__":
    main()
