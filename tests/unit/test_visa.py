"""VisA as it is published, split by its table."""

import pytest
from tests.dataset_files import HEIGHT, VISA_TABLE, WIDTH, draw, draw_mask, write_visa

from efficientad.datasets import normal_image_paths, open_category, read_defect_mask
from efficientad.errors import DatasetError


@pytest.fixture
def visa(tmp_path):
    return write_visa(tmp_path / "VisA")


def test_an_object_is_split_by_the_table(visa):
    category = open_category(visa / "candle")

    assert (category.collection, category.name) == ("visa", "candle")
    assert (len(category.train), len(category.validation)) == (12, 0)
    assert [s.defect_type for s in category.test] == ["good"] * 4 + ["anomaly"] * 3
    assert category.name_of(category.train[0].path) == "Data/Images/Normal/0000.JPG"
    for sample in category.test[4:]:
        assert read_defect_mask(sample, HEIGHT, WIDTH).sum() == WIDTH


def test_training_gets_the_images_that_the_table_names_for_it(visa):
    training, validation = normal_image_paths(visa / "pcb1")

    assert [path.stem for path in training] == [f"{i:04}" for i in range(12)]
    assert validation == []


@pytest.mark.parametrize("inner", ["Normal", "Anomaly"])
def test_an_image_folder_is_refused_for_training(visa, inner):
    with pytest.raises(DatasetError, match=r"test images of VisA .*mean .*candle\?"):
        normal_image_paths(visa / "candle" / "Data" / "Images" / inner)


def test_an_object_without_the_table_is_refused(visa):
    (visa / VISA_TABLE).unlink()

    with pytest.raises(DatasetError, match=r"1cls\.csv is not there; unpack the whole"):
        open_category(visa / "candle")


def test_an_object_that_the_table_does_not_name_is_refused(visa):
    (visa / "candle").rename(visa / "wax")

    with pytest.raises(DatasetError, match=r"1cls\.csv has no line for the object wax"):
        open_category(visa / "wax")


def test_a_fault_names_its_line_in_the_whole_table(visa):
    (visa / "pcb1/Data/Images/Normal/0001.JPG").unlink()

    # The heading, then 19 lines of candle.
    with pytest.raises(DatasetError, match=r"0001\.JPG \(.*1cls\.csv, line 22\);"):
        open_category(visa / "pcb1")


def test_a_mask_without_image_is_refused(visa):
    draw_mask(visa / "candle/Data/Masks/Anomaly/007.png", 1)

    with pytest.raises(DatasetError, match=r"1 have none: Anomaly/007\.png; add the"):
        open_category(visa / "candle")


def test_a_mask_of_a_normal_image_is_refused(visa):
    draw_mask(visa / "candle/Data/Masks/Normal/0012.png", 1)

    with pytest.raises(DatasetError, match=r"normal images need no mask.*/0012\.png;"):
        open_category(visa / "candle")


def test_a_missing_mask_of_a_defect_type_with_masks_is_refused(visa):
    table = visa / VISA_TABLE
    table.write_text(table.read_text().replace("candle/Data/Masks/Anomaly/001.png", ""))

    with pytest.raises(DatasetError, match=r"image of anomaly needs .* 1 of 3 .*001"):
        open_category(visa / "candle")


def test_images_that_the_table_does_not_name_may_have_masks(visa):
    draw(visa / "candle/Data/Images/Anomaly/007.JPG")
    draw_mask(visa / "candle/Data/Masks/Anomaly/007.png", 1)

    assert len(open_category(visa / "candle").test) == 7
