"""The estimator of scikit-learn; the training behind it is tested elsewhere."""

import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import ParameterGrid
from sklearn.utils import estimator_checks as checks
from tests.dataset_files import draw
from tests.fake_engines import brightness_predictor

from efficientad.errors import MissingDependencyError
from efficientad.sklearn import AnomalyDetector
from efficientad.training import run


@pytest.fixture
def trainings(monkeypatch):
    """Images and settings of each training, which gives the brightness as a score."""
    seen = []

    def train(images, config):
        seen.append((images, config))
        return brightness_predictor()

    monkeypatch.setattr(run, "train", train)
    return seen


@pytest.fixture
def images():
    levels = np.array([10, 100, 200, 250], np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (4, 16, 16, 3))


@pytest.mark.parametrize(
    "check",
    [
        checks.check_do_not_raise_errors_in_init_or_set_params,
        checks.check_estimator_cloneable,
        checks.check_estimator_tags_renamed,
        checks.check_estimator_repr,
        checks.check_estimators_unfitted,
        checks.check_get_params_invariance,
        checks.check_mixin_order,
        checks.check_no_attributes_set_in_init,
        checks.check_parameters_default_constructible,
        checks.check_set_params,
        checks.check_valid_tag_types,
    ],
    ids=lambda check: check.__name__,
)
def test_the_checks_of_scikit_learn_that_need_no_table_pass(check):
    check("AnomalyDetector", AnomalyDetector())


def test_fit_learns_from_images_and_keeps_its_parameters(trainings, images):
    detector = AnomalyDetector(steps=7, random_state=3, false_alarm_budget=0.1)
    before = detector.get_params()

    assert detector.fit(images, y=[1, 1, 1, 1]) is detector

    ((given, config),) = trainings
    assert [image.shape for image in given] == [(16, 16, 3)] * 4
    assert (config.steps, config.seed, config.false_alarm_budget) == (7, 3, 0.1)
    assert detector.get_params() == before


@pytest.mark.usefixtures("trainings")
def test_scores_distances_and_decisions_agree(images):
    detector = AnomalyDetector().fit(images)

    scores = detector.score_samples(images)

    np.testing.assert_allclose(scores, -np.array([10, 100, 200, 250]) / 255, rtol=1e-6)
    assert detector.offset_ == -0.5
    np.testing.assert_array_equal(detector.decision_function(images), scores + 0.5)
    assert detector.predict(images).tolist() == [1, 1, -1, -1]
    assert detector.fit_predict(images).tolist() == [1, 1, -1, -1]


def test_paths_and_folders_are_images(trainings, tmp_path):
    paths = [draw(tmp_path / f"{level}.png", level) for level in (10, 250)]

    detector = AnomalyDetector().fit(tmp_path)

    assert trainings[0][0] == tmp_path
    assert detector.predict(paths).tolist() == [1, -1]
    assert detector.predict(str(tmp_path)).tolist() == [1, -1]


@pytest.mark.usefixtures("trainings")
def test_a_clone_is_not_fitted(images):
    fitted = AnomalyDetector(size="medium").fit(images)
    unfitted = clone(fitted)

    assert unfitted.size == "medium"
    for call in (unfitted.predict, unfitted.score_samples, unfitted.decision_function):
        with pytest.raises(NotFittedError):
            call(images)


def test_parameters_form_a_grid():
    grid = ParameterGrid({"size": ["small", "medium"], "steps": [1, 2]})

    found = [AnomalyDetector().set_params(**given).get_params() for given in grid]

    assert len({(each["size"], each["steps"]) for each in found}) == 4


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "efficientad.sklearn")

    with pytest.raises(MissingDependencyError, match=r"efficientad\[sklearn\]"):
        import efficientad.sklearn  # noqa: F401
