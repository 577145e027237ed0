"""How many cores and threads a process may use."""

import os

import pytest

from efficientad import cores


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 8), (None, 8)],
)
def test_a_container_s_share_counts(monkeypatch, tmp_path, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")

    assert cores.usable_cores() == expected


@pytest.mark.parametrize(
    ("value", "expected"), [("3", 3), ("0", 5), ("many", 5), ("", 5)]
)
def test_the_variable_of_openmp_sets_the_threads(monkeypatch, value, expected):
    monkeypatch.setattr(cores, "usable_cores", lambda: 5)
    monkeypatch.setenv("OMP_NUM_THREADS", value)

    assert cores.default_threads() == expected
