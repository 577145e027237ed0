"""Where recorded runs lie; what they say is the package's `reproduction.records`."""

from pathlib import Path

from efficientad.training.environment import surroundings
from efficientad_lab.studies import records
from efficientad_lab.studies.records import Run, file_name

RESULTS = Path(__file__).resolve().parent / "results"

__all__ = ["RESULTS", "file_name", "write_run"]


def write_run(run: Run, folder: Path = RESULTS) -> Path:
    """Write a run with machine, versions and commit; the file is whole or not there."""
    return records.write_run(run | surroundings(), folder)
