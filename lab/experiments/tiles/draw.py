"""Parts at 2048 x 2048 pixels, half of the test ones with a defect of 6 to 20 pixels.

    python lab/experiments/tiles/draw.py FOLDER

The parts are those of the demo. Their defects are a stain, a dent or a scratch, at a
random place of the bare plate.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from efficientad.demo_parts.category import drawn
from efficientad.demo_parts.parts import Blob, Curve, Part, is_bare
from efficientad.storage import atomic_folder

SIZE = 2048
SMALLEST, LARGEST = 6, 20
"""Length of a defect in pixels."""
N_TRAIN, N_GOOD, N_DEFECTS = 30, 20, 20
KINDS = ("stain", "dent", "scratch")


def with_small_defect(kind: str, part: Part, rng: np.random.Generator) -> Part:
    """Return a part with one defect, whose length is drawn between the limits."""
    half = rng.uniform(SMALLEST, LARGEST) / 2 * 256 / SIZE
    while not is_bare(at := (rng.uniform(-95, 95), rng.uniform(-73, 73)), 2):
        pass
    strength, turn = rng.uniform(0.6, 1), rng.uniform(0, np.pi)
    if kind == "scratch":
        along = half * np.array([np.cos(turn), np.sin(turn)])
        start, end = (np.array(at) - along).tolist(), (np.array(at) + along).tolist()
        width = rng.uniform(0.3, 0.5)
        return replace(
            part, scratch=Curve(tuple(start), at, tuple(end), width, strength)
        )
    blob = Blob(at, half, 1.0, turn, (), strength)
    return replace(part, stain=blob) if kind == "stain" else replace(part, dent=blob)


def draw(seed: int, kind: str | None) -> tuple[Image.Image, Image.Image]:
    """Return a picture and the mask of its defect."""
    fault = None if kind is None else partial(with_small_defect, kind)
    picture, mask = drawn(seed, SIZE, fault)
    return Image.fromarray(picture), Image.fromarray(mask.astype(np.uint8) * 255)


def main() -> None:
    """Draw the category."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    wanted = [
        *(("train/good", None, i) for i in range(N_TRAIN)),
        *(("test/good", None, i) for i in range(N_GOOD)),
        *(("test/small", KINDS[i % len(KINDS)], i) for i in range(N_DEFECTS)),
    ]
    with atomic_folder(parser.parse_args().folder) as folder:
        for seed, (inner, kind, number) in enumerate(wanted):
            picture, mask = draw(seed, kind)
            (folder / inner).mkdir(parents=True, exist_ok=True)
            picture.save(folder / inner / f"{number:03}.png", compress_level=1)
            if kind is not None:
                masks = folder / "ground_truth" / "small"
                masks.mkdir(parents=True, exist_ok=True)
                mask.save(masks / f"{number:03}_mask.png")


if __name__ == "__main__":
    main()
