"""Use the teacher in another method: nearest neighbours of normal descriptors.

The score of a patch is the distance of its descriptor from the nearest normal one.

    python examples/nearest_neighbor.py demo/parts     # a folder in MVTec AD's layout
"""

import sys
from pathlib import Path

import numpy as np
import torch

import efficientad
from efficientad.datasets import open_category
from efficientad.evaluation.metrics import au_roc
from efficientad.images.rgb import read_image, resize_image
from efficientad.method.inputs import normalize_images

teacher = efficientad.load_teacher("small")


def descriptors_of(path: Path) -> torch.Tensor:
    """Return the unit descriptors of 384 channels, one for every 4 x 4 pixels."""
    pixels = torch.from_numpy(resize_image(read_image(path), 256, 256)[None])
    with torch.inference_mode():
        grid = teacher(normalize_images(pixels))[0]
    return torch.nn.functional.normalize(grid.flatten(1).T)


category = open_category(Path(sys.argv[1]))
normal = torch.cat([descriptors_of(sample.path)[::37] for sample in category.train])
scores = []
for sample in category.test:
    similarities = descriptors_of(sample.path) @ normal.T
    scores.append(1 - float(similarities.amax(1).min()))  # of the worst patch
    print(f"{scores[-1]:.4f}  {sample.path.relative_to(category.root)}")
is_defect = np.array([sample.is_defect for sample in category.test])
print(f"AU-ROC {au_roc(np.array(scores), is_defect):.3f}")
