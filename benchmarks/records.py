"""Where recorded runs lie; what they say is the package's `reproduction.records`."""

from pathlib import Path

from efficientad.measurement.surroundings import surroundings
from efficientad.reproduction import records
from efficientad.reproduction.records import Run, file_name

RESULTS = Path(__file__).resolve().parent / "results"

__all__ = ["RESULTS", "file_name", "write_run"]


def write_run(run: Run, folder: Path = RESULTS) -> Path:
    """Write a run with machine, versions and commit; the file is whole or not there."""
    return records.write_run(run | surroundings(), folder)
