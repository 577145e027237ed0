"""DetectAnomalies of Amazon Lookout for Vision, answered by a station."""

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from tests.station_fakes import config_in, image_of, running
from tests.station_models import ANOMALOUS, ENDLESS, NORMAL

from efficientad.station.config import Token
from efficientad.station.http.security import new_token

DETECT = "/2020-11-20/projects/circuits/models/1/detect"


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    folder = tmp_path_factory.mktemp("station")
    with running(config_in(folder)) as client:
        yield client


def detected(client, content, **headers):
    headers = {"Content-Type": "image/png", **headers}
    return client.post(DETECT, content=content, headers=headers)


def test_an_anomalous_part_has_a_mask_and_its_area(station):
    answer = detected(station, image_of(ANOMALOUS))

    assert answer.status_code == 200
    assert list(answer.json()) == ["DetectAnomalyResult"]
    result = answer.json()["DetectAnomalyResult"]
    mask = Image.open(BytesIO(base64.b64decode(result.pop("AnomalyMask"))))
    area = {"TotalPercentageArea": 1.0, "Color": "#D62728"}
    none = {"TotalPercentageArea": 0.0, "Color": "#FFFFFF"}
    assert result == {
        "Source": {"Type": "direct"},
        "IsAnomalous": True,
        "Confidence": pytest.approx(0.5 + 0.5 * (200 / 255 - 0.5) / (200 / 255)),
        "Anomalies": [
            {"Name": "background", "PixelAnomaly": none},
            {"Name": "anomaly", "PixelAnomaly": area},
        ],
    }
    assert (mask.mode, mask.size) == ("RGB", (32, 32))
    assert np.unique(np.asarray(mask).reshape(-1, 3), axis=0).tolist() == [
        [0xD6, 0x27, 0x28]
    ]


def test_a_normal_part_has_only_its_background(station):
    result = detected(station, image_of(NORMAL)).json()["DetectAnomalyResult"]

    assert not result["IsAnomalous"]
    assert 0.5 < result["Confidence"] < 1
    assert [each["Name"] for each in result["Anomalies"]] == ["background"]
    listed = station.get("/api/v1/inspections", params={"source": "circuits"}).json()
    assert listed["items"][0]["decision"] == "normal"


def test_a_part_without_a_decision_is_never_called_normal(tmp_path):
    with running(config_in(tmp_path, prediction_seconds=1.0)) as client:
        result = detected(client, image_of(ENDLESS)).json()["DetectAnomalyResult"]

    assert result == {
        "Source": {"Type": "direct"},
        "IsAnomalous": True,
        "Confidence": 0.0,
    }


@pytest.mark.parametrize(
    ("path", "content"),
    [(DETECT, b"text"), (DETECT, b""), (DETECT.replace("circuits", "-"), b"")],
)
def test_errors_have_the_form_of_the_service(station, path, content):
    answer = station.post(path, content=content)

    assert answer.status_code == 400
    assert answer.headers["x-amzn-ErrorType"] == "ValidationException"
    assert list(answer.json()) == ["Message"]


def test_a_token_comes_as_the_one_of_a_session(tmp_path):
    token, digest = new_token()
    tokens = (Token(name="line 1", role="line", sha256=digest),)
    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=x, Signature=y"}
    with running(config_in(tmp_path, tokens=tokens)) as client:
        refused = detected(client, image_of(NORMAL), **signed)
        signed["X-Amz-Security-Token"] = token
        accepted = detected(client, image_of(NORMAL), **signed)

    assert refused.status_code == 403
    assert refused.headers["x-amzn-ErrorType"] == "AccessDeniedException"
    assert accepted.status_code == 200
