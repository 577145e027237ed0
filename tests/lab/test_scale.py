"""The simulator of a cluster, and the file that starts one."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lab.experiments.scale import simulate
from lab.experiments.scale.simulate import Cluster, images_per_second

CLUSTER_FILE = Path(__file__).resolve().parents[2] / "docs" / "cluster.yaml"
ONE = Cluster(
    n_images=10_000,
    n_workers=1,
    part_size=100,
    seconds_per_image=0.1,
    bytes_per_image=1e5,
    seconds_per_part=0.0,
)


def test_workers_are_the_limit_and_then_the_store():
    assert images_per_second(ONE) == pytest.approx(10)
    assert images_per_second(replace(ONE, n_workers=10)) == pytest.approx(100, rel=0.01)
    slow = replace(ONE, n_workers=10, store_bytes_per_s=2e6)
    assert images_per_second(slow) == pytest.approx(20, rel=0.1)


def test_failures_cost_more_in_larger_parts():
    failing = replace(ONE, n_images=100_000, n_workers=10, failures_per_hour=5.0)

    small, large = (
        images_per_second(replace(failing, part_size=n)) for n in (100, 5000)
    )

    assert large < small < 100


def test_the_table_of_the_page_is_what_the_simulator_says(capsys):
    page = CLUSTER_FILE.with_name("scale.md").read_text(encoding="utf-8")

    assert simulate.main([]) == 0

    assert capsys.readouterr().out in page


def test_ray_takes_the_file_of_the_cluster():
    util = pytest.importorskip("ray.autoscaler._private.util")
    given = yaml.safe_load(CLUSTER_FILE.read_text(encoding="utf-8"))

    config = util.prepare_config(given)

    util.validate_config(config)
    assert config["provider"]["head_ip"] == given["provider"]["head_ip"]
    del config["provider"]
    with pytest.raises(Exception, match="provider"):
        util.validate_config(config)
