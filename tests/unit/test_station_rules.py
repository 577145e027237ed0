"""Rules of the station: the names of the regions in which defects lie."""

import json

import pytest

from efficientad.decisions.rule import Region
from efficientad.images.pose import Pose
from efficientad.station.prediction.rules import Rule, names_of

HEIGHT, WIDTH = 600, 900
LEFT = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]
RIGHT = [[0.5, 0], [1, 0], [1, 1], [0.5, 1]]


def rule(*regions):
    polygons = [
        dict(zip(("name", "kind", "points"), each, strict=True)) for each in regions
    ]
    return Rule("r", "m", 0.5, 0.05, 0, json.dumps(polygons))


def defect(x, y, side=30):
    return Region(x, y, side, side, side**2, x, y, 1.0, 1.0)


BOTH = rule(("neck", "interest", LEFT), ("foot", "interest", RIGHT))


def named(found, given, pose=None):
    return names_of(found, given, pose, HEIGHT, WIDTH)


def test_a_defect_has_the_name_of_the_region_that_holds_most_of_it():
    found = [defect(100, 100), defect(870, 580), defect(425, 300), defect(445, 300)]

    assert named(found, BOTH) == ["neck", "foot", "neck", "foot"]


@pytest.mark.parametrize("given", [rule(), rule(("dirt", "ignore", RIGHT))])
def test_without_regions_of_interest_there_is_no_name(given):
    assert named([defect(100, 100)], given) == [None]


def test_a_defect_beside_all_regions_has_no_name():
    assert named([defect(800, 100)], rule(("neck", "interest", LEFT))) == [None]


def test_the_smallest_defect_at_the_border_has_a_name():
    found = [defect(WIDTH - 1, HEIGHT - 1, 1)]

    assert named(found, BOTH) == ["foot"]


def test_regions_turn_with_an_aligned_part():
    assert named([defect(100, 300)], BOTH, Pose(180.0, 0.0, 0.0)) == ["foot"]
