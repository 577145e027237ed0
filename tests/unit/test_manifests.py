"""Manifests of Amazon Lookout for Vision."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.dataset_files import HEIGHT, WIDTH, draw

from efficientad.datasets import normal_image_paths, open_category, read_defect_mask
from efficientad.datasets.checks import check_category
from efficientad.errors import DatasetError

COLORS = {
    "0": {"class-name": "BACKGROUND", "hex-color": "#ffffff", "confidence": 0.0},
    "1": {"class-name": "scratch", "hex-color": "#2ca02c", "confidence": 0.0},
}


def entry(folder, number, *, label=0, mask=False):
    name = f"parts/{number:03}.png"
    draw(folder / name, number)
    found = {
        "source-ref": f"s3://a-bucket/{name}",
        "anomaly-label": label,
        "anomaly-label-metadata": {
            "class-name": "anomaly" if label else "normal",
            "type": "groundtruth/image-classification",
        },
    }
    if mask:
        pixels = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
        pixels[:2] = (0x2C, 0xA0, 0x2C)
        place = folder / "masks" / f"{number:03}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place)
        found["anomaly-mask-ref"] = f"s3://a-bucket/masks/{number:03}.png"
        found["anomaly-mask-ref-metadata"] = {"internal-color-map": COLORS}
    return found


def write(path, entries):
    path.write_text("".join(json.dumps(each) + "\n" for each in entries))
    return path


@pytest.mark.parametrize("name", ["all.manifest", "all.jsonl"])
def test_normal_images_are_for_the_training_and_every_fifth_for_the_test(
    tmp_path, name
):
    entries = [entry(tmp_path, n) for n in range(15)]
    entries.append(entry(tmp_path, 15, label=1, mask=True))
    path = write(tmp_path / name, entries)

    category = open_category(path)
    training, _ = normal_image_paths(path)

    assert [len(part) for part in category.splits.values()] == [12, 0, 4]
    assert len(training) == 12
    assert {sample.defect_type for sample in category.test} == {"good", "scratch"}
    mask = read_defect_mask(category.test[-1], HEIGHT, WIDTH)
    assert mask[:2].all()
    assert not mask[2:].any()
    assert [f.message for f in check_category(path).findings if f.kind == "mask"] == []


def test_the_test_manifest_beside_the_one_for_training_is_the_test(tmp_path):
    train = [entry(tmp_path, n) for n in range(11)]
    train.append(entry(tmp_path, 11, label=1))
    path = write(tmp_path / "train.manifest", train)
    write(tmp_path / "test.manifest", [entry(tmp_path, n) for n in (12, 13)])

    category = open_category(path)

    assert [len(part) for part in category.splits.values()] == [11, 0, 3]
    assert category.test[-1].defect_type == "anomaly"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source-ref": 5}, "line 1, has 5 and 0; correct it, or remove the line"),
        ({"anomaly-label": "x"}, "needs a source-ref and an anomaly-label of 0 or 1"),
        ({"anomaly-label": []}, r"has 's3://a-bucket/parts/000.png' and \[\]"),
        ({"anomaly-label": 1, "anomaly-mask-ref": "a.png"}, "the color of BACKGROUND"),
        (
            {
                "anomaly-label": 1,
                "anomaly-mask-ref": "a.png",
                "anomaly-mask-ref-metadata": {
                    "internal-color-map": {
                        "0": {"class-name": "BACKGROUND", "hex-color": "white"}
                    }
                },
            },
            "the color of BACKGROUND",
        ),
        ({"source-ref": "s3://b/gone.png"}, r"image was needed at .*gone\.png"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, change, message):
    path = write(tmp_path / "all.manifest", [entry(tmp_path, 0) | change])

    with pytest.raises(DatasetError, match=message):
        open_category(path, needs_test=False)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe{", b"[1]"])
def test_a_file_that_is_no_manifest_is_refused(tmp_path, content):
    path = tmp_path / "all.manifest"
    path.write_bytes(content)

    with pytest.raises(DatasetError, match="manifest"):
        open_category(path, needs_test=False)


def test_a_separator_of_unicode_in_a_name_ends_no_line(tmp_path):
    found = entry(tmp_path, 1) | {"source-ref": "a\u2028b\x85.png"}
    path = tmp_path / "parts.jsonl"
    path.write_text(json.dumps(found, ensure_ascii=False) + "\r\n", encoding="utf-8")
    draw(tmp_path / "a\u2028b\x85.png", 1)

    (sample,) = open_category(path, needs_test=False).train
    assert sample.path.is_file()
