"""Log records of the package on stderr, by the command line only."""

import contextlib
import io
import logging
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from efficientad.cli import main as cli
from efficientad.cli.process import logging_to_stderr
from efficientad.errors import ImageError
from efficientad.images.rgb import read_image

LOGGER = logging.getLogger("efficientad.some.module")


def test_messages_are_lines_on_stderr_while_the_context_lasts(capsys):
    with logging_to_stderr():
        LOGGER.info("read %d images", 3)
        LOGGER.warning("no compiler")
        LOGGER.debug("not of interest")
    LOGGER.info("nobody listens")

    assert capsys.readouterr().err == "read 3 images\nefficientad: no compiler\n"


def test_a_name_in_a_message_cannot_forge_a_line(capsys):
    with logging_to_stderr():
        LOGGER.warning("%s is damaged", "x\nefficientad: all is well\x1b[8m")

    expected = r"efficientad: x\nefficientad: all is well\x1b[8m is damaged"
    assert capsys.readouterr().err == f"{expected}\n"


def test_a_verb_shows_what_the_package_logs(monkeypatch, capsys):
    def doctor() -> int:
        LOGGER.info("a step")
        return 0

    monkeypatch.setitem(cli._VERBS, "doctor", doctor)

    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().err == "a step\n"


def test_an_error_leaves_the_logger_as_it_was():
    logger = logging.getLogger("efficientad")
    before = logger.level, list(logger.handlers)

    with pytest.raises(ZeroDivisionError), logging_to_stderr():
        raise ZeroDivisionError

    assert (logger.level, logger.handlers) == before


@pytest.mark.parametrize(("verb", "keeps"), [("train", True), ("doctor", False)])
def test_verbs_that_train_reuse_freed_memory(monkeypatch, verb, keeps):
    calls = []
    monkeypatch.setattr(
        "efficientad.cli.process.keep_freed_memory", lambda: calls.append(verb)
    )

    def stand_in() -> int:
        return 0

    monkeypatch.setitem(cli._VERBS, verb, stand_in)

    assert cli.main([verb]) == 0
    assert bool(calls) == keeps


def test_a_verb_says_nothing_of_what_image_libraries_complain_about(
    monkeypatch, capsys, tmp_path
):
    """A tag with too many entries, and a file that tifffile complains about."""
    path = tmp_path / "part.tif"
    values = np.zeros((16, 16), np.uint16)
    tags = [(271, 2, 0, "x" * 30, True)]
    tifffile.imwrite(path, values, photometric="miniswhite", extratags=tags)
    content = path.read_bytes()
    make = content.index(struct.pack("<HH", 271, 2))
    damaged = bytearray(content)
    damaged[make + 8 : make + 12] = (2**30).to_bytes(4, "little")
    path.write_bytes(damaged)

    def doctor() -> int:
        with contextlib.suppress(ImageError):
            read_image(path)
        return 0

    monkeypatch.setitem(cli._VERBS, "doctor", doctor)

    assert cli.main(["doctor"]) == 0
    assert not capsys.readouterr().err

    with pytest.warns(UserWarning, match="EXIF|Truncated"):  # the positive control
        read_image(path)


def test_a_verb_says_nothing_of_what_libtiff_writes_itself(
    monkeypatch, capfd, tmp_path
):
    """A quantization table that is missing: libtiff writes a line past Python."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "TIFF", compression="jpeg")
    path = tmp_path / "part.tif"
    path.write_bytes(buffer.getvalue().replace(b"\xff\xdb", b"\xff\xe5", 1))

    def doctor() -> int:
        with pytest.raises(ImageError, match="decoder error"):
            read_image(path)
        return 0

    monkeypatch.setitem(cli._VERBS, "doctor", doctor)

    assert cli.main(["doctor"]) == 0
    assert not capfd.readouterr().err

    with pytest.raises(ImageError):  # the positive control
        read_image(path)
    assert "Quantization table" in capfd.readouterr().err
