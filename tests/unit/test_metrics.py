"""Known values, and what is refused and why."""

import numpy as np
import pytest
from tests.pixel_metrics import au_pro, au_spro, pixel_au_roc

from efficientad.datasets.annotations import SaturationArea
from efficientad.errors import (
    ConfigError,
    DatasetError,
    UndefinedMetricError,
)
from efficientad.evaluation.metrics import (
    au_roc,
    average_precision,
    f1_max,
    recall_at_fpr,
)

IMAGE_METRICS = [
    au_roc,
    average_precision,
    f1_max,
    lambda scores, is_defect: recall_at_fpr(scores, is_defect, 0.1),
]
WHOLE = SaturationArea(1, is_relative=True)

# One normal image, and one with a region of three pixels and one of a single pixel.
MAPS = [
    np.array([[0, 1, 2, 3, 4]], np.float32),
    np.array([[9, 9, 2.5, 0.5, 9], [0, 0, 0, 0, 0]], np.float32),
]
MASKS = [
    np.zeros((1, 5), bool),
    np.array([[1, 1, 1, 0, 1], [0, 0, 0, 0, 0]], bool),
]
# Of 11 normal pixels, 2 score above 2.5: that pixel adds a third of its region's share.
AU_PRO_OF_MAPS = (1 + (2 / 3 + 1 / 3 * (1 - 2 / 11))) / 2


def booleans(text):
    return np.array([letter == "d" for letter in text])


class TestKnownValues:
    # The example of scikit-learn's documentation.
    SCORES = np.array([0.1, 0.4, 0.35, 0.8])
    IS_DEFECT = booleans("nndd")

    def test_au_roc(self):
        assert au_roc(self.SCORES, self.IS_DEFECT) == 0.75

    def test_average_precision(self):
        assert average_precision(self.SCORES, self.IS_DEFECT) == pytest.approx(5 / 6)

    def test_f1_max(self):
        assert f1_max(self.SCORES, self.IS_DEFECT) == pytest.approx(0.8)

    @pytest.mark.parametrize(
        ("fpr_limit", "recall"), [(0.1, 0.5), (0.49, 0.5), (0.5, 1.0), (1.0, 1.0)]
    )
    def test_recall_at_fpr(self, fpr_limit, recall):
        assert recall_at_fpr(self.SCORES, self.IS_DEFECT, fpr_limit) == recall

    def test_no_recall_is_a_value(self):
        assert recall_at_fpr(self.SCORES, ~self.IS_DEFECT, 0.1) == 0

    def test_a_rate_that_floats_cannot_hold_is_still_reached(self):
        scores = np.arange(101.0)[::-1]
        is_defect = (
            scores == 71
        )  # 29 of 100 normal scores are above, and 0.29 * 100 < 29

        assert recall_at_fpr(scores, is_defect, 0.29) == 1

    def test_equal_scores_rank_by_chance(self):
        scores = np.zeros(8, np.float32)
        is_defect = booleans("dnnndnnn")

        assert au_roc(scores, is_defect) == 0.5
        assert average_precision(scores, is_defect) == 0.25
        assert f1_max(scores, is_defect) == pytest.approx(0.4)
        assert recall_at_fpr(scores, is_defect, 0.99) == 0

    def test_neighboring_floats_are_different_scores(self):
        scores = np.array([1.0, np.nextafter(1.0, 2.0)])

        assert au_roc(scores, booleans("nd")) == 1
        assert pixel_au_roc([scores[None]], [booleans("nd")[None]]) == 1

    def test_negative_zero_ties_with_zero(self):
        scores = np.array([0.0, -0.0])

        assert au_roc(scores, booleans("nd")) == 0.5
        assert pixel_au_roc([scores[None]], [booleans("nd")[None]]) == 0.5

    def test_a_perfect_map_has_the_best_of_all_metrics(self):
        maps = [mask.astype(np.float32) for mask in MASKS]

        assert pixel_au_roc(maps, MASKS) == 1
        assert au_pro(maps, MASKS) == 1

    def test_a_constant_map_finds_what_the_false_positive_rate_allows(self):
        maps = [np.ones_like(each_map) for each_map in MAPS]

        assert pixel_au_roc(maps, MASKS) == 0.5
        assert au_pro(maps, MASKS, 1.0) == pytest.approx(0.5)
        assert au_pro(maps, MASKS, 0.3) == pytest.approx(0.15)

    def test_au_pro_counts_regions_alike_whatever_their_size(self):
        assert au_pro(MAPS, MASKS, 1.0) == pytest.approx(AU_PRO_OF_MAPS)
        assert pixel_au_roc(MAPS, MASKS) == pytest.approx((3 + 9 / 11) / 4)

    def test_au_pro_is_divided_by_the_limit(self):
        found_late = (0.5 - 2 / 11) / 0.5

        assert au_pro(MAPS, MASKS, 0.5) == pytest.approx(
            (1 + (2 / 3 + 1 / 3 * found_late)) / 2
        )

    def test_pixels_that_touch_at_a_corner_are_one_region(self):
        anomaly_map = np.array([[9, 9, 1, 1], [1, 1, 0, 1]], np.float32)
        at_a_corner = np.array([[1, 1, 0, 0], [0, 0, 1, 0]], bool)
        apart = at_a_corner[:, [0, 1, 3, 2]]

        assert au_pro([anomaly_map], [at_a_corner], 1.0) == pytest.approx(2 / 3)
        assert au_pro([anomaly_map[:, [0, 1, 3, 2]]], [apart], 1.0) == pytest.approx(
            0.5
        )


class TestSaturation:
    MAP = np.array([[5, 5, 1, 1, 0, 2]], np.float32)  # the last two are normal
    CHANNEL = np.array([[7, 7, 7, 7, 0, 0]], np.uint8)

    def spro(self, area, fpr_limit=1.0):
        return au_spro([self.MAP], [[self.CHANNEL]], {7: area}, fpr_limit)

    def test_a_region_is_found_wholly_once_its_area_is(self):
        assert self.spro(SaturationArea(2, is_relative=False)) == 1
        assert self.spro(SaturationArea(0.5, is_relative=True)) == 1

    def test_before_that_it_is_found_in_part(self):
        assert self.spro(SaturationArea(3, is_relative=False)) == pytest.approx(5 / 6)
        assert self.spro(WHOLE) == pytest.approx(3 / 4)
        assert self.spro(WHOLE, 0.5) == pytest.approx(1 / 2)

    def test_more_than_the_whole_area_is_the_whole_area(self):
        assert self.spro(SaturationArea(999, is_relative=False)) == self.spro(WHOLE)

    @pytest.mark.parametrize("fpr_limit", [0.05, 0.1, 0.3, 1.0])
    def test_every_limit_of_mvtec_loco_is_one(self, fpr_limit):
        assert self.spro(SaturationArea(2, is_relative=False), fpr_limit) == 1

    def test_each_value_of_each_channel_is_a_region_connected_or_not(self):
        channels = [
            np.array([[1, 0, 1, 2, 0, 0]], np.uint8),  # 1 is 5 and 1; 2 is 1
            np.array([[0, 2, 2, 0, 0, 0]], np.uint8),  # 2 is 5 and 1
        ]
        areas = {1: WHOLE, 2: SaturationArea(1, is_relative=False)}

        assert au_spro([self.MAP], [channels], areas, 1.0) == pytest.approx(
            ((1 + 0.5) / 2 + 0.5 + 1) / 3
        )

    def test_an_empty_channel_is_no_region(self):
        channels = [self.CHANNEL, np.zeros_like(self.CHANNEL)]

        assert au_spro([self.MAP], [channels], {7: WHOLE}) == self.spro(WHOLE, 0.05)


class TestWaysToGiveScores:
    @pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i2", "u1", "i8"])
    def test_real_numbers_of_any_type_are_scores(self, dtype):
        scores = np.array([0, 2, 4, 8]).astype(dtype)

        assert au_roc(scores, booleans("ndnd")) == 0.75

    @pytest.mark.parametrize("dtype", ["?", "u1", "i8", "f4"])
    def test_zeros_and_ones_of_any_type_are_labels(self, dtype):
        labels = MASKS[1].astype(dtype)

        assert au_roc(MAPS[1], labels) == au_roc(MAPS[1], MASKS[1])


class TestRefusals:
    @pytest.mark.parametrize("metric", IMAGE_METRICS)
    @pytest.mark.parametrize("labels", ["ddd", "nnn"])
    def test_an_image_metric_needs_a_defect_and_a_normal_score(self, metric, labels):
        with pytest.raises(UndefinedMetricError, match="one defective and one normal"):
            metric(np.arange(3.0), booleans(labels))

    def test_the_message_says_what_is_missing(self):
        with pytest.raises(UndefinedMetricError) as refused:
            f1_max(np.arange(3.0), booleans("nnn"))

        assert str(refused.value) == (
            "F1-max needs at least one defective and one normal score, got 0 defective "
            "and 3 normal; add what is missing, or leave the metric out"
        )

    @pytest.mark.parametrize("metric", IMAGE_METRICS)
    def test_no_score_at_all_is_undefined(self, metric):
        with pytest.raises(UndefinedMetricError, match="0 defective and 0 normal"):
            metric(np.empty(0), np.empty(0, bool))

    @pytest.mark.parametrize("metric", IMAGE_METRICS)
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_a_score_that_is_not_finite_is_undefined(self, metric, bad):
        with pytest.raises(
            UndefinedMetricError, match="got 1 infinite or undefined of 3"
        ):
            metric(np.array([0, bad, 1]), booleans("ndd"))

    @pytest.mark.parametrize("metric", IMAGE_METRICS)
    def test_scores_and_labels_must_fit(self, metric):
        with pytest.raises(DatasetError, match="the shape of the scores, 3, got 2"):
            metric(np.arange(3.0), booleans("nd"))

    @pytest.mark.parametrize(
        "labels", [[-1, 1, 1], [0, 255, 0], [0.5, 0, 1], ["n", "d"]]
    )
    def test_labels_that_could_mean_something_else_are_refused(self, labels):
        with pytest.raises(DatasetError, match=r"compare first, for example mask > 0"):
            au_roc(np.arange(float(len(labels))), np.array(labels))

    @pytest.mark.parametrize("dtype", [complex, object, "S3"])
    def test_scores_must_be_real_numbers(self, dtype):
        with pytest.raises(DatasetError, match="scores must be real numbers"):
            au_roc(np.arange(3).astype(dtype), booleans("ndd"))

    @pytest.mark.parametrize("fpr_limit", [0.0, -0.1, 1.01, np.nan, np.inf])
    def test_a_limit_must_be_a_rate_above_zero(self, fpr_limit):
        message = rf"fpr_limit must be in \(0, 1\], got {fpr_limit}"
        with pytest.raises(ConfigError, match=message):
            recall_at_fpr(np.arange(2.0), booleans("nd"), fpr_limit)

    def test_normal_images_alone_have_no_region(self):
        with pytest.raises(UndefinedMetricError) as refused:
            au_pro(MAPS[:1], MASKS[:1])

        assert str(refused.value) == (
            "AU-PRO needs at least one defect region, got none in 1 images; add images "
            "that have one, or leave the metric out"
        )
        with pytest.raises(
            UndefinedMetricError, match=r"AU-sPRO needs .* defect region"
        ):
            au_spro(MAPS[:1], [[]], {})
        with pytest.raises(
            UndefinedMetricError, match=r"pixel AU-ROC needs .* defect pix"
        ):
            pixel_au_roc(MAPS[:1], MASKS[:1])

    def test_masks_without_a_normal_pixel_are_undefined(self):
        masks = [np.ones_like(mask) for mask in MASKS]

        with pytest.raises(UndefinedMetricError, match=r"AU-PRO needs .* normal pixel"):
            au_pro(MAPS, masks)
        with pytest.raises(UndefinedMetricError, match=r"AU-ROC needs .* normal pixel"):
            pixel_au_roc(MAPS, masks)

    def test_no_image_at_all_is_undefined(self):
        with pytest.raises(UndefinedMetricError, match="got none in 0 images"):
            au_pro([], [])
