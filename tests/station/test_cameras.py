"""Frames of a video, of a test picture and of any program, inspected."""

import sys
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.station_fakes import (
    INSPECTIONS,
    config_in,
    incidents,
    listed,
    running,
    station_of,
    wait_until,
)
from tests.station_models import ANOMALOUS, NORMAL

from efficientad.errors import ConfigError, ImageError
from efficientad.station.config import Camera, StationConfig, shown
from efficientad.station.sources.ppm import read_frame

av = pytest.importorskip("av")
FOREVER = (
    "import sys, time\n"
    "while True:\n"
    "    sys.stdout.buffer.write(b'P6 32 32 255\\n' + bytes([60]) * 3072)\n"
    "    sys.stdout.buffer.flush()\n"
    "    time.sleep(0.02)\n"
)
STUCK = FOREVER.replace("time.sleep(0.02)", "time.sleep(600)")
BURST = FOREVER.replace("    time.sleep(0.02)\n", "").replace(
    "while True", "for _ in range(300)"
)


def draw_video(path, levels):
    """Write a video without loss, each frame of one brightness."""
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for level in levels:
            pixels = np.full((48, 64, 3), level, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def camera_of(client):
    """Return the only camera of a station behind a client."""
    app: Any = client.app
    return app.state.cameras["line"]


def with_camera(folder, name="line", **settings):
    return config_in(folder, cameras=(Camera(name=name, **settings),))


def program(text, **settings):
    return {"command": (sys.executable, "-c", text), **settings}


def test_every_frame_of_a_video_is_inspected_once_also_after_a_new_start(tmp_path):
    levels = [ANOMALOUS if n % 10 == 3 else NORMAL + n % 5 for n in range(30)]
    video = draw_video(tmp_path / "line.mkv", levels)
    config = with_camera(tmp_path, address=str(video), mode="every")
    for _ in range(2):
        with running(config) as client:
            camera = camera_of(client)
            wait_until(lambda: not camera._threads[0].is_alive())  # noqa: B023
            wait_until(lambda: not camera._waiting)  # noqa: B023
        assert camera._process.returncode == 0
    with running(config) as client:
        found = listed(client, source="line")[::-1]
        told = incidents(client)
        sent = client.get(f"{INSPECTIONS}/{found[3]['id']}/image").content

    assert [round(each["image_score"] * 255) for each in found] == levels
    assert [n for n, f in enumerate(found) if f["decision"] == "anomalous"] == [
        3,
        13,
        23,
    ]
    assert told == []
    assert (np.asarray(Image.open(BytesIO(sent))) == ANOMALOUS).all()


def test_a_free_camera_shows_its_newest_frame(tmp_path):
    config = with_camera(tmp_path, address="lavfi:testsrc=size=64x48:rate=50")
    with running(config) as client:
        wait_until(lambda: len(listed(client, source="line")) >= 3)
        state = client.get("/api/v1/system").json()["sources"]

    assert state == [
        {
            "name": "line",
            "kind": "camera",
            "settings": {"mode": "free"},
            "state": "running",
        }
    ]


def test_a_trigger_takes_the_next_frame(tmp_path):
    config = with_camera(tmp_path, **program(FOREVER, mode="trigger"))
    place = "/api/v1/sources/line"
    with running(config) as client:
        answer = client.post(f"{place}/trigger")
        number = answer.json()["inspection"]
        one = f"{INSPECTIONS}/{number}"
        wait_until(lambda: client.get(one).status_code == 200)
        client.post(f"{place}/pause")
        wait_until(lambda: not camera_of(client)._is_running)
        assert client.post(f"{place}/trigger").status_code == 409
        unknown = client.post("/api/v1/sources/other/trigger")
        found = listed(client)

    assert answer.status_code == 202
    assert [each["id"] for each in found] == [number]
    assert found[0]["decision"] == "normal"
    assert unknown.status_code == 404


def test_a_camera_that_hangs_is_opened_again(tmp_path):
    config = with_camera(tmp_path, **program(STUCK, stall_seconds=0.5))
    with running(config) as client:
        wait_until(lambda: len(listed(client)) >= 2)
        told = incidents(client)

    assert "line: no frame came for 0.5 seconds" in {i["detail"] for i in told}


def test_a_frame_without_a_place_is_told_and_undecided(tmp_path):
    config = with_camera(tmp_path, **program(BURST, mode="every"))
    with running(config) as client:
        wait_until(lambda: listed(client, decision="undecided"))
        lost = listed(client, decision="undecided")[0]
        client.post("/api/v1/sources/line/pause")
        told = incidents(client)

    assert (lost["source"], lost["media_state"]) == ("line", "removed")
    assert lost["error"] == "8 frames wait already"
    assert any("a frame was lost" in each["detail"] for each in told)


def test_a_program_that_fails_is_an_incident_with_its_last_words(tmp_path):
    text = "import sys; sys.exit('no such camera')"
    config = with_camera(tmp_path, **program(text))
    with running(config) as client:
        wait_until(lambda: incidents(client))
        told = incidents(client)
        assert station_of(client).problem is None

    assert told[0]["detail"] == "line: no such camera"


def test_frames_are_read_one_by_one():
    pixels = np.arange(24, dtype=np.uint8)
    stream = BytesIO(b"P6\n# drawn\n4 2\n255\n" + pixels.tobytes() + b"P6 1 1 255 abc")

    np.testing.assert_array_equal(read_frame(stream.read), pixels.reshape(2, 4, 3))
    np.testing.assert_array_equal(read_frame(stream.read), [[[97, 98, 99]]])
    assert read_frame(stream.read) is None


@pytest.mark.parametrize(
    "content",
    [
        b"P5 1 1 255 a",
        b"P6 1 1 65535 abcdef",
        b"P6 0 1 255 ",
        b"P6 99999999 99999999 255 ",
        b"P6 x",
        b"P6 2 2 255 abc",
    ],
)
def test_anything_but_frames_is_refused(content):
    with pytest.raises(ImageError):
        read_frame(BytesIO(content).read)


@pytest.mark.parametrize(
    "settings", [{}, {"address": "/dev/video0", "command": ("x",)}]
)
def test_a_camera_has_one_way_to_its_frames(settings):
    with pytest.raises(ConfigError, match="needs an address or a command"):
        Camera(name="line", **settings)


def test_the_password_of_a_camera_is_not_shown(tmp_path):
    camera = Camera(name="line", address="rtsp://me:secret@host/live")
    config = StationConfig(model=tmp_path / "part.ead", cameras=(camera,))

    assert shown(config)["cameras"][0]["address"] == "rtsp://…@host/live"
