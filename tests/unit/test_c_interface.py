"""The C interface gives what Python gives, or a sentence."""

import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from tests import c_interface as c

import efficientad
from efficientad.decisions.decision import TermScale
from efficientad.decisions.rule import Rule, encode_mask
from efficientad.engines.native import NativeEngine
from efficientad.errors import ConfigError, ModelFileError
from efficientad.images.alignment import Alignment
from efficientad.images.preparation import Preparation
from efficientad.kernels import cook_toom, layers, native
from efficientad.method.composition import COMPOSITION, Composition

pytestmark = pytest.mark.skipif(
    native._compiler() is None or not layers.is_available(),
    reason="needs a C++ compiler",
)
REPOSITORY = Path(__file__).resolve().parents[2]
HEADER = struct.Struct("<8s2q")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return c.Interface(
        c.build_library(tmp_path_factory.mktemp("c") / "libefficientad.so")
    )


@pytest.fixture(scope="module")
def narrow(make_detector, calibrated):
    """A detector of few channels, run by the native layers."""
    return natively(calibrated(make_detector("small", 32, 32)))


def natively(predictor, **arrays):
    """The predictor by the native layers, with more arrays."""
    weights = {**predictor.weights, **arrays}
    engine = NativeEngine(weights, predictor.size)
    return replace(predictor, engine=engine, weights=weights)


def with_calibration(predictor, **changes):
    return replace(predictor, calibration=replace(predictor.calibration, **changes))


def with_composition(predictor, network="student"):
    """A term of the score as a trained detector's, from numbers drawn."""
    rng = np.random.default_rng(0)
    n = 16 * len(predictor.weights["teacher_mean"])
    mean, scale = (rng.uniform(0.5, 1.5, n).astype(np.float32) for _ in range(2))
    axes = (rng.normal(size=(5, n)) / n**0.5).astype(np.float32)
    arrays = Composition(0.01 * mean, scale, axes, network).arrays()
    terms = {COMPOSITION: TermScale(20.0, 0.01)}
    return with_calibration(natively(predictor, **arrays), terms=terms)


def left_half():
    mask = np.zeros((90, 120), bool)
    mask[:, :60] = True
    return encode_mask(mask)


def narrow_cases():
    """Calibrations by name, each a function of a predictor."""
    region = Rule(region_of_interest=left_half(), min_area=0.01, image_mm2=500.0)
    least = Rule(min_area=0.002)
    return {
        "as it is": lambda p: p,
        "with a least area": lambda p: with_calibration(p, rule=least),
        "with a region": lambda p: with_calibration(
            p, rule=region, given_threshold=0.0
        ),
        "with a band": lambda p: with_calibration(
            p, false_alarm_budget=1e-6, unsure_budget=0.5, threshold_rule="estimate"
        ),
        "with the composition": with_composition,
        "with the teacher's composition": lambda p: with_composition(p, "teacher"),
        "by the composition alone": lambda p: with_calibration(
            with_composition(p), score_has_map=False
        ),
    }


def assert_same(library, predictor, path, image):
    assert efficientad.export(predictor, path).lines() == []
    detector = library.open(path)
    expected = predictor.predict(image)

    found, regions, maps = library.predict(detector, image)

    library.close(detector)
    # The map and the points of a term may nearly cancel.
    assert found.score == pytest.approx(expected.image_score, rel=1e-6, abs=1e-7)
    assert found.p_value == expected.p_value
    assert found.threshold == expected.threshold
    assert c.DECISIONS[found.decision] == expected.decision
    assert (found.height, found.width) == image.shape[:2]
    names = {c.COMBINED: None, c.LOCAL: "local", c.GLOBAL: "global"}
    for index, name in names.items():
        given = expected.anomaly_map if name is None else expected.map(name)
        np.testing.assert_allclose(maps[index], given, atol=1e-6)
    assert len(regions) == len(expected.regions)
    for region, one in zip(regions, expected.regions, strict=True):
        exact = asdict(one)
        if exact["area_mm2"] is None:
            exact["area_mm2"] = np.nan
        assert region == pytest.approx(exact, rel=1e-6, nan_ok=True)
    return expected


@pytest.mark.parametrize("case", narrow_cases())
def test_c_predicts_what_python_predicts(library, narrow, photograph, tmp_path, case):
    predictor = narrow_cases()[case](narrow)

    expected = assert_same(
        library, predictor, tmp_path / "part.native", photograph(90, 120)
    )

    if case == "with a region":
        assert expected.regions
    if case == "with a band":
        assert expected.decision != "normal"


def test_c_runs_the_medium_networks(
    library, make_detector, calibrated, photograph, tmp_path
):
    medium = natively(calibrated(make_detector("medium", 32, 32)))

    assert_same(library, medium, tmp_path / "part.native", photograph(70, 90))


@pytest.fixture(scope="module")
def detector(library, narrow, tmp_path_factory):
    path = tmp_path_factory.mktemp("native") / "part.native"
    efficientad.export(narrow, path)
    return library.open(path)


@pytest.mark.parametrize(
    "size", [(8, 8), (8, 3000), (2000, 9), (256, 256), (257, 255), (700, 1001)]
)
def test_c_resizes_to_the_bit(library, detector, narrow, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)

    _, _, maps = library.predict(detector, image)

    np.testing.assert_array_equal(maps[c.LOCAL], narrow.predict(image).map("local"))


def test_a_buffer_may_have_any_order_and_stride(library, detector, photograph):
    image = photograph(60, 80)
    expected = library.predict(detector, image)[0].score
    wide = np.zeros((60, 100, 3), np.uint8)
    wide[:, :80] = image
    fourth = np.full((60, 80, 1), 7, np.uint8)
    cases: list[tuple[np.ndarray, int, dict[str, int]]] = [
        (np.ascontiguousarray(image[..., ::-1]), c.BGR, {}),
        (np.concatenate([image, fourth], 2), c.RGBA, {}),
        (np.concatenate([image[..., ::-1], fourth], 2), c.BGRA, {}),
        (wide[:, :80], c.RGB, {}),
        (np.ascontiguousarray(image[::-1])[::-1], c.RGB, {}),  # bottom-up
    ]

    for pixels, channels, options in cases:
        found, _, _ = library.predict(detector, pixels, channels, **options)
        assert found.score == expected
    gray = image[..., 0].copy()
    as_color = library.predict(detector, np.stack([gray] * 3, 2))[0].score
    assert library.predict(detector, gray, c.GRAY)[0].score == as_color != expected


def test_several_threads_predict_at_the_same_time(library, narrow, tmp_path):
    efficientad.export(narrow, tmp_path / "part.native")
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (50, 60, 3), np.uint8) for _ in range(4)]
    detectors = [library.open(tmp_path / "part.native", n) for n in (1, 2)]
    alone = [library.predict(detectors[0], image)[0].score for image in images]

    with ThreadPoolExecutor(4) as pool:
        for detector in detectors:
            found = pool.map(lambda i, d=detector: library.predict(d, i), 3 * images)
            assert [one.score for one, _, _ in found] == 3 * alone
    assert len(set(alone)) == len(images)


def assert_says(code, message, function, *arguments, **options):
    with pytest.raises(c.CError) as error:
        function(*arguments, **options)
    assert error.value.code == code
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_argument_that_cannot_be_used_is_a_sentence(library, detector, tmp_path):
    image = np.zeros((20, 30, 3), np.uint8)

    def says(message, code=c.BAD_IMAGE, **options):
        options = {"channels": c.RGB} | options
        assert_says(code, message, library.predict, detector, image, **options)

    says("needs at least 8 x 8 pixels, got 30 x 7", size=(7, 30))
    says("at least 8 x 8 pixels, got -1 x 20", size=(20, -1))
    says("may have 200 million pixels, got 20000 x 20000", size=(20_000, 20_000))
    wrong = c.BAD_ARGUMENT
    says("a row of 30 pixels has 90 bytes, got a stride of 89", wrong, stride=89)
    says("got a stride of -30", wrong, stride=-30)
    says("must be a value of ead_channels, got 5", wrong, channels=5)
    for arguments in ((None, image), (detector, np.zeros((0,), np.uint8))):
        library.raw.ead_message()
        code = library.raw.ead_predict(arguments[0], None, *(20, 30, 90), c.RGB, None)
        assert code == wrong
    assert_says(
        wrong, "n_threads must be from 0 to 1024, got -1", library.open, "a", -1
    )
    says_no_file = (c.BAD_FILE, f"no model file at {tmp_path / 'a'}: give one that")
    assert_says(*says_no_file, library.open, tmp_path / "a")
    unread = f"cannot read {tmp_path} (Is a directory); check path"
    assert_says(c.BAD_FILE, unread, library.open, tmp_path)


def test_another_aspect_than_the_region_s_is_refused(library, narrow, tmp_path):
    path = tmp_path / "part.native"
    region = with_calibration(narrow, rule=Rule(region_of_interest=left_half()))
    efficientad.export(region, path)
    detector = library.open(path)

    message = "drawn for images of 1.33 times their height, got one of 90 x 90 pixels"
    image = np.zeros((90, 90, 3), np.uint8)
    assert_says(c.BAD_IMAGE, message, library.predict, detector, image)


@pytest.fixture(scope="module")
def content(narrow, tmp_path_factory):
    path = tmp_path_factory.mktemp("content") / "part.native"
    efficientad.export(narrow, path)
    return path.read_bytes()


def test_a_file_that_is_damaged_or_foreign_is_refused(library, content, tmp_path):
    path = tmp_path / "part.native"
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    for damaged in (b"", b"text", content[:20], content[:-1], content + b"0", changed):
        path.write_bytes(damaged)
        message = f"{path} is not a native export of efficientad, or a damaged one"
        assert_says(c.BAD_FILE, message, library.open, path)
    path.write_bytes(HEADER.pack(b"EADNATIV", 2, 0) + content[HEADER.size :])
    message = "has export format 2, this library reads 1; export it again, or update"
    assert_says(c.BAD_FILE, message, library.open, path)


HOSTILE = """
import struct, sys, zlib
from pathlib import Path
from tests import c_interface as c

library, path = c.Interface(sys.argv[1]), Path(sys.argv[2])
head, content = struct.Struct(sys.argv[3]), path.read_bytes()
library.close(library.open(path))
for lie in sys.argv[4:]:
    at, value = map(int, lie.split(":"))
    body = bytearray(content[head.size :])
    struct.pack_into("<q", body, at, value)
    path.write_bytes(head.pack(b"EADNATIV", 1, zlib.crc32(body)) + body)
    try:
        library.close(library.open(path))
    except c.CError as error:
        assert error.code == c.BAD_FILE, error
    else:
        print(lie)
"""


def test_numbers_that_lie_are_refused_and_harm_nothing(library, content, tmp_path):
    """Files with a right checksum and wrong sizes, offsets and counts."""
    rng = np.random.default_rng(0)
    (n_buffers,) = struct.unpack_from("<q", content, HEADER.size)
    end_of_places = 8 * (1 + n_buffers + 3 + 4 * 7 + 1 + 9)
    places = 8 * rng.permutation(end_of_places // 8)[:40]
    values = rng.choice([-1, 2**40, -(2**63)], len(places))
    path = tmp_path / "part.native"
    path.write_bytes(content)

    lies = (f"{at}:{value}" for at, value in zip(places, values, strict=True))
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, library.raw._name, path, HEADER.format, *lies],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )

    assert not done.stdout


def test_the_program_of_the_documents_runs(library, narrow, tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("needs a C compiler")
    text = (REPOSITORY / "docs" / "howto" / "c_and_cpp.md").read_text(encoding="utf-8")
    source = tmp_path / "inspect.c"
    source.write_text(text.partition("```c\n")[2].partition("```")[0])
    options = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
    built = (library.raw._name, f"-I{c.SOURCES}", "-o", tmp_path / "inspect")
    subprocess.run(["gcc", *options, source, *built], check=True)
    efficientad.export(narrow, tmp_path / "part.native")
    black = narrow.predict(np.zeros((480, 640, 3), np.uint8))

    done = subprocess.run(
        [tmp_path / "inspect"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == black.is_anomalous, done.stderr
    score, *defects = done.stdout.splitlines()
    assert score == f"score {black.image_score:g}, threshold {black.threshold:g}"
    assert len(defects) == len(black.regions)


def test_layers_with_wrong_numbers_are_not_used(tmp_path, narrow, monkeypatch):
    matrices = cook_toom.matrices_header().replace("0.5f", "0.25f")
    monkeypatch.setattr(cook_toom, "matrices_header", lambda: matrices)
    library = c.Interface(c.build_library(tmp_path / "libefficientad.so"))
    efficientad.export(narrow, tmp_path / "part.native")

    message = "the layers for native give wrong numbers here"
    assert_says(4, message, library.open, tmp_path / "part.native")


def test_python_refuses_the_file_and_its_name(narrow, tmp_path):
    path = tmp_path / "part.native"
    efficientad.export(narrow, path)

    with pytest.raises(ModelFileError, match="is for the C interface, which Python"):
        efficientad.load(path)
    with pytest.raises(ConfigError, match=r"name it part\.ead, and make part\.native"):
        efficientad.save(narrow, path)


def test_what_c_cannot_do_is_refused_by_the_export(narrow, tmp_path, monkeypatch):
    path = tmp_path / "part.native"
    path.write_text("an earlier file")
    tiled = replace(narrow, preparation=Preparation((512, 512)))
    reference = Alignment.__new__(Alignment)
    aligned = replace(narrow, preparation=Preparation(alignment=reference))

    for predictor, options, message in (
        (tiled, {}, "this detector has tiles; train one without"),
        (aligned, {}, "this detector has alignment; train one without"),
        (replace(narrow, weights=None), {}, "got an exported model"),
        (narrow, {"precision": "int8"}, "leave precision, images and verify out"),
        (narrow, {"images": tmp_path}, "leave precision, images and verify out"),
    ):
        with pytest.raises(ConfigError, match=message):
            efficientad.export(predictor, path, **options)
    monkeypatch.setattr(layers, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="export it where a C\\+\\+ compiler is"):
        efficientad.export(narrow, path)
    assert path.read_text() == "an earlier file"
