"""MVTec LOCO's annotation in an evaluation, against the metric called by hand."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tests.fake_engines import BrightnessEngine, brightness_predictor
from tests.pixel_metrics import au_pro, au_spro

from efficientad.datasets import open_category
from efficientad.datasets.annotations import SaturationArea
from efficientad.engines.engine import EngineOutput
from efficientad.errors import DatasetError
from efficientad.evaluation.evaluate import evaluate
from efficientad.images.rgb import image_hash, read_image

SIDE = 32
AREAS = {
    254: SaturationArea(40, is_relative=False),
    227: SaturationArea(0.5, is_relative=True),
}


class PixelEngine(BrightnessEngine):
    """Bright is anomalous, a cell of the grid being a pixel of the image."""

    def run(self, pixels):
        n, _, _, _ = pixels.shape
        cells = pixels[..., 0].reshape(n, SIDE, 256 // SIDE, SIDE, 256 // SIDE)
        grids = cells.mean((2, 4), dtype=np.float32) / np.float32(255)
        return EngineOutput({"local": grids, "global": grids})


def pixel_predictor(training_images=()):
    trained_on = brightness_predictor(training_images=dict(training_images))
    return replace(trained_on, engine=PixelEngine())


def noise(seed):
    return np.random.default_rng(seed).integers(0, 200, (SIDE, SIDE), np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def channel(rows, columns, value):
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[rows, columns] = value
    return labels


CHANNELS = {
    "logical_anomalies": [
        [channel(np.s_[2:12], np.s_[2:12], 254)],
        [
            channel(np.s_[0:9], np.s_[0:9], 254),
            channel(np.s_[5:20], np.s_[5:9], 254),
        ],
    ],
    "structural_anomalies": [[channel(np.s_[20:30], np.s_[10:24], 227)]],
}


@pytest.fixture
def category(tmp_path):
    root = tmp_path / "juice_bottle"
    for i in range(3):
        save(root / f"test/good/{i:03}.png", noise(i))
    for kind, images in CHANNELS.items():
        for i, channels in enumerate(images):
            pixels = noise(10 + i)
            for k, labels in enumerate(channels):
                pixels[labels > 0] += 30
                save(root / f"ground_truth/{kind}/{i:03}/{k:03}.png", labels)
            save(root / f"test/{kind}/{i:03}.png", pixels)
    write_config(
        root, [entry(254, 40, is_relative=False), entry(227, 0.5, is_relative=True)]
    )
    return root


def entry(value, threshold, *, is_relative):
    return {
        "defect_name": "a defect",
        "pixel_value": value,
        "saturation_threshold": threshold,
        "relative_saturation": is_relative,
    }


def write_config(root, content):
    (root / "defects_config.json").write_text(json.dumps(content))


def expected(root, kinds, limit):
    maps, channels = [], []
    for sample in open_category(root).test:
        if sample.defect_type in {"good", *kinds}:
            predicted = pixel_predictor().predict(sample.path)
            maps.append(predicted.anomaly_map)
            of_kind = CHANNELS.get(sample.defect_type)
            channels.append(of_kind[int(sample.path.stem)] if of_kind else [])
    return au_spro(maps, channels, AREAS, limit)


def test_mvtec_loco_is_measured_by_au_spro(category, tmp_path):
    evaluation = evaluate(pixel_predictor(), category, output=tmp_path / "out")

    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for name, limit in (
        ("au_spro", 0.05),
        ("au_spro_0.1", 0.1),
        ("au_spro_0.3", 0.3),
        ("au_spro_1", 1.0),
    ):
        assert written[name] == expected(category, CHANNELS, limit)
        for kind, metrics in evaluation.metrics_by_defect_type.items():
            assert metrics[name] == expected(category, [kind], limit)
    assert "au_pro" not in written
    assert "AU-sPRO" in (tmp_path / "out" / "report.html").read_text()


def test_without_saturation_areas_it_is_au_pro(category):
    (category / "defects_config.json").unlink()

    metrics = evaluate(pixel_predictor(), category).metrics

    masks, maps = [], []
    for sample in open_category(category).test:
        maps.append(pixel_predictor().predict(sample.path).anomaly_map)
        of_kind = CHANNELS.get(sample.defect_type)
        joined = np.zeros((SIDE, SIDE), np.uint8)
        for labels in of_kind[int(sample.path.stem)] if of_kind else []:
            joined |= labels
        masks.append(joined > 0)
    assert metrics["au_pro"] == au_pro(maps, masks)
    assert not any(name.startswith("au_spro") for name in metrics)


def test_a_value_without_saturation_area_names_the_masks(category):
    write_config(category, [entry(254, 40, is_relative=False)])

    with pytest.raises(
        DatasetError, match=r"structural_anomalies/000 do not fit: .*the value 227, but"
    ):
        evaluate(pixel_predictor(), category)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", r"config\.json cannot be used \(Expecting value"),
        ("{}", r"config\.json cannot be used \(no list of objects\); take the"),
        ("[3]", r"config\.json cannot be used \(no list of objects\)"),
        ('[{"pixel_value": 254}]', r"needs 'saturation_threshold', entry 0 has pixel"),
        (
            json.dumps([entry(254, 3, is_relative=True)]),
            r"relative saturation area must be in \(0, 1\], got 3",
        ),
        (json.dumps([entry(254, None, is_relative=True)]), "NoneType"),
    ],
)
def test_a_wrong_defects_config_is_named(category, text, message):
    (category / "defects_config.json").write_text(text)

    with pytest.raises(DatasetError, match=message):
        evaluate(pixel_predictor(), category)


def test_test_images_that_were_trained_on_are_refused(category):
    (category / "defects_config.json").unlink()
    first = open_category(category).test[0].path
    predictor = pixel_predictor({"one.png": image_hash(read_image(first))})

    with pytest.raises(DatasetError, match=r"000\.png was, as one\.png; train on"):
        evaluate(predictor, category)


def test_a_published_collection_is_evaluated_with_its_duplicates(category):
    first = open_category(category).test[0].path
    predictor = pixel_predictor({"one.png": image_hash(read_image(first))})

    assert "au_spro" in evaluate(predictor, category).metrics


def test_a_category_without_annotation_has_image_metrics_only(category):
    shutil.rmtree(category / "ground_truth")

    assert set(evaluate(pixel_predictor(), category).metrics) == {
        "image_au_roc",
        "image_au_roc_held_out",
        "image_average_precision",
        "image_f1_max",
        "image_recall_at_fpr_0.01",
    }


def test_a_metric_without_a_value_is_missing_with_its_reason(category, tmp_path):
    shutil.rmtree(category / "ground_truth" / "logical_anomalies")
    names = {"pixel_au_roc", "au_spro", "au_spro_0.1", "au_spro_0.3", "au_spro_1"}
    reason = "AU-sPRO needs at least one defect region, got none in 3 images"

    evaluation = evaluate(pixel_predictor(), category, output=tmp_path / "out")

    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert names <= set(written)
    assert not names & set(written["by_defect_type"]["logical_anomalies"])
    assert (written["undefined"], evaluation.undefined) == ({}, {})
    by_type = written["undefined_by_defect_type"]
    assert by_type == evaluation.undefined_by_defect_type
    assert set(by_type) == {"logical_anomalies"}
    assert set(by_type["logical_anomalies"]) == names
    assert by_type["logical_anomalies"]["au_spro"].startswith(reason)
    assert (tmp_path / "out" / "report.html").read_text().count(reason) == 1
