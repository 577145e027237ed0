"""Metrics against their definitions, written slowly and independently."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.metrics import average_precision_score, roc_auc_score
from tests.pixel_metrics import au_pro, au_spro, masked_pixels, pixel_au_roc

from efficientad.datasets.annotations import SaturationArea
from efficientad.evaluation import region_overlap
from efficientad.evaluation.metrics import (
    au_roc,
    average_precision,
    f1_max,
    recall_at_fpr,
)
from efficientad.evaluation.pixel_results import region_pixels
from efficientad.evaluation.region_overlap import RegionOverlap, count_normal

# Ties are what goes wrong, so most scores are drawn from a few; others are any float.
FLOATS = {
    np.float32: st.floats(width=32, allow_nan=False, allow_infinity=False),
    np.float64: st.floats(width=64, allow_nan=False, allow_infinity=False),
}
ONE = Fraction(1)
FEW = st.sampled_from([-1.0, -0.0, 0.0, 0.25, 0.5, 1.0])
FPR_LIMITS = st.one_of(
    st.sampled_from([0.05, 0.1, 0.25, 0.3, 0.5, 1.0]),
    st.floats(0, 1, exclude_min=True, allow_subnormal=False),
)
DTYPES = st.sampled_from([np.float32, np.float64])


def score_values(dtype):
    return st.one_of(st.just(FEW), st.just(FLOATS[dtype])).flatmap(
        lambda values: values
    )


@st.composite
def labelled_scores(draw):
    dtype = draw(DTYPES)
    n_scores = draw(st.integers(2, 14))
    scores = draw(npst.arrays(dtype, n_scores, elements=score_values(dtype)))
    is_defect = draw(npst.arrays(bool, n_scores))
    assume(is_defect.any() and not is_defect.all())
    return scores, is_defect


@st.composite
def maps_and_masks(draw):
    """Up to three images of their own sizes, with a region and a normal pixel."""
    dtype = draw(DTYPES)
    maps, masks = [], []
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
        maps.append(draw(npst.arrays(dtype, shape, elements=score_values(dtype))))
        masks.append(draw(npst.arrays(bool, shape)))
    assume(any(mask.any() for mask in masks) and not all(mask.all() for mask in masks))
    return maps, masks


# Defect types by the value that marks them: 3 of 10 pixels, two pixels, half, all.
AREAS = {
    1: SaturationArea(0.3, is_relative=True),
    7: SaturationArea(2, is_relative=False),
    128: SaturationArea(0.5, is_relative=True),
    255: SaturationArea(1, is_relative=True),
}


@st.composite
def maps_and_channels(draw):
    dtype = draw(DTYPES)
    maps, channels = [], []
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
        values = st.sampled_from([0, 0, *AREAS])
        maps.append(draw(npst.arrays(dtype, shape, elements=score_values(dtype))))
        channels.append(
            draw(st.lists(npst.arrays(np.uint8, shape, elements=values), max_size=3))
        )
    masks = masks_of_channels(maps, channels)
    assume(any(mask.any() for mask in masks) and not all(mask.all() for mask in masks))
    return maps, channels


def masks_of_channels(maps, channels):
    return [
        np.any([np.zeros(each_map.shape), *image_channels], axis=0)
        for each_map, image_channels in zip(maps, channels, strict=True)
    ]


def connected_pixels(mask):
    """Sets of defect pixels that touch at a side or a corner, found by flooding."""
    left = {tuple(pixel) for pixel in np.argwhere(mask).tolist()}
    while left:
        region: set[tuple[int, ...]] = set()
        front = {next(iter(left))}
        while front:
            region |= front
            front = (left - region) & {
                (row + down, column + right)
                for row, column in front
                for down, right in itertools.product((-1, 0, 1), repeat=2)
            }
        left -= region
        yield region


def slow_area(normal, regions, fpr_limit):
    """The area by definition, in fractions.

    `regions` are pairs of a region's scores and its saturation area. The curve is made
    point by point, one threshold after another, and cut off at the limit.
    """
    thresholds = sorted({*normal, *(s for scores, _ in regions for s in scores)})
    points = [(Fraction(0), Fraction(0))]
    for threshold in reversed(thresholds):
        fpr = Fraction(sum(score >= threshold for score in normal), len(normal))
        overlaps = [
            min(Fraction(sum(s >= threshold for s in scores)) / Fraction(area), ONE)
            for scores, area in regions
        ]
        points.append((fpr, sum(overlaps, Fraction(0)) / len(overlaps)))
    limit = Fraction(fpr_limit)
    area = Fraction(0)
    for (left, low), (right, high) in itertools.pairwise(points):
        if left < right and left < limit:
            end = min(right, limit)
            height_at_end = low + (high - low) * (end - left) / (right - left)
            area += (end - left) * (low + height_at_end) / 2
    return float(area / limit)


def slow_au_pro(maps, masks, fpr_limit):
    normal, regions = [], []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        normal += anomaly_map[~mask].tolist()
        regions += [
            ([anomaly_map[pixel].item() for pixel in pixels], len(pixels))
            for pixels in connected_pixels(mask)
        ]
    return slow_area(normal, regions, fpr_limit)


def slow_saturation_area(size, is_relative, area):
    return max(int(size * area), 1) if is_relative else min(size, area)


def slow_au_spro(maps, channels, fpr_limit):
    masks = masks_of_channels(maps, channels)
    normal, regions = [], []
    for anomaly_map, image_channels, mask in zip(maps, channels, masks, strict=True):
        normal += anomaly_map[~mask].tolist()
        for channel in image_channels:
            for value, area in AREAS.items():
                scores = anomaly_map[channel == value].tolist()
                if scores:
                    pixels = slow_saturation_area(
                        area.size, area.is_relative, len(scores)
                    )
                    regions.append((scores, pixels))
    return slow_area(normal, regions, fpr_limit)


def ranks(arrays):
    """The arrays with each score replaced by its rank: an increasing change."""
    flat = np.concatenate([array.ravel() for array in arrays])
    places = np.unique(flat, return_inverse=True)[1].astype(np.float32)
    return [
        part.reshape(array.shape)
        for part, array in zip(
            np.split(places, np.cumsum([array.size for array in arrays])[:-1]),
            arrays,
            strict=True,
        )
    ]


class TestImageMetrics:
    @given(labelled_scores())
    def test_au_roc_counts_correctly_ordered_pairs(self, case):
        scores, is_defect = case
        pairs = list(itertools.product(scores[is_defect], scores[~is_defect]))
        right_order = sum((a > b) + (a == b) / 2 for a, b in pairs)

        assert au_roc(scores, is_defect) == pytest.approx(right_order / len(pairs))

    @given(labelled_scores())
    def test_au_roc_equals_that_of_scikit_learn(self, case):
        scores, is_defect = case

        assert au_roc(scores, is_defect) == pytest.approx(
            roc_auc_score(is_defect, ranks([scores])[0])
        )

    @given(labelled_scores())
    def test_average_precision_equals_that_of_scikit_learn(self, case):
        scores, is_defect = case

        assert average_precision(scores, is_defect) == pytest.approx(
            average_precision_score(is_defect, ranks([scores])[0])
        )

    @given(labelled_scores())
    def test_average_precision_is_the_mean_precision_where_a_defect_is_found(
        self, case
    ):
        scores, is_defect = case
        precisions = [is_defect[scores >= s].mean() for s in scores[is_defect]]

        assert average_precision(scores, is_defect) == pytest.approx(
            np.mean(precisions)
        )

    @given(labelled_scores())
    def test_f1_max_is_the_best_of_all_thresholds(self, case):
        scores, is_defect = case
        f1_scores = []
        for threshold in scores:
            is_reported = scores >= threshold
            precision = is_defect[is_reported].mean()
            recall = is_reported[is_defect].mean()
            if precision + recall > 0:
                f1_scores.append(2 * precision * recall / (precision + recall))

        assert f1_max(scores, is_defect) == pytest.approx(max(f1_scores))

    @given(labelled_scores(), FPR_LIMITS)
    def test_recall_at_fpr_is_the_best_of_the_allowed_thresholds(self, case, fpr_limit):
        scores, is_defect = case
        recalls = [
            (scores[is_defect] >= threshold).mean()
            for threshold in (*scores, np.inf)
            if (scores[~is_defect] >= threshold).mean() <= fpr_limit
        ]

        assert recall_at_fpr(scores, is_defect, fpr_limit) == pytest.approx(
            max(recalls)
        )

    @given(labelled_scores(), st.randoms(use_true_random=False))
    def test_order_and_increasing_rescaling_change_nothing(self, case, random):
        scores, is_defect = case
        order = random.sample(range(scores.size), scores.size)
        changed, labels = ranks([scores])[0][order], is_defect[order]

        for metric in (au_roc, average_precision, f1_max):
            assert metric(changed, labels) == pytest.approx(metric(scores, is_defect))
        recall = recall_at_fpr(scores, is_defect, 0.3)
        assert recall_at_fpr(changed, labels, 0.3) == recall

    @given(labelled_scores())
    def test_the_opposite_order_gives_the_rest_of_au_roc(self, case):
        scores, is_defect = case

        assert au_roc(scores, ~is_defect) == pytest.approx(
            1 - au_roc(scores, is_defect)
        )


class TestPixelMetrics:
    @given(maps_and_masks(), FPR_LIMITS)
    def test_au_pro_equals_its_definition(self, case, fpr_limit):
        maps, masks = case

        assert au_pro(maps, masks, fpr_limit) == pytest.approx(
            slow_au_pro(maps, masks, fpr_limit)
        )

    @given(maps_and_channels(), FPR_LIMITS)
    def test_au_spro_equals_its_definition(self, case, fpr_limit):
        maps, channels = case

        assert au_spro(maps, channels, AREAS, fpr_limit) == pytest.approx(
            slow_au_spro(maps, channels, fpr_limit)
        )

    @given(maps_and_masks())
    def test_pixel_au_roc_is_au_roc_of_all_pixels(self, case):
        maps, masks = case
        scores = np.concatenate([each_map.ravel() for each_map in maps])
        is_defect = np.concatenate([mask.ravel() for mask in masks])

        assert pixel_au_roc(maps, masks) == pytest.approx(au_roc(scores, is_defect))

    @given(maps_and_channels())
    def test_a_pixel_in_several_channels_is_one_defect_pixel(self, case):
        maps, channels = case
        masks = masks_of_channels(maps, channels)
        overlap = RegionOverlap(
            region_pixels(anomaly_map, image_channels, AREAS)
            for anomaly_map, image_channels in zip(maps, channels, strict=True)
        )
        count_normal([overlap], [m[~k] for m, k in zip(maps, masks, strict=True)])

        assert overlap.au_roc("AU-ROC") == pytest.approx(pixel_au_roc(maps, masks))

    @given(maps_and_masks())
    def test_with_one_region_and_no_limit_au_pro_is_pixel_au_roc(self, case):
        maps, masks = case
        # One of the regions stays: filtering by their number would leave few cases.
        index, pixels = next(
            (i, pixels)
            for i, mask in enumerate(masks)
            for pixels in connected_pixels(mask)
        )
        masks = [np.zeros_like(mask) for mask in masks]
        masks[index][tuple(np.transpose(list(pixels)))] = True

        assert au_pro(maps, masks, 1.0) == pytest.approx(pixel_au_roc(maps, masks))

    @given(maps_and_masks(), FPR_LIMITS)
    def test_au_spro_that_saturates_at_the_whole_area_is_au_pro(self, case, fpr_limit):
        maps, masks = case
        channels: list[list[np.ndarray]] = []
        for mask in masks:
            channels.append([])
            for pixels in connected_pixels(mask):
                channel = np.zeros(mask.shape, np.uint8)
                channel[tuple(np.transpose(list(pixels)))] = 255
                channels[-1].append(channel)

        assert au_spro(maps, channels, AREAS, fpr_limit) == pytest.approx(
            au_pro(maps, masks, fpr_limit)
        )

    @given(maps_and_channels(), FPR_LIMITS)
    def test_an_earlier_saturation_never_lowers_au_spro(self, case, fpr_limit):
        maps, channels = case
        whole = {value: SaturationArea(1, is_relative=True) for value in AREAS}

        assert (
            au_spro(maps, channels, AREAS, fpr_limit)
            >= au_spro(maps, channels, whole, fpr_limit) - 1e-12
        )

    @given(maps_and_masks(), FPR_LIMITS)
    def test_increasing_rescaling_changes_nothing(self, case, fpr_limit):
        maps, masks = case

        assert au_pro(ranks(maps), masks, fpr_limit) == pytest.approx(
            au_pro(maps, masks, fpr_limit)
        )

    @given(maps_and_masks(), FPR_LIMITS)
    def test_transposing_and_reordering_images_changes_nothing(self, case, fpr_limit):
        maps, masks = case
        turned = [m.T for m in maps[::-1]], [m.T for m in masks[::-1]]

        assert au_pro(*turned, fpr_limit) == pytest.approx(
            au_pro(maps, masks, fpr_limit)
        )
        assert pixel_au_roc(*turned) == pytest.approx(pixel_au_roc(maps, masks))

    @given(maps_and_masks(), FPR_LIMITS)
    def test_every_image_twice_changes_nothing(self, case, fpr_limit):
        maps, masks = case

        assert au_pro(maps * 2, masks * 2, fpr_limit) == pytest.approx(
            au_pro(maps, masks, fpr_limit)
        )

    @given(maps_and_masks(), FPR_LIMITS)
    def test_images_may_be_counted_in_parts(self, case, fpr_limit):
        maps, masks = case
        pairs = list(zip(maps, masks, strict=True))
        overlap = RegionOverlap(masked_pixels(*pair) for pair in pairs)
        for anomaly_map, mask in pairs:
            count_normal([overlap], [anomaly_map[~mask]])

        assert overlap.area("AU-PRO", fpr_limit) == au_pro(maps, masks, fpr_limit)
        assert overlap.au_roc("AU-ROC") == pixel_au_roc(maps, masks)

    @given(maps_and_masks(), FPR_LIMITS)
    def test_a_pass_that_counts_for_several_is_one_for_each(self, case, fpr_limit):
        maps, masks = case
        pairs = list(zip(maps, masks, strict=True))
        defects = [masked_pixels(*pair) for pair in pairs]
        defective = next(image for image in defects if image.sizes.size)
        both = RegionOverlap(defects), RegionOverlap([defective])
        alone = RegionOverlap([defective])
        normal = [anomaly_map[~mask] for anomaly_map, mask in pairs]
        count_normal(both, normal)
        count_normal([alone], normal)

        assert both[0].area("AU-PRO", fpr_limit) == au_pro(maps, masks, fpr_limit)
        assert both[1].area("AU-PRO", fpr_limit) == alone.area("AU-PRO", fpr_limit)

    @given(maps_and_masks(), FPR_LIMITS)
    def test_maps_of_two_types_are_compared_exactly(self, case, fpr_limit):
        maps, masks = case
        narrow = np.finfo(np.float32)
        mixed = [
            anomaly_map.clip(narrow.min, narrow.max).astype(np.float32)
            if index % 2
            else anomaly_map.astype(np.float64)
            for index, anomaly_map in enumerate(maps)
        ]

        assert au_pro(mixed, masks, fpr_limit) == pytest.approx(
            slow_au_pro(mixed, masks, fpr_limit)
        )

    @given(maps_and_masks(), FPR_LIMITS, st.integers(1, 5))
    def test_the_size_of_batches_changes_nothing(self, case, fpr_limit, batch):
        maps, masks = case
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(region_overlap, "_BATCH_PIXELS", batch)
            patch.setattr(region_overlap, "_BATCH_THRESHOLDS", batch)
            in_batches = au_pro(maps, masks, fpr_limit), pixel_au_roc(maps, masks)

        assert in_batches == pytest.approx(
            (au_pro(maps, masks, fpr_limit), pixel_au_roc(maps, masks))
        )
