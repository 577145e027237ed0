"""AST: sizes as published, a flow that begins as a permutation, the mean as score."""

import pytest
import torch
from tests.contracts.engine_checks import check_engine, noise

from efficientad_lab.methods.asymmetric import (
    AsymmetricSettings,
    AsymmetricStudentTeacher,
    Student,
    Teacher,
    TeacherBlock,
    positions,
)
from efficientad_lab.methods.fitting import FitConfig, fit
from efficientad_lab.methods.predictors import calibrated, load_method, save_method
from efficientad_lab.methods.stages import open_stages

pytestmark = pytest.mark.usefixtures("one_thread")


def millions(network):
    return sum(p.numel() for p in network.parameters()) / 1e6


def test_networks_have_as_many_parameters_as_published():
    with torch.device("meta"):
        student = Student(304, 1024)
    assert round(millions(student), 1) == 81.4
    assert round(millions(Teacher(304, 64, 0)), 1) == pytest.approx(3.2, abs=0.1)
    # Weights and biases of the convolutions grow with the hidden channels alone.
    assert round(millions(Teacher(304, 64, 0)) * 16, 0) == 52


def test_an_untrained_teacher_permutes_alone():
    torch.manual_seed(0)
    teacher = Teacher(8, 4, seed=1)
    features = torch.randn(2, 8, 3, 4)

    found, determinants = teacher(features)

    assert not determinants.any()
    torch.testing.assert_close(found.sort(1).values, features.sort(1).values)
    assert not torch.equal(found, features)


def trained(teacher):
    for name, parameter in teacher.named_parameters():
        if name.endswith("scale"):
            torch.nn.init.constant_(parameter, 0.7)
    return teacher


def test_the_determinant_is_that_of_autograd():
    torch.manual_seed(0)
    teacher = trained(Teacher(4, 6, seed=1)).double()
    features = torch.randn(1, 4, 2, 2, dtype=torch.float64)

    def flat(values):
        return teacher(values.view(1, 4, 2, 2))[0].flatten()

    jacobian = torch.autograd.functional.jacobian(flat, features.flatten())
    _, determinants = teacher(features)

    torch.testing.assert_close(determinants.sum(), torch.linalg.slogdet(jacobian)[1])


def test_exponents_stay_within_the_clamp():
    torch.manual_seed(0)
    block = TeacherBlock(4, 6, 3, torch.Generator())
    torch.nn.init.constant_(block.of_first.scale, 1e6)

    exponents, _ = block.of_first(torch.randn(1, 34, 5, 5))

    assert 2.9 < exponents.abs().max() <= 3


def test_every_position_has_its_own_code():
    code = positions(torch.zeros(1, 4, 24, 20))[0]

    assert tuple(code.shape) == (32, 24, 20)
    assert len(code.flatten(1).T.unique(dim=0)) == 24 * 20
    torch.testing.assert_close(code[0, 5], torch.arange(20.0).sin())
    torch.testing.assert_close(code[17, :, 3], torch.arange(24.0).cos())


def test_teacher_then_student_are_trained_and_their_file_opens(resnet18, tmp_path):
    settings = AsymmetricSettings(
        input_size=96, teacher_width=8, student_width=8, n_epochs=6, batch_size=2
    )
    torch.manual_seed(0)
    method = AsymmetricStudentTeacher([open_stages(resnet18, (16,))], settings)
    before = {name: v.clone() for name, v in method.fitted_state().items()}

    fitted = fit(method, torch.from_numpy(noise(4)), FitConfig())
    predictor = calibrated(method, noise(3, seed=1), {"training_images": {}})
    save_method(predictor, tmp_path / "part.method")
    again = load_method(tmp_path / "part.method", [AsymmetricStudentTeacher])

    assert [phase.name for phase in fitted.phases] == ["teacher", "student"]
    changed = method.fitted_state()
    for name in ("teacher.blocks.0.of_first.scale", "student.layers.0.weight"):
        assert not torch.equal(before[name], changed[name])
    assert method.title() == "AST, resnet18 stride 16, 96 px, widths 8/8"
    check_engine(again.engine)
    output = again.engine.run(noise(1, seed=3))
    assert output.values["score"].item() == pytest.approx(
        output.grids["anomaly"].mean(), rel=0.1
    )
