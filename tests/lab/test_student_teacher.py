"""S-T: sizes and fields, the strided form, and the score by its definition."""

import pytest
import torch
from PIL import Image
from tests.contracts.engine_checks import noise

from efficientad.errors import ConfigError
from efficientad_lab.methods.fitting import FitConfig, fit
from efficientad_lab.methods.method import Draw, on_grid
from efficientad_lab.methods.predictors import calibrated, load_method, save_method
from efficientad_lab.methods.stages import open_stages
from efficientad_lab.methods.student_teacher import (
    DescriptorNetwork,
    Field,
    StudentTeacher,
    StudentTeacherSettings,
    correlation,
)

pytestmark = pytest.mark.usefixtures("one_thread")

FIELDS: dict[Field, tuple[int, int]] = {17: (17, 1), 33: (32, 4), 65: (60, 8)}


@pytest.fixture
def pdn():
    def made(**settings):
        torch.manual_seed(0)
        chosen = StudentTeacherSettings(strides=(4,), input_size=64, **settings)
        return StudentTeacher([open_stages("pdn-small", (4,))], chosen)

    return made


def test_the_three_networks_have_as_many_parameters_as_reckoned():
    networks = [DescriptorNetwork(field) for field in FIELDS]

    n = sum(p.numel() for one in networks for p in one.parameters())
    assert round(n / 1e6, 1) == 6.9


@pytest.mark.parametrize(("field", "size_and_stride"), FIELDS.items())
def test_a_descriptor_sees_its_field_alone(field, size_and_stride):
    network = DescriptorNetwork(field).double()
    size, stride = network.size, network.stride
    images = torch.rand(1, 3, field, field, dtype=torch.float64, requires_grad=True)
    found = network(images)
    found.sum().backward()
    assert images.grad is not None
    seen = images.grad[0].abs().sum((0, 2)).nonzero().ravel()

    assert (size, stride) == size_and_stride
    assert tuple(found.shape) == (1, 128, 1, 1)
    assert size - stride < len(seen) <= size <= field


@pytest.mark.parametrize("field", [33, 65])
def test_the_strided_form_equals_the_dense_one(field):
    torch.manual_seed(0)
    network = DescriptorNetwork(field)
    side = network.size + 2 * network.stride
    images = torch.randn(1, 3, side, side)

    with torch.no_grad():
        dense, strided = network(images, dense=True), network(images)

    step = network.stride
    assert tuple(dense.shape[2:]) == (side - network.size + 1,) * 2
    torch.testing.assert_close(dense[:, :, ::step, ::step], strided)


@pytest.mark.parametrize("field", FIELDS)
def test_descriptors_cover_the_image_evenly(field):
    network = DescriptorNetwork(field)

    found = network.described(torch.randn(1, 3, 64, 64))

    side = 64 // network.stride
    assert tuple(found.shape) == (1, 128, side, side)


def test_error_and_uncertainty_follow_the_paper(pdn):
    method = pdn(n_students=2)
    method._measure(torch.from_numpy(noise(2)))
    images = method.inputs(torch.from_numpy(noise(1)))
    with torch.no_grad():
        output = method.output(images)
        target = method._target(33, images)
        first, second = method._predicted(33, images)

    assert output.scores == {}
    spread = ((first - second) ** 2).sum(1) / 4
    error = ((first + second) / 2 - target).square().sum(1)
    assert list(output.maps) == ["error 33", "uncertainty 33"]
    for found, expected in zip(output.maps.values(), (error, spread), strict=True):
        torch.testing.assert_close(found, on_grid(expected), rtol=1e-3, atol=1e-3)


def test_targets_have_mean_zero_and_deviation_one(pdn):
    method = pdn()
    pixels = torch.from_numpy(noise(2))
    method._measure(pixels)

    targets = method._target(33, method.inputs(pixels))

    torch.testing.assert_close(
        targets.mean((0, 2, 3)), torch.zeros(384), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(
        targets.std((0, 2, 3)), torch.ones(384), atol=1e-3, rtol=0
    )


def test_students_of_a_pdn_learn_and_their_file_opens(pdn, tmp_path):
    method = pdn(n_epochs=4)
    pixels = torch.from_numpy(noise(2))
    draw = Draw(torch.Generator(), 0.0)
    method._measure(pixels)
    with torch.no_grad():
        before = float(method._students_loss(pixels[:1], draw))
    (phase,) = fit(method, pixels, FitConfig()).phases
    predictor = calibrated(method, noise(3, seed=1), {"training_images": {}})
    save_method(predictor, tmp_path / "part.method")

    again = load_method(tmp_path / "part.method", [StudentTeacher])

    assert phase.steps == 8
    with torch.no_grad():
        after = float(method._students_loss(pixels[:1], draw))
    assert after < before
    assert predictor.calibration.terms == {}
    assert method.title() == "S-T, pdn-small as teacher, one field"
    image = noise(1, seed=3)[0]
    assert again.predict(image).image_score == predictor.predict(image).image_score


def test_teachers_are_made_of_a_deep_network(resnet18, tmp_path):
    for index in range(2):
        Image.fromarray(noise(1, seed=index)[0]).save(tmp_path / f"{index}.png")
    settings = StudentTeacherSettings(
        strides=(16,), input_size=64, fields=(33,), natural_images=str(tmp_path)
    )
    torch.manual_seed(0)
    method = StudentTeacher([open_stages(resnet18, (16,))], settings)
    first = "teachers.33.convolutions.0.weight"
    before = method.fitted_state()[first].clone()

    fitted = fit(method, torch.from_numpy(noise(2)), FitConfig(minutes=0.0))

    names = [(phase.name, phase.steps) for phase in fitted.phases]
    assert names == [("teacher of field 33", 1), ("students", 1)]
    assert not torch.equal(before, method.fitted_state()[first])
    assert fitted.phases[0].epochs_prescribed * 2 == 50_000 * 64


def test_teachers_without_natural_images_are_refused(resnet18):
    settings = StudentTeacherSettings(strides=(16,), input_size=64)
    method = StudentTeacher([open_stages(resnet18, (16,))], settings)

    with pytest.raises(ConfigError, match="a teacher needs natural images, no folder"):
        fit(method, torch.from_numpy(noise(2)), FitConfig())


def test_correlation_counts_different_channels_alone():
    first = torch.tensor([0.0, 1, 2, 3])
    vectors = torch.stack([first, -2 * first, torch.tensor([1.0, -1, -1, 1])], dim=1)

    torch.testing.assert_close(correlation(vectors), torch.tensor(2.0))
