"""What normal images tell: channel statistics, map quantiles and scores.

The images for `calibrate` must not have been used for training: on those the student is
too good, and every later map would look anomalous.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from efficientad.errors import DatasetError
from efficientad.method.decision import Calibration, MapQuantiles
from efficientad.method.detector import ChannelStatistics
from efficientad.method.inputs import normalize_images
from efficientad.method.maps import (
    AnomalyMap,
    Grids,
    RawMaps,
    divided_by_level,
    image_scores,
    map_levels,
    map_quantiles,
    normalize_maps,
)
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.training.channel_moments import ChannelMoments
from efficientad.training.normal_images import Pixels
from efficientad.training.progress import Progress

_BATCH_SIZE = 4


def batches(pixels: Pixels, device: torch.device) -> Iterator[Tensor]:
    """Give normalized images in small batches, in order.

    Args:
        pixels: (n, 256, 256, 3), RGB.
        device: Where the images are needed.
    """
    for start in range(0, len(pixels), _BATCH_SIZE):
        batch = torch.from_numpy(pixels[start : start + _BATCH_SIZE])
        yield normalize_images(batch.to(device))


@torch.no_grad()
def channel_statistics(
    teacher: PatchDescriptionNetwork,
    pixels: Pixels,
    device: torch.device,
    on_descriptors: Callable[[int, Tensor], None] | None = None,
) -> ChannelStatistics:
    """Measure the teacher's channels over the training images in one pass.

    Batch by batch, so memory is constant.

    Args:
        teacher: Frozen network on `device`.
        pixels: Training images, (n, 256, 256, 3).
        device: Where to compute.
        on_descriptors: Gets the index of a batch's first image and its raw descriptors.
    """
    n_images = 0
    moments = ChannelMoments()
    with closing(Progress(len(pixels), "image", task="teacher")) as progress:
        for images in batches(pixels, device):
            descriptors = teacher(images)
            if on_descriptors is not None:
                on_descriptors(n_images, descriptors)
            n_images += len(images)
            moments.add(descriptors.transpose(0, 1).flatten(1).T)
            progress.update(n_images)
    mean, std = (values.to(device) for values in moments.mean_and_std())
    return ChannelStatistics(mean, std.clamp(min=torch.finfo(torch.float32).eps))


@runtime_checkable
class JudgesPixels(Protocol):
    """Gives raw maps, as a detector does, calibrated or not."""

    def judged_maps(self, pixels: Tensor) -> RawMaps:
        """Compare the networks on pixels, (batch, 256, 256, 3)."""
        ...


@torch.inference_mode()
def calibrate(
    detector: JudgesPixels,
    pixels: Pixels,
    *,
    false_alarm_budget: float = 0.01,
    fit: Callable[[Grids], MapQuantiles] = map_quantiles,
    divides_by_level: bool = False,
) -> Calibration:
    """Measure how far maps and scores reach on normal images.

    Args:
        detector: Trained. Its own calibration, if any, is ignored.
        pixels: Normal images outside the training set, (n, 256, 256, 3), RGB.
        false_alarm_budget: Share of normal images that may be flagged, in (0, 1).
        fit: What normalizes a map type, from its raw maps. Default: the paper's
            quantiles.
        divides_by_level: Divide each raw map by the image's own level first.

    Raises:
        DatasetError: If there are no images.
    """
    if len(pixels) == 0:
        raise DatasetError("calibration needs normal images outside the training set")
    raw = []
    with closing(Progress(len(pixels), "image", task="calibration")) as progress:
        for start in range(0, len(pixels), _BATCH_SIZE):
            batch = torch.from_numpy(pixels[start : start + _BATCH_SIZE])
            raw.append(detector.judged_maps(batch))
            progress.update(start + len(batch))
    local_maps = torch.cat([maps.local_map for maps in raw]).float().cpu()
    global_maps = torch.cat([maps.global_map for maps in raw]).float().cpu()
    scale = partial(_scale, fit=fit, divides_by_level=divides_by_level)
    without_scores = Calibration(
        scale(local_maps),
        scale(global_maps),
        normal_scores=(0.0,),
        false_alarm_budget=false_alarm_budget,
    )
    maps = normalize_maps(RawMaps(local_maps, global_maps), without_scores)
    return Calibration(
        without_scores.local_quantiles,
        without_scores.global_quantiles,
        tuple(sorted(image_scores(maps.combined_map).tolist())),
        false_alarm_budget,
    )


def _scale(
    raw_maps: AnomalyMap,
    *,
    fit: Callable[[Grids], MapQuantiles],
    divides_by_level: bool,
) -> MapQuantiles:
    if not divides_by_level:
        return fit(list(raw_maps.numpy()))
    # Deviation: the paper compares images whose maps lie at different levels as they
    # are. An image's score is its highest pixel, so one that is harder to predict as a
    # whole, by its texture, light or angle, looks anomalous.
    levels = map_levels(raw_maps)
    least, greatest = float(levels.min()), float(levels.max())
    quantiles = fit(list(divided_by_level(raw_maps, least, greatest).numpy()))
    return replace(quantiles, least_level=least, greatest_level=greatest)
