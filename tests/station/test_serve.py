"""The verb `serve` with a real model, and the demo's feed."""

import json
import signal
import socket
import sys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from tests.station.test_kills import command_in

import efficientad
from efficientad.cli.main import main
from efficientad.station.config import read_config
from efficientad_lab.demo_station import part_file
from lab.experiments.station.harness import (
    INSPECTIONS,
    free_port,
    request,
    station_process,
)


def test_the_verb_predicts_as_the_library_does(tmp_path, predictor, photograph):
    model, image = tmp_path / "part.ead", tmp_path / "image.png"
    efficientad.save(predictor, model)
    Image.fromarray(photograph(120, 200, seed=3)).save(image)
    expected = efficientad.load(model).predict(image)
    port = free_port()
    options = ["--data", str(tmp_path / "data"), "--port", str(port)]
    command = [sys.executable, "-m", "efficientad", "serve", str(model), *options]
    with station_process(command, port, tmp_path / "log") as process:
        status, body = request(port, "POST", INSPECTIONS, image.read_bytes())
        damaged = request(port, "POST", "/api/v1/models?name=x", b"no model")
        page = request(port, "GET", "/")
        process.stop(signal.SIGINT)
        assert process.exit_code == 0

    found = json.loads(body)
    assert status == 201
    assert found["image_score"] == pytest.approx(expected.image_score, rel=1e-5)
    assert found["p_value"] == expected.p_value
    assert found["decision"] == expected.decision
    assert (found["height"], found["width"]) == (120, 200)
    assert damaged[0] == 422
    assert page[0] == 200
    assert f"station at http://127.0.0.1:{port}/" in (tmp_path / "log").read_text()


def test_systemd_is_told_that_the_station_runs(tmp_path, monkeypatch):
    place = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(place))
        told.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(place))
        port = free_port()
        with station_process(command_in(tmp_path, port), port, tmp_path / "log"):
            messages = [told.recv(100) for _ in range(2)]

    assert messages == [b"READY=1", b"WATCHDOG=1"]


def test_a_new_token_is_printed_with_the_lines_that_let_it_in(tmp_path, capsys):
    assert main(["serve", "part.ead", "--new-token", 'line "1"']) == 0

    token, *lines = capsys.readouterr().out.splitlines()
    path = tmp_path / "station.toml"
    path.write_text("\n".join(['model = "part.ead"', *lines]))
    (entry,) = read_config(path, {}, {}).tokens
    assert entry.name == 'line "1"'
    assert entry.role == "line"
    assert len(token) > 40
    assert token.removeprefix("token: ") not in path.read_text()


def test_a_missing_model_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert main(["serve", "part.ead"]) == 2
    assert "no model file at part.ead" in capsys.readouterr().err


def test_a_port_in_use_is_one_sentence(tmp_path, capsys):
    model = tmp_path / "part.ead"
    model.write_bytes(b"x")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = ["--port", port, "--data", str(tmp_path / "data")]
        assert main(["serve", str(model), *options]) == 2

    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("efficientad: a station needs a free port")
    assert not (tmp_path / "data").exists()


def test_the_feed_of_the_demo_has_a_defective_part_in_eight():
    parts = [part_file(number) for number in range(16)]

    assert [is_defective for _, is_defective in parts] == ([False] * 7 + [True]) * 2
    assert part_file(3) == parts[3]
    pictures = [np.asarray(Image.open(BytesIO(content))) for content, _ in parts]
    assert all(picture.shape == (256, 256, 3) for picture in pictures)
    assert len({content for content, _ in parts}) == 16
