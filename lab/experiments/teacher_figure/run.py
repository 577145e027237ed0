"""Receptive field and mean feature maps of a teacher (paper, Figure 3).

Each row of the figure has a picture drawn by code, the gradient of the central
descriptor of the teacher and of the source network, and the channel mean of both grids.

    python lab/experiments/teacher_figure/run.py \
        --source ../shared/data/source_networks/resnet50.safetensors \
        --output docs/teacher_figure.png
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from efficientad.errors import EfficientADError
from efficientad.images.heatmaps import heatmap
from efficientad.images.rgb import RGBImage
from efficientad.method.inputs import normalize_images
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.method.sizes import PATCH_SIZE
from efficientad.model_files.teachers import open_teacher
from efficientad.natural_images.procedural_textures import draw_picture
from efficientad.storage import atomic_write
from efficientad_lab.environment import environment
from efficientad_lab.figures.canvas import picture_table
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
NUMBERS: Final = (7, 8, 11)
"""Seeds of the pictures."""
_HEAD: Final = (
    *("image", "teacher: gradient", "source: gradient"),
    *("teacher: mean", "source: mean"),
)


def share_outside(gradient: Map, side: int) -> float:
    """Return the share of the gradient's sum outside the central square."""
    top, left = ((n - side) // 2 for n in gradient.shape)
    inside = gradient[top : top + side, left : left + side].sum()
    return float(1 - inside / gradient.sum())


def row_of(
    teacher: PatchDescriptionNetwork, source: Network, picture: RGBImage
) -> tuple[list[RGBImage], dict[str, float]]:
    """Return the five pictures of one image and the measurements on them."""
    small = normalize_images(torch.from_numpy(picture[None]))
    large = enlarged(small)
    # In double precision the plain convolution is used: exact zeros stay zeros.
    of_teacher = gradient_map(teacher.double(), small.double())
    of_source = gradient_map(source, large)
    teacher.float()
    with torch.inference_mode():
        means = [
            network(images)[0].mean(0).numpy()
            for network, images in ((teacher, small), (source, large))
        ]
    height, width = box_of(of_teacher)
    measured = {
        "teacher_gradient_height": height,
        "teacher_gradient_width": width,
        "source_gradient_outside_patch": share_outside(of_source, 2 * PATCH_SIZE),
    }
    # The root makes weak gradients visible.
    gradients = [np.sqrt(g / g.max()) for g in (of_teacher, of_source)]
    return [picture, *(_colored(m) for m in (*gradients, *means))], measured


def _colored(values: Map) -> RGBImage:
    low, high = float(values.min()), float(values.max())
    return heatmap(values.astype(np.float32), low=low, high=high)


def draw(options: argparse.Namespace) -> Path:
    """Write the figure, record its measurements, and return the record's path.

    Raises:
        ModelFileError: If a network cannot be read.
    """
    opened = open_teacher(options.size, options.teacher)
    source = open_source(options.source)
    pictures = (draw_picture(np.random.default_rng(n)) for n in options.numbers)
    rows = [row_of(opened.network.eval(), source, picture) for picture in pictures]
    figure = picture_table(_HEAD, [("", tiles) for tiles, _ in rows])
    with atomic_write(options.output) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
    measured = [values for _, values in rows]
    run = {
        "experiment": "teacher_figure",
        "category": "drawn_pictures",
        "variant": options.size,
        "seed": 0,
        "settings": {
            "numbers": list(options.numbers),
            "source": Path(options.source).name,
        },
        "teacher": {"hash": opened.file_hash},
        "metrics": {k: float(np.mean([m[k] for m in measured])) for k in measured[0]},
    }
    return write_run(run | environment(), options.results)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the figure and record its measurements."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", required=True)
    parser.add_argument("--size", choices=("small", "medium"), default="small")
    parser.add_argument("--teacher", type=Path, help="default: the shipped one")
    parser.add_argument("--numbers", type=int, nargs="+", default=NUMBERS)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=RESULTS)
    try:
        print(draw(parser.parse_args(arguments)))
    except EfficientADError as error:
        print(f"teacher_figure: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
