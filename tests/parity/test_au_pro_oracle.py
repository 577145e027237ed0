"""Ours against the algorithms of the published evaluation scripts, written anew.

Three scripts were published by MVTec: with MVTec AD (every score is sorted), with MVTec
3D-AD (thresholds are sampled among the scores of normal pixels) and with MVTec LOCO
(thresholds are sampled, regions saturate). The functions below follow their algorithms,
not their text.
"""

import numpy as np
import pytest
from scipy import ndimage
from tests.pixel_metrics import au_pro, au_spro

from efficientad.datasets.annotations import SaturationArea

CORNERS_TOUCH = np.ones((3, 3), int)
SIDES_TOUCH = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
N_THRESHOLDS = 5000


def area_up_to(fprs, heights, limit):
    """Trapezoids up to the limit, the last one cut off by linear interpolation."""
    fprs, heights = np.asarray(fprs), np.asarray(heights)
    inside = fprs <= limit
    area = np.trapezoid(heights[inside], fprs[inside])
    if inside.all() or fprs[inside][-1] == limit:
        return area / limit
    last, after = np.flatnonzero(inside)[-1], np.flatnonzero(~inside)[0]
    slope = (heights[after] - heights[last]) / (fprs[after] - fprs[last])
    rest = limit - fprs[last]
    return (area + rest * (heights[last] + slope * rest / 2)) / limit


def au_pro_of_mvtec_ad(maps, masks, fpr_limit, neighborhood=CORNERS_TOUCH):
    """Sort all pixels; each one moves the curve to the right or up."""
    to_the_right, up = [], []
    n_regions = 0
    for mask in masks:
        labels, n_labels = ndimage.label(mask, neighborhood)
        n_regions += n_labels
        region_sizes = np.bincount(labels.ravel())
        to_the_right.append((labels == 0).ravel())
        up.append(np.where(labels == 0, 0.0, 1 / region_sizes[labels]).ravel())
    scores = np.concatenate([each_map.ravel() for each_map in maps])
    descending = np.argsort(-scores)
    fprs = np.cumsum(np.concatenate(to_the_right)[descending], dtype=float)
    pros = np.cumsum(np.concatenate(up)[descending]) / n_regions
    fprs /= fprs[-1]
    sorted_scores = scores[descending]
    ends_a_tie = np.append(sorted_scores[1:] != sorted_scores[:-1], True)
    return area_up_to(
        np.r_[0, fprs[ends_a_tie], 1], np.r_[0, pros[ends_a_tie], 1], fpr_limit
    )


def sampled_curve(normal, regions, areas):
    """The curve at thresholds sampled evenly among the sorted normal scores."""
    normal = np.sort(normal)
    places = np.linspace(0, normal.size - 1, N_THRESHOLDS).astype(int)
    thresholds = normal[places]
    fprs = 1 - np.searchsorted(normal, thresholds, side="right") / normal.size
    overlap = np.zeros(N_THRESHOLDS)
    for region, area in zip(regions, areas, strict=True):
        n_found = region.size - np.searchsorted(
            np.sort(region), thresholds, side="right"
        )
        overlap += np.minimum(n_found / area, 1)
    heights = overlap / len(regions)
    return np.r_[fprs[::-1], 1], np.r_[heights[::-1], 1]


def au_pro_of_mvtec_3d_ad(maps, masks, fpr_limit):
    normal, regions = [], []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        labels, n_labels = ndimage.label(mask, CORNERS_TOUCH)
        normal.append(anomaly_map[labels == 0])
        regions += [anomaly_map[labels == label + 1] for label in range(n_labels)]
    sizes = [region.size for region in regions]
    fprs, pros = sampled_curve(np.concatenate(normal), regions, sizes)
    return area_up_to(fprs, pros, fpr_limit)


def au_spro_of_mvtec_loco(maps, channels, areas, fpr_limit):
    """A channel is a region; what no channel marks is normal."""
    normal, regions, region_areas = [], [], []
    for anomaly_map, image_channels in zip(maps, channels, strict=True):
        marked = np.zeros(anomaly_map.shape, bool)
        for channel in image_channels:
            marked |= channel > 0
            region = anomaly_map[channel > 0]
            saturation_area = areas[int(channel.max())]
            regions.append(region)
            region_areas.append(
                int(saturation_area.size * region.size)
                if saturation_area.is_relative
                else min(saturation_area.size, region.size)
            )
        normal.append(anomaly_map[~marked])
    fprs, spros = sampled_curve(np.concatenate(normal), regions, region_areas)
    return area_up_to(fprs, spros, fpr_limit)


def smooth_map(rng, shape):
    return ndimage.gaussian_filter(rng.normal(size=shape), 4, mode="wrap") * 8


def images(seed, n_images=12, n_regions=4):
    """Noisy maps that rise, sometimes a little, over rectangles of many sizes."""
    rng = np.random.default_rng(seed)
    for index in range(n_images):
        shape = (rng.integers(90, 160), rng.integers(90, 160))
        anomaly_map = smooth_map(rng, shape)
        rectangles = []
        for _ in range(n_regions if index % 3 else 0):
            height, width = rng.integers(2, 30, size=2)
            top = rng.integers(0, shape[0] - height)
            left = rng.integers(0, shape[1] - width)
            rectangle = np.zeros(shape, bool)
            rectangle[top : top + height, left : left + width] = True
            rectangles.append(rectangle)
            anomaly_map += rng.uniform(0, 3) * ndimage.gaussian_filter(
                rectangle.astype(float), 3
            )
        yield anomaly_map.astype(np.float32), rectangles


def maps_and_masks(seed):
    maps, masks = [], []
    for anomaly_map, rectangles in images(seed):
        maps.append(anomaly_map)
        masks.append(np.any([np.zeros(anomaly_map.shape), *rectangles], axis=0))
    return maps, masks


FPR_LIMITS = [0.05, 0.1, 0.3, 1.0]


@pytest.mark.parametrize("fpr_limit", FPR_LIMITS)
@pytest.mark.parametrize("seed", range(3))
def test_au_pro_agrees_with_the_script_of_mvtec_ad(seed, fpr_limit):
    maps, masks = maps_and_masks(seed)

    assert au_pro(maps, masks, fpr_limit) == pytest.approx(
        au_pro_of_mvtec_ad(maps, masks, fpr_limit), abs=1e-9
    )


@pytest.mark.parametrize("fpr_limit", FPR_LIMITS)
def test_au_pro_agrees_with_the_script_of_mvtec_ad_on_maps_full_of_ties(fpr_limit):
    maps, masks = maps_and_masks(seed=3)
    maps = [np.round(anomaly_map) for anomaly_map in maps]

    assert au_pro(maps, masks, fpr_limit) == pytest.approx(
        au_pro_of_mvtec_ad(maps, masks, fpr_limit), abs=1e-9
    )


@pytest.mark.parametrize("fpr_limit", FPR_LIMITS)
@pytest.mark.parametrize("seed", range(3))
def test_au_pro_agrees_with_the_script_of_mvtec_3d_ad(seed, fpr_limit):
    maps, masks = maps_and_masks(seed)

    assert au_pro(maps, masks, fpr_limit) == pytest.approx(
        au_pro_of_mvtec_3d_ad(maps, masks, fpr_limit), abs=1e-3
    )


@pytest.mark.parametrize("fpr_limit", FPR_LIMITS)
@pytest.mark.parametrize("seed", range(3))
def test_au_spro_agrees_with_the_script_of_mvtec_loco(seed, fpr_limit):
    areas = {
        1: SaturationArea(1.0, is_relative=True),
        2: SaturationArea(0.25, is_relative=True),
        3: SaturationArea(60, is_relative=False),
    }
    maps, channels = [], []
    for anomaly_map, rectangles in images(seed):
        maps.append(anomaly_map)
        channels.append(
            [
                rectangle * np.uint8(index % len(areas) + 1)
                for index, rectangle in enumerate(rectangles)
            ]
        )

    ours = au_spro(maps, channels, areas, fpr_limit)

    assert ours == pytest.approx(
        au_spro_of_mvtec_loco(maps, channels, areas, fpr_limit), abs=1e-3
    )


def test_the_comparison_notices_another_notion_of_a_region():
    """The positive control: regions that may touch at corners are not the same."""
    maps, masks = maps_and_masks(seed=0)
    masks = [mask ^ (np.eye(*mask.shape) > 0) for mask in masks]

    ours = au_pro(maps, masks)

    assert ours == pytest.approx(au_pro_of_mvtec_ad(maps, masks, 0.3), abs=1e-9)
    assert ours != pytest.approx(
        au_pro_of_mvtec_ad(maps, masks, 0.3, neighborhood=SIDES_TOUCH), abs=1e-3
    )
