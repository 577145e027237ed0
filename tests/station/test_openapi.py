"""Requests made from the station's own description: none makes it fail."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from tests.station.test_kills import command_in

from lab.experiments.station.harness import free_port, request, station_process

schemathesis = pytest.importorskip("schemathesis")
pytestmark = pytest.mark.slow
_ENDLESS = "/api/v1/events"


def test_no_request_of_the_description_makes_the_station_fail(tmp_path):
    port, log = free_port(), tmp_path / "log"
    with station_process(command_in(tmp_path, port), port, log):
        address = f"http://127.0.0.1:{port}/openapi.json"
        found = schemathesis.openapi.from_url(address).exclude(path=_ENDLESS)
        operations = [each.ok() for each in found.get_all_operations()]
        for operation in operations:
            _ask(operation)
        assert request(port, "GET", "/health/ready")[0] == 200

    assert len(operations) > 40
    assert b'"failed"' not in log.read_bytes()


def _ask(operation):
    @given(case=operation.as_strategy())
    @settings(
        max_examples=20,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case):
        answer = case.call(timeout=60)
        is_busy = answer.status_code == 503 and "retry-after" in answer.headers
        assert answer.status_code < 500 or is_busy, (
            case.as_curl_command(),
            answer.text,
        )

    ask()
