"""What a whole command costs; how much it is allowed to is never tested here."""

import pytest

from efficientad.errors import ResultError
from lab.experiments.command_costs import run as command_costs


def test_a_command_has_a_time_and_a_peak():
    cost = command_costs.cost_of(["--help"])

    assert cost.seconds > 0
    assert 5 < cost.peak_memory_mib < 500


def test_the_peak_is_not_that_of_the_process_that_asks():
    """This one has imported torch; the command line's help has not."""
    import torch

    held = torch.ones(64, 2**20)

    assert command_costs.cost_of(["--help"]).peak_memory_mib < held.nbytes / 2**20


def test_a_command_that_fails_is_no_measurement():
    with pytest.raises(ResultError, match=r"no-such-verb failed: efficientad: needed"):
        command_costs.cost_of(["no-such-verb"])
