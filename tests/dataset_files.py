"""Small copies of every layout in which a data set is published, drawn by code."""

import csv
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 12, 16
VISA_TABLE = "split_csv/1cls.csv"

LIST = [
    *(
        {"image": f"shots/{i:03}.png", "split": "train", "defect_type": "good"}
        for i in range(12)
    ),
    {"image": "shots/012.png", "split": "validation", "defect_type": "good"},
    {"image": "shots/013.png", "split": "test", "defect_type": "good"},
    {
        "image": "shots/014.png",
        "split": "test",
        "defect_type": "scratch",
        "mask": "masks/014.png",
    },
]


def draw(path: Path, value: int = 100) -> Path:
    """Write an image of one color."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (value,) * 3).save(path)
    return path


def draw_many(folder: Path, n: int, suffix: str = ".png") -> list[Path]:
    """Write images that all differ."""
    return [draw(folder / f"{i:03}{suffix}", 50 + i) for i in range(n)]


def draw_mask(
    path: Path,
    rows: int | slice,
    value: int = 255,
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> Path:
    """Write a mask that is zero except for some rows."""
    labels = np.zeros(size, np.uint8)
    labels[rows] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)
    return path


def write_mvtec_ad(
    root: Path, defect_types: tuple[str, ...] = ("broken_large", "contamination")
) -> Path:
    """Write a category in MVTec AD's layout."""
    draw_many(root / "train" / "good", 12)
    draw_many(root / "test" / "good", 4)
    for defect_type in defect_types:
        draw_many(root / "test" / defect_type, 2)
        for i in range(2):
            draw_mask(root / f"ground_truth/{defect_type}/{i:03}_mask.png", slice(2, 5))
    return root


def write_mvtec_loco(root: Path) -> Path:
    """Write a scenario of MVTec LOCO."""
    draw_many(root / "train" / "good", 12)
    draw_many(root / "validation" / "good", 3)
    draw_many(root / "test" / "good", 4)
    for defect_type, value in (
        ("logical_anomalies", 254),
        ("structural_anomalies", 227),
    ):
        draw_many(root / "test" / defect_type, 2)
        masks = root / "ground_truth" / defect_type
        draw_mask(masks / "000" / "000.png", slice(1, 3), value)
        draw_mask(masks / "000" / "001.png", slice(2, 6), value - 1)
        draw_mask(masks / "001" / "000.png", slice(8, 9), value)
    config = [
        {
            "defect_name": f"defect {value}",
            "pixel_value": value,
            "saturation_threshold": 10 if value > 250 else 0.5,
            "relative_saturation": value <= 250,
        }
        for value in (254, 253, 227, 226)
    ]
    (root / "defects_config.json").write_text(json.dumps(config))
    return root


def write_visa(root: Path, names: tuple[str, ...] = ("candle", "pcb1")) -> Path:
    """Write VisA as it is published."""
    rows = [["object", "split", "label", "image", "mask"]]
    for name in names:
        images, masks = f"{name}/Data/Images", f"{name}/Data/Masks"
        for i in range(16):
            image = f"{images}/Normal/{i:04}.JPG"
            draw(root / image, 50 + i)
            rows.append([name, "train" if i < 12 else "test", "normal", image, ""])
        for i in range(3):
            image, mask = f"{images}/Anomaly/{i:03}.JPG", f"{masks}/Anomaly/{i:03}.png"
            draw(root / image, 150 + i)
            draw_mask(root / mask, 3, i + 1)
            rows.append([name, "test", "anomaly", image, mask])
        (root / name / "image_anno.csv").write_text("image,label,mask\n")
    (root / "split_csv").mkdir()
    with (root / VISA_TABLE).open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


def write_converted_visa(root: Path) -> Path:
    """Write an object of VisA after its conversion to MVTec AD's layout."""
    draw_many(root / "train" / "good", 12, ".JPG")
    draw_many(root / "test" / "good", 4, ".JPG")
    draw_many(root / "test" / "bad", 3, ".JPG")
    for i in range(3):
        draw_mask(root / "ground_truth" / "bad" / f"{i:03}.png", 3)
    return root


def write_unsplit(root: Path) -> Path:
    """Write a folder with `good` and defect types that nobody has split."""
    draw_many(root / "good", 20)
    draw_many(root / "scratch", 2)
    draw_many(root / "dent", 3)
    draw_mask(root / "ground_truth/scratch/000.png", slice(1, 3))
    draw_mask(root / "ground_truth/scratch/001.png", slice(1, 3))
    return root


def write_list(path: Path, rows: list[dict[str, str]] = LIST) -> Path:
    """Write a CSV or JSON list with its images."""
    draw_many(path.parent / "shots", 15)
    draw_mask(path.parent / "masks" / "014.png", slice(1, 3))
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
        return path
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, ["image", "split", "defect_type", "mask"])
        table.writeheader()
        table.writerows(rows)
    return path


@contextmanager
def nested_folders(folder: Path, depth: int = 1200) -> Iterator[None]:
    """Hold folders in a folder, nested more deeply than a path may be long."""
    with chdir(folder):
        for _ in range(depth):
            Path("deep").mkdir()
            os.chdir("deep")
    try:
        yield
    finally:
        subprocess.run(["rm", "-r", folder / "deep"], check=True)


def smooth_picture(seed: int, size: int = 96) -> Image.Image:
    """Draw a smooth color picture, another one for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BILINEAR)


def write_sound_category(root: Path) -> Path:
    """Write a category in which a check finds nothing."""
    for folder, n, first in (("train/good", 12, 0), ("test/good", 3, 50)):
        (root / folder).mkdir(parents=True)
        for i in range(n):
            smooth_picture(first + i).save(root / folder / f"{i}.png")
    (root / "test" / "scratch").mkdir()
    for i in range(3):
        image = smooth_picture(80 + i)
        image.save(root / "test" / "scratch" / f"{i}.png")
        mask = root / "ground_truth" / "scratch" / f"{i}_mask.png"
        draw_mask(mask, slice(10, 20 + i), size=image.size)
    return root
