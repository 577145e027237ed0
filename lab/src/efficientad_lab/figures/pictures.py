"""Figures made of images and maps (paper, Figures 3, 4, 5 and 7)."""

from dataclasses import replace
from typing import Final

import numpy as np
import torch
from matplotlib.figure import Figure

from efficientad.datasets import Sample, read_defect_mask
from efficientad.errors import ResultError
from efficientad.images.heatmaps import color_scale, heatmap, outline, resize_mask
from efficientad.images.rgb import Mask, read_image, resize_image
from efficientad.inspection.prediction import Prediction
from efficientad.inspection.predictor import Predictor
from efficientad.method.inputs import normalize_images
from efficientad.model_files.teachers import open_teacher
from efficientad.natural_images.pictures import open_pretraining_images
from efficientad_lab.figures.canvas import Picture, picture_table
from efficientad_lab.figures.gradients import (
    Map,
    enlarged,
    gradient_map,
    open_source,
)
from efficientad_lab.figures.runs import Material
from efficientad_lab.studies.hard_masks import MOMENTS, mask_file, read_masks
from efficientad_lab.studies.paper import LOGICAL, STRUCTURAL
from efficientad_lab.studies.records import Run

_MAX_SIDE: Final = 320
_KINDS: Final = {LOGICAL: "logical", STRUCTURAL: "structural"}


def receptive_fields(material: Material) -> Figure:
    """Draw the gradient of one descriptor, of teacher and source network.

    Raises:
        ModelFileError: If a network cannot be read.
        DatasetError: If the images cannot be used.
    """
    config = material.config
    images = open_pretraining_images(config.images)
    teacher = open_teacher(config.size, config.teacher).network.double().eval()
    source = None if config.source is None else open_source(config.source)
    rng = np.random.default_rng(config.seed)
    rows = []
    for _ in range(config.n_images):
        picture = images.draw(rng)
        small = normalize_images(torch.from_numpy(picture[None]))
        pictures = [picture, _gradient_picture(gradient_map(teacher, small.double()))]
        if source is not None:
            large = enlarged(small)
            pictures.append(_gradient_picture(gradient_map(source, large)))
        rows.append(("", pictures))
    head = ["image", "gradient, teacher", "gradient, source network"]
    return picture_table(head[: len(rows[0][1])], rows)


def hard_loss_masks(material: Material) -> Figure:
    """Draw the masks of the hard feature loss in the course of each training.

    Raises:
        ResultError: If the masks of a run are missing.
    """
    moments, runs = list(MOMENTS), material.of_scenarios()
    for run in runs:
        folder = material.folder(run)
        # In a training of a few steps some moments are equal.
        moments = [m for m in moments if mask_file(folder, m).exists()]
        if MOMENTS[-1] not in moments:
            raise ResultError(
                f"needs the hard-loss masks of {run['category']}, {run['variant']}, "
                f"seed {run['seed']}, which are not in {folder}; remove the record of "
                "that run and make it again, or name the folder by --work"
            )
    rows = []
    for run in runs:
        files = [mask_file(material.folder(run), moment) for moment in moments]
        read = [read_masks(path) for path in files]
        masks = [_brightness(each.masks[0]) for each in read]
        rows.append((str(run["category"]), [read[0].pixels[0], *masks]))
    head = [f"after {100 * moment:.0f} %" for moment in moments]
    return picture_table(["image", *head], rows)


def local_and_global_maps(material: Material) -> Figure:
    """Draw the three maps of a logical and of a structural anomaly.

    Raises:
        ResultError: If there is no run with both kinds of defects.
    """
    rng = np.random.default_rng(material.config.seed)
    runs = [
        run
        for run in material.of_scenarios()
        if set(_KINDS) <= set(run["metrics"].get("defect_types", {}))
    ]
    if not runs:
        raise ResultError(
            "needs a run on a scenario of MVTec LOCO, with logical and structural "
            f"anomalies, {material.results} has none; give efficientad reproduce one"
        )
    run = runs[int(rng.integers(len(runs)))]
    predictor = material.predictor(run)
    rows = []
    for kind, name in _KINDS.items():
        defects = material.defects(run, [kind])
        sample = defects[int(rng.integers(len(defects)))]
        picture, mask, prediction = _predicted(predictor, sample)
        low, high = color_scale(prediction.normal_range)
        maps = (
            prediction.map("local"),
            prediction.map("global"),
            prediction.anomaly_map,
        )
        drawn = [heatmap(each, low=low, high=high) for each in maps]
        shown = picture if mask is None else outline(picture, mask)
        rows.append((f"{run['category']}, {name}", [shown, *drawn]))
    return picture_table(["image", "local map", "global map", "combined map"], rows)


def random_defects(material: Material) -> Figure:
    """Draw random defects of each scenario with mask and map.

    Raises:
        ResultError: If the detector of a scenario is missing.
    """
    config = material.config
    rng = np.random.default_rng(config.seed)
    rows = []
    for run in material.of_scenarios():
        predictor = material.predictor(run)
        pictures: list[Picture] = []
        for sample in _drawn(material, run, rng):
            picture, mask, prediction = _predicted(predictor, sample)
            low, high = color_scale(prediction.normal_range)
            drawn = heatmap(prediction.anomaly_map, low=low, high=high)
            pictures += [picture, _mask_picture(mask, picture), drawn]
        rows.append((str(run["category"]), pictures))
    head = ["image", "annotated", "combined map"] * config.n_images
    return picture_table(head, rows)


def _drawn(material: Material, run: Run, rng: np.random.Generator) -> list[Sample]:
    """Draw defects at random, each once if there are enough."""
    defects, n = material.defects(run), material.config.n_images
    return [defects[i] for i in rng.choice(len(defects), n, replace=n > len(defects))]


def _predicted(
    predictor: Predictor, sample: Sample
) -> tuple[Picture, Mask | None, Prediction]:
    """Return an image, its mask and its prediction at a size for print."""
    image = read_image(sample.path)
    height, width = image.shape[:2]
    mask = None
    if sample.mask_path is not None:
        mask = read_defect_mask(sample, height, width)
    prediction = predictor.predict(image)
    scale = max(1, round(max(height, width) / _MAX_SIDE))
    if scale > 1:
        rows, columns = height // scale, width // scale
        image = resize_image(image, rows, columns)
        mask = None if mask is None else resize_mask(mask, rows, columns)
        # Maps are drawn from their grids at any size.
        prediction = replace(prediction, height=rows, width=columns)
    return image, mask, prediction


def _mask_picture(mask: Mask | None, picture: Picture) -> Picture:
    """Return a mask in black and white, or plain gray without an annotation."""
    if mask is None:
        return np.full_like(picture, 128)
    return np.repeat(np.where(mask, 255, 0).astype(np.uint8)[..., None], 3, axis=-1)


def _brightness(mask: Map) -> Picture:
    """Return a picture that is brighter where the loss selects more channels."""
    brightest = float(mask.max()) or 1.0
    gray = np.rint(255 * mask / brightest)
    return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=-1)


def _gradient_picture(gradient: Map) -> Picture:
    # The root makes weak gradients visible.
    shown = np.sqrt(gradient / gradient.max()).astype(np.float32)
    return heatmap(shown, low=0.0, high=1.0)
