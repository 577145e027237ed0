"""Pixel metrics of maps in memory, by the parts that an evaluation is made of."""

from efficientad.evaluation.pixel_results import (
    channels_mask,
    numbered_regions,
    region_pixels,
)
from efficientad.evaluation.region_overlap import RegionOverlap, count_normal


def pixel_au_roc(maps, masks):
    return of_masks(maps, masks).au_roc("pixel AU-ROC")


def au_pro(maps, masks, fpr_limit=0.3):
    return of_masks(maps, masks).area("AU-PRO", fpr_limit)


def au_spro(maps, channels, areas, fpr_limit=0.05):
    pairs = list(zip(maps, channels, strict=True))
    overlap = RegionOverlap(region_pixels(*pair, areas) for pair in pairs)
    count_normal([overlap], [m[~channels_mask(given, m)] for m, given in pairs])
    return overlap.area("AU-sPRO", fpr_limit)


def masked_pixels(anomaly_map, mask):
    return region_pixels(anomaly_map, [numbered_regions(mask)])


def of_masks(maps, masks):
    pairs = list(zip(maps, masks, strict=True))
    overlap = RegionOverlap(masked_pixels(*pair) for pair in pairs)
    count_normal([overlap], [anomaly_map[~mask] for anomaly_map, mask in pairs])
    return overlap
