"""Alignment: how a part lies in an image, and its maps in the image's own frame."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

import efficientad
from efficientad.calibration.normal_images import alignment_of
from efficientad.decisions.rule import Region
from efficientad.errors import ConfigError, ImageError
from efficientad.images.alignment import Alignment, fit_alignment, gray_of
from efficientad.images.pose import Pose

HEIGHT, WIDTH = 300, 400


def part(angle=0.0, right=0.0, down=0.0, seed=0):
    """An L of two bars with a hole, turned clockwise and moved, on a noisy ground."""
    picture = Image.new("L", (WIDTH, HEIGHT), 90)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((130, 90, 270, 130), 220)
    draw.rectangle((130, 90, 165, 220), 200)
    draw.ellipse((235, 100, 255, 120), 20)
    turned = picture.rotate(
        -angle,
        Image.Resampling.BICUBIC,
        translate=(right * WIDTH, down * WIDTH),
        fillcolor=90,
    )
    noise = np.random.default_rng(seed).normal(0, 4, (HEIGHT, WIDTH))
    gray = np.clip(np.asarray(turned) + noise, 0, 255).astype(np.uint8)
    return np.repeat(gray[..., np.newaxis], 3, 2)


@pytest.fixture(scope="module")
def alignment():
    rng = np.random.default_rng(5)
    poses = rng.uniform(-1, 1, (8, 3)) * (15, 0.03, 0.03)
    images = [part(a, x, y, i) for i, (a, x, y) in enumerate(poses)]
    return fit_alignment([gray_of(image) for image in [part(), *images]])


@pytest.mark.parametrize("angle", [0, 17, 90, 141, 180, 275])
def test_a_turned_and_moved_part_lies_as_in_the_reference(alignment, angle):
    image = part(angle, 0.04, -0.03, seed=99)

    aligned = alignment.pose(image).aligned(image)

    inside = np.s_[60:240, 100:300]
    before = np.abs(image[inside].astype(int) - part()[inside]).mean()
    after = np.abs(aligned[inside].astype(int) - part()[inside]).mean()
    assert after < 10 < before
    turned = abs((alignment.pose(image).angle - angle + 180) % 360 - 180)
    assert turned < 1


@pytest.mark.parametrize("pose", [(53, 0, 0), (45, 0.2, 0.2), (90, 0, 0), (5, -0.3, 0)])
@pytest.mark.parametrize("size", [(480, 640), (500, 1000), (256, 256)])
def test_alignment_repeats_the_border(pose, size):
    white = np.full((*size, 3), 255, np.uint8)

    assert Pose(*pose).aligned(white).min() == 255


def test_an_image_without_the_part_is_refused(alignment, photograph):
    for image in (photograph(HEIGHT, WIDTH), np.full((HEIGHT, WIDTH, 3), 90, np.uint8)):
        with pytest.raises(ImageError, match=r"the part was not found: .* at least 0"):
            alignment.pose(image)


def test_a_map_and_a_mask_come_back_to_their_places():
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, 255, (6, 8), dtype=np.uint8)
    values = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT)), np.float32)
    image = np.repeat(values.astype(np.uint8)[..., np.newaxis], 3, 2)
    pose = Pose(31.0, 0.03, -0.05)

    back = pose.in_own_frame(pose.aligned(image)[..., 0].astype(np.float32))

    middle = np.s_[100:200, 130:270]
    assert np.abs(back[middle] - values[middle]).max() < 4
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[140:160, 190:210] = True
    own = pose.mask_in_own_frame(mask)
    assert own.sum() == pytest.approx(mask.sum(), rel=0.1)


def test_a_region_gets_its_box_in_the_image():
    region = Region(190, 100, 20, 10, 200.0, 199.5, 104.5, 1.0, 0.5)
    pose = Pose(90.0, 0.0, 0.0)

    found = region.in_own_frame(pose, 400, 400)

    mask = np.zeros((400, 400), bool)
    mask[100:110, 190:210] = True
    rows, columns = np.nonzero(pose.mask_in_own_frame(mask))
    assert abs(found.x - columns.min()) <= 1
    assert abs(found.y - rows.min()) <= 1
    assert abs(found.width - 10) <= 1
    assert abs(found.height - 20) <= 1
    assert found.centroid_x == pytest.approx(columns.mean(), abs=0.6)
    assert found.centroid_y == pytest.approx(rows.mean(), abs=0.6)
    assert (found.area, found.peak) == (200.0, 1.0)


@pytest.mark.parametrize("text", ["abc", "!", ""])
def test_a_damaged_reference_is_refused(text):
    with pytest.raises(ConfigError, match="no picture"):
        Alignment(text, 0.5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aligned")
    (folder / "good").mkdir()
    rng = np.random.default_rng(7)
    for seed in range(12):
        right, down = rng.uniform(-0.03, 0.03, 2)
        image = part(rng.uniform(0, 360), right, down, seed)
        Image.fromarray(image).save(folder / "good" / f"{seed}.png")
    config = efficientad.TrainConfig(preset="quick", steps=3, align="always")
    path = folder / "part.ead"
    efficientad.train(folder / "good", config, output=path)
    return path


def test_maps_of_a_turned_part_are_those_of_the_part_as_it_lies(trained):
    predictor = efficientad.load(trained)
    assert predictor.preparation.alignment is not None

    first = predictor.predict(part(0, seed=50))
    second = predictor.predict(part(120, 0.03, 0.02, seed=50))

    assert second.pose is not None
    assert second.anomaly_map.shape == (HEIGHT, WIDTH)
    assert second.image_score == pytest.approx(first.image_score, abs=0.15)
    with pytest.raises(ImageError, match="the part was not found"):
        predictor.predict(np.full((HEIGHT, WIDTH, 3), 90, np.uint8))


def test_files_and_exports_keep_the_alignment(trained, tmp_path):
    predictor = efficientad.load(trained)
    image = part(200, seed=51)
    expected = predictor.predict(image)

    efficientad.export(predictor, tmp_path / "part.onnx")
    found = efficientad.load(tmp_path / "part.onnx").predict(image)

    assert found.pose == expected.pose
    assert found.image_score == pytest.approx(expected.image_score, rel=1e-3)


def test_calibration_aligns_its_images(trained):
    predictor = efficientad.load(trained)
    images = [part(angle, seed=60 + angle) for angle in (10, 100, 300)]

    again = efficientad.calibrate(predictor, images)

    scores = sorted(again.predict(image).image_score for image in images)
    np.testing.assert_allclose(again.calibration.normal_scores, scores, rtol=1e-5)
    with pytest.raises(ImageError, match="image 0: the part was not found"):
        efficientad.calibrate(predictor, [np.full((HEIGHT, WIDTH, 3), 90, np.uint8)])


def test_only_images_in_different_poses_are_aligned_on_their_own(photograph):
    rng = np.random.default_rng(8)
    anywhere = [part(rng.uniform(0, 360), 0, 0, seed) for seed in range(10)]
    in_place = [part(0, 0, 0, seed) for seed in range(10)]
    without_part = [photograph(HEIGHT, WIDTH, seed) for seed in range(10)]

    assert alignment_of(anywhere, None) is not None
    assert alignment_of(in_place, None) is None
    assert alignment_of(without_part, None) is None
    assert alignment_of(in_place, "always") is not None
    assert alignment_of(anywhere, "never") is None
    assert alignment_of([np.full((50, 50, 3), 9, np.uint8)] * 3, None) is None
