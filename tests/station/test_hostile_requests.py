"""Requests that no honest client sends: each is refused in words, and nothing else."""

import json
import socket
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image
from tests.image_files import encoded
from tests.station.test_kills import command_in
from tests.station_fakes import (
    INSPECTIONS,
    config_in,
    image_of,
    incidents,
    post,
    running,
    station_of,
)
from tests.station_models import NORMAL

from lab.experiments.station.harness import free_port, request, station_process

PROBLEM = "application/problem+json"
NUMBER = "01a229c9-2b0f-7505-a70e-51300368b131"
GRAY = Image.new("L", (16, 16))


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    folder = tmp_path_factory.mktemp("station")
    with running(config_in(folder, max_upload_mb=1, max_megapixels=4)) as client:
        yield client
        assert incidents(client) == []
        assert station_of(client).admission.n_taken == 0
        assert post(client).json()["decision"] == "normal"


def png_of(width, height, data=b""):
    """Return a PNG whose header promises a size; its checksums are right."""

    def chunk(kind, content):
        body = kind + content
        return (
            struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def tiff_of(values):
    file = BytesIO()
    tifffile.imwrite(file, values)
    return file.getvalue()


PNG = image_of(NORMAL)
IMAGES = {
    "empty": (b"", 422),
    "one byte": (b"x", 415),
    "text": (b"hello, I am an image", 415),
    "html": (b"<html><script>alert(1)</script></html>", 415),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415),
    "zip": (b"PK\x03\x04" + bytes(100), 415),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), 415),
    "pdf": (b"%PDF-1.7\n" + bytes(100), 415),
    "wave": (b"RIFF\x00\x00\x00\x00WAVEfmt ", 415),
    "pickle": (b"\x80\x04\x95" + bytes(50), 415),
    "only a signature": (PNG[:12], 422),
    "half a png": (PNG[: len(PNG) // 2], 422),
    "png with a wrong checksum": (PNG[:40] + b"\xff" + PNG[41:], 422),
    "png larger than allowed": (png_of(30_000, 30_000), 422),
    "png of 2^31 pixels a side": (png_of(2**31 - 1, 2**31 - 1), 422),
    "png without pixels": (png_of(64, 64), 422),
    "png of no size": (png_of(0, 0), 422),
    "png of one pixel": (png_of(1, 1, bytes(4)), 422),
    "compressed bomb": (png_of(2001, 2000, bytes(2000 * (1 + 3 * 2001))), 422),
    "jpeg signature": (b"\xff\xd8\xff" + bytes(200), 422),
    "bmp signature": (b"BM" + bytes(200), 422),
    "webp signature": (b"RIFF\x00\x01\x00\x00WEBPVP8 " + bytes(200), 422),
    "tiff that points to itself": (b"II*\0\x08\0\0\0\0\0\x08\0\0\0" + bytes(40), 422),
    "tiff of not a number": (tiff_of(np.full((16, 16), np.nan, np.float32)), 422),
    "tiff of two pages": (tiff_of(np.zeros((2, 16, 16), np.uint8)), 422),
    "animation": (
        encoded(
            GRAY, "GIF", save_all=True, append_images=[Image.new("L", (16, 16), 9)]
        ),
        422,
    ),
    "too large": (PNG + bytes(10**6), 413),
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_body_that_is_no_usable_image_is_refused(station, name):
    content, status = IMAGES[name]
    answer = station.post(INSPECTIONS, content=content)

    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
    problem = answer.json()
    assert problem["status"] == status
    assert "incoming" not in problem["detail"]  # paths of the station are its own


def test_a_body_of_unknown_length_is_limited_too(station):
    pieces = (bytes(2**16) for _ in range(40))
    answer = station.post(INSPECTIONS, content=(PNG + piece for piece in pieces))

    assert answer.status_code == 413


UNUSUAL = {
    "garbage behind the end": PNG + b"<script>",
    "16 bits": encoded(Image.new("I;16", (16, 16), 30_000), "PNG"),
    "four inks": encoded(Image.new("CMYK", (16, 16)), "JPEG"),
    "palette": encoded(Image.new("P", (16, 16)), "GIF"),
    "one bit": encoded(Image.new("1", (16, 16)), "PNG"),
    "alpha": encoded(Image.new("RGBA", (16, 16)), "PNG"),
    "a line of pixels": encoded(Image.new("L", (8, 4000)), "PNG"),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_image_is_inspected(station, name):
    answer = station.post(INSPECTIONS, content=UNUSUAL[name])

    assert answer.status_code == 201
    for kind in ("preview", "thumbnail", "heatmap", "map"):
        picture = station.get(f"{INSPECTIONS}/{answer.json()['id']}/{kind}")
        assert picture.status_code == 200


REQUESTS = {
    "source that climbs": ("POST", "?source=../../etc", 422),
    "source without letters": ("POST", "?source=", 422),
    "source with a null": ("POST", "?source=a%00b", 422),
    "source with a line break": ("POST", "?source=a%0Ab", 422),
    "endless source": ("POST", "?source=" + "a" * 5000, 422),
    "part with a line break": ("POST", "?part=a%0D%0ASet-Cookie:b", 422),
    "endless part": ("POST", "?part=" + "a" * 5000, 422),
    "unknown expectation": ("POST", "?expect=maybe", 422),
    "time without zone": ("POST", "?captured_at=2026-11-29T00:00:00", 422),
    "time that is none": ("POST", "?captured_at=never", 422),
    "time beyond time": ("POST", "?captured_at=9999-12-31T23:59:59-14:00", 422),
    "endless time": ("POST", "?captured_at=" + "9" * 400, 422),
    "no images of a batch": ("POST", "/batch", 422),
    "limit 0": ("GET", "?limit=0", 422),
    "huge limit": ("GET", "?limit=" + "9" * 400, 422),
    "cursor with sql": ("GET", "?before=' OR 1=1 --", 422),
    "decision of none": ("GET", "?decision=perfect", 422),
    "number that climbs": ("GET", "/..%2F..%2Fetc%2Fpasswd", 404),
    "number with sql": ("GET", "/' OR 1=1 --", 422),
    "unknown number": ("GET", f"/{NUMBER}", 404),
    "picture of an unknown number": ("GET", f"/{NUMBER}/image", 404),
    "map of an unknown number": ("GET", f"/{NUMBER}/map?map=../../x", 404),
    "unknown picture": ("GET", f"/{NUMBER}/passwords", 404),
    "other verb": ("PATCH", "", 405),
    "delete": ("DELETE", f"/{NUMBER}", 405),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_out_of_form_is_refused(station, name):
    method, path, status = REQUESTS[name]
    content = PNG if method == "POST" else None
    answer = station.request(method, INSPECTIONS + path, content=content)

    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)


@pytest.mark.parametrize("key", ["", " ", "a b", "a" * 256, "\xe4"])
def test_a_key_out_of_form_is_refused(station, key):
    headers = {"Idempotency-Key": key.encode("latin-1")}
    answer = station.post(INSPECTIONS, content=PNG, headers=headers)

    assert answer.status_code == 422


RULE = {"model": "0" * 64, "version": 2, "threshold": 0.5, "budget": 0.05}
BODIES = {
    "no JSON": (b"{", 422),
    "no UTF-8": (b'{"reason": "\xff"}', 400),
    "a list": (b"[]", 422),
    "deep": (b"[" * 100_000, 400),
    "not a number": (json.dumps({**RULE, "threshold": float("nan")}).encode(), 422),
    "infinity": (json.dumps({**RULE, "threshold": float("inf")}).encode(), 422),
    "huge version": (json.dumps({**RULE, "version": 10**30}).encode(), 422),
    "unknown field": (json.dumps({**RULE, "is_admin": True}).encode(), 422),
    "null in a text": (json.dumps({**RULE, "reason": "a\0b"}).encode(), 422),
    "corner outside": (
        json.dumps(
            {
                **RULE,
                "regions": [
                    {"name": "a", "kind": "ignore", "points": [[0, 0], [1, 2], [0, 1]]}
                ],
            }
        ).encode(),
        422,
    ),
    "unknown model": (json.dumps(RULE).encode(), 404),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_rule_out_of_form_is_refused(station, name):
    content, status = BODIES[name]
    headers = {"Content-Type": "application/json"}
    answer = station.post("/api/v1/rules", content=content, headers=headers)

    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)


def test_an_unknown_model_is_not_activated(station):
    answer = station.post("/api/v1/activations", json={"model": "0" * 64})

    assert answer.status_code == 404


def test_unpaired_surrogates_are_refused(station):
    content = json.dumps({"model": "0" * 64, "reason": "\ud800"}).encode()
    headers = {"Content-Type": "application/json"}
    answer = station.post("/api/v1/activations", content=content, headers=headers)

    assert answer.status_code == 422


def test_more_images_than_a_batch_has_are_refused(station):
    files = [("f", (f"{n}.png", PNG)) for n in range(17)]
    answer = station.post(f"{INSPECTIONS}/batch", files=files)

    assert (answer.status_code, answer.headers["content-type"]) == (400, PROBLEM)


HEAD = b"POST /api/v1/inspections HTTP/1.1\r\nHost: localhost\r\n"
RAW = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "negative length": HEAD + b"Content-Length: -5\r\n\r\n",
    "length that is none": HEAD + b"Content-Length: five\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
    "length and chunks": HEAD
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk of no length": HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nabc\r\n",
    "huge header": HEAD + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
    "null in a header": HEAD + b"X: a\0b\r\n\r\n",
    "no host": b"GET /health/live HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
    "foreign host": b"GET /health/live HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "old version": b"GET /health/live HTTP/0.9\r\n\r\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("station"), free_port()
    with station_process(command_in(folder, port), port, folder / "log") as process:
        yield process
        assert request(port, "GET", "/health/ready")[0] == 200


@pytest.mark.parametrize("name", RAW)
def test_bytes_that_are_no_request_are_refused(server, name):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(RAW[name])
        answer = client.recv(4096)

    # Chunks go before a length, and here there are none: an empty image.
    status = b"422" if name == "length and chunks" else b"400"
    assert answer.split(b" ")[1:2] == [status]
