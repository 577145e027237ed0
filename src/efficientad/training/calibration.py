"""What normal images tell: channel statistics, map quantiles and scores.

The images for `calibrate` must not have been used for training: on those the student is
too good, and every later map would look anomalous.
"""

from collections.abc import Callable, Iterator
from contextlib import closing

import torch
from torch import Tensor

from efficientad.errors import DatasetError
from efficientad.method.decision import Calibration, MapQuantiles
from efficientad.method.detector import ChannelStatistics, Detector
from efficientad.method.inputs import normalize_images
from efficientad.method.maps import (
    Grids,
    RawMaps,
    image_scores,
    map_quantiles,
    map_unsteadiness,
    normalize_maps,
    weighted,
)
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.training.normal_images import Pixels
from efficientad.training.progress import Progress

_BATCH_SIZE = 4
# However unsteady: a missing part may show in no other map.
_LEAST_WEIGHT = 0.1


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

    Batch by batch by Welford's update in double precision, so nothing cancels and
    memory is constant.

    Args:
        teacher: Frozen network on `device`.
        pixels: Training images, (n, 256, 256, 3).
        device: Where to compute.
        on_descriptors: Gets the index of a batch's first image and its raw descriptors.
    """
    n, n_images = 0, 0
    mean = scatter = torch.zeros((), dtype=torch.float64, device=device)
    with closing(Progress(len(pixels), "image", task="teacher")) as progress:
        for images in batches(pixels, device):
            descriptors = teacher(images)
            if on_descriptors is not None:
                on_descriptors(n_images, descriptors)
            n_images += len(images)
            vectors = descriptors.transpose(0, 1).flatten(1).double()
            count = vectors.shape[1]
            own = vectors.mean(1)
            step, share = own - mean, count / (n + count)
            own_scatter = (vectors - own[:, None]).square().sum(1)
            scatter = scatter + own_scatter + step.square() * n * share
            mean = mean + step * share
            n += count
            progress.update(n_images)
    std = (scatter / n).sqrt().clamp(min=torch.finfo(torch.float32).eps)
    return ChannelStatistics(mean.float(), std.float())


@torch.inference_mode()
def calibrate(
    detector: Detector,
    pixels: Pixels,
    *,
    false_alarm_budget: float = 0.01,
    fit: Callable[[Grids], MapQuantiles] = map_quantiles,
    weighs_maps: bool = False,
) -> Calibration:
    """Measure how far maps and scores reach on normal images.

    Args:
        detector: Trained networks. Its own calibration, if any, is ignored.
        pixels: Normal images outside the training set, (n, 256, 256, 3), RGB.
        false_alarm_budget: Share of normal images that may be flagged, in (0, 1).
        fit: What normalizes a map type, from its raw maps. Default: the paper's
            quantiles.
        weighs_maps: Let the global map count less where its level is less steady than
            the local one's (`global_weight`); otherwise, as in the paper, they count
            the same.

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
    local_grids, global_grids = list(local_maps.numpy()), list(global_maps.numpy())
    weight = global_weight(local_grids, global_grids) if weighs_maps else 1.0
    without_scores = Calibration(
        fit(local_grids),
        weighted(fit(global_grids), weight),
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


def global_weight(local_grids: Grids, global_grids: Grids) -> float:
    """Tell how much the global map counts, in (0, 1], where the local one counts 1.

    Normalization brings the pixels of both maps to one scale, but an image's score is
    its highest pixel, and false alarms come from images that lie higher as a whole:
    after a short training the autoencoder is still wrong about some normal ones. The
    global map counts less by as much as its level changes more from image to image.

    Args:
        local_grids: Raw local maps of normal images, at least one.
        global_grids: Raw global maps of the same images.
    """
    # Deviation: in the paper both maps count the same.
    of_local, of_global = map_unsteadiness(local_grids), map_unsteadiness(global_grids)
    if of_global <= of_local:
        return 1.0
    return max(_LEAST_WEIGHT, of_local / of_global)
