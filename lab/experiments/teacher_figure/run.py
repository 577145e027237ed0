"""Receptive field and mean feature maps of a teacher (paper, Figure 3).

Each row of the figure has an image, the gradient of the central descriptor of the
teacher and of the source network, and the channel mean of both grids.

    python lab/experiments/teacher_figure/run.py \
        --images ../shared/data/natural_images \
        --source ../shared/data/source_networks/resnet50.safetensors \
        --output docs/teacher_figure.png
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from efficientad.errors import DatasetError, EfficientADError
from efficientad.images.heatmaps import heatmap
from efficientad.images.rgb import RGBImage, resize_image
from efficientad.method.inputs import normalize_images
from efficientad.method.networks import PATCH_SIZE, PatchDescriptionNetwork
from efficientad.model_files.teachers import open_teacher
from efficientad.natural_images.pictures import open_images
from efficientad.storage import atomic_write
from efficientad.training.environment import environment
from efficientad_lab.figures.gradients import (
    Map,
    Network,
    box_of,
    enlarged,
    gradient_map,
    open_source,
)
from efficientad_lab.studies.records import write_run

RESULTS = Path(__file__).with_name("results")

_TILE, _GAP, _HEAD = 160, 6, 18
_COLUMNS = (
    "image",
    "teacher: gradient",
    "source: gradient",
    "teacher: mean",
    "source: mean",
)


def share_outside(gradient: Map, side: int) -> float:
    """Return the share of the gradient's sum outside the central square."""
    top, left = ((n - side) // 2 for n in gradient.shape)
    inside = gradient[top : top + side, left : left + side].sum()
    return float(1 - inside / gradient.sum())


def rows_of(
    teacher: PatchDescriptionNetwork, source: Network, picture: RGBImage
) -> tuple[list[RGBImage], dict[str, float]]:
    """Return the five tiles of one image and the measurements on them."""
    small = normalize_images(torch.from_numpy(picture[None]))
    large = enlarged(small)
    # In double precision the plain convolution is used: exact zeros stay zeros.
    of_teacher = gradient_map(teacher.double(), small.double())
    of_source = gradient_map(source, large)
    teacher.float()
    with torch.inference_mode():
        means = [
            network(x)[0].mean(0).numpy()
            for network, x in ((teacher, small), (source, large))
        ]
    height, width = box_of(of_teacher)
    measured = {
        "teacher_gradient_height": height,
        "teacher_gradient_width": width,
        "source_gradient_outside_patch": share_outside(of_source, 2 * PATCH_SIZE),
    }
    # The root makes weak gradients visible.
    gradients = [np.sqrt(g / g.max()) for g in (of_teacher, of_source)]
    tiles = [picture, *(_colored(m) for m in (*gradients, *means))]
    return tiles, measured


def _colored(values: Map) -> RGBImage:
    low, high = float(values.min()), float(values.max())
    return heatmap(values.astype(np.float32), low=low, high=high)


def figure(rows: Sequence[Sequence[RGBImage]]) -> Image.Image:
    """Return one picture of all tiles, with a heading over each column."""
    step = _TILE + _GAP
    size = (len(_COLUMNS) * step - _GAP, _HEAD + len(rows) * step - _GAP)
    page = Image.new("RGB", size, "white")
    canvas = ImageDraw.Draw(page)
    for j, title in enumerate(_COLUMNS):
        canvas.text((j * step + 2, 3), title, fill="black")
        for i, row in enumerate(rows):
            tile = Image.fromarray(row[j]).resize((_TILE, _TILE), Image.Resampling.BOX)
            page.paste(tile, (j * step, _HEAD + i * step))
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the figure and record its measurements."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--size", choices=("small", "medium"), default="small")
    parser.add_argument("--teacher", type=Path, help="default: the shipped one")
    parser.add_argument("--numbers", type=int, nargs="+", default=(5, 2300, 4700))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    try:
        images = open_images(options.images)
        for number in options.numbers:
            if not 0 <= number < len(images):
                raise DatasetError(
                    f"images are numbered from 0 to {len(images) - 1}, number {number} "
                    "was asked for; choose --numbers among these"
                )
        opened = open_teacher(options.size, options.teacher)
        source = open_source(options.source)
        rows, measured = [], []
        for number in options.numbers:
            picture = resize_image(images.read(number), 256, 256)
            tiles, values = rows_of(opened.network.eval(), source, picture)
            rows.append(tiles)
            measured.append(values)
        with atomic_write(options.output) as partial:
            figure(rows).quantize(128).save(partial, "PNG", optimize=True)
        run = {
            "experiment": "teacher_figure",
            "category": "natural_images",
            "variant": options.size,
            "seed": 0,
            "settings": {
                "numbers": list(options.numbers),
                "source": Path(options.source).name,
            },
            "teacher": {"hash": opened.file_hash},
            "metrics": {
                k: float(np.mean([m[k] for m in measured])) for k in measured[0]
            },
        }
        print(write_run(run | environment(), options.results))
    except EfficientADError as error:
        print(f"teacher_figure: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
