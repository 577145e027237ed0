"""The runs and files of the figures, and the errors if one is missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from efficientad.datasets import NORMAL, Sample
from efficientad.errors import ResultError
from efficientad.inspection.opening import load
from efficientad.inspection.predictor import Predictor
from efficientad_lab.figures.config import FigureConfig
from efficientad_lab.studies.evaluated_samples import read_samples
from efficientad_lab.studies.jobs import MODEL_FILE
from efficientad_lab.studies.records import Run, is_finished, read_runs
from efficientad_lab.studies.reproduce import EXPERIMENT


@dataclass(frozen=True, slots=True)
class Material:
    """Recorded runs and the files of their trainings."""

    results: Path
    config: FigureConfig

    @property
    def work(self) -> Path:
        """Folder of the trainings."""
        return self.config.work or self.results / "work"

    def reproduced(self) -> list[Run]:
        """Return the runs of `efficientad reproduce`, including failed ones.

        Raises:
            ResultError: If no run is finished, or one is unusable.
        """
        runs = [r for r in read_runs(self.results) if r["experiment"] == EXPERIMENT]
        if not any(map(is_finished, runs)):
            raise ResultError(
                f"needs finished runs of efficientad reproduce, {self.results} has "
                f"none; make some with efficientad reproduce ROOT --output "
                f"{self.results}"
            )
        return runs

    def of_scenarios(self) -> list[Run]:
        """Return the run of the lowest seed for each scenario, in the chosen size.

        Raises:
            ResultError: If there is no such run.
        """
        size = self.config.size
        runs = [
            run for run in self.reproduced() if is_finished(run) and _size(run) == size
        ]
        if not runs:
            raise ResultError(
                f"needs runs of size {size}, {self.results} has none; make some with "
                f"efficientad reproduce ROOT --sizes {size} --output {self.results}"
            )
        lowest: dict[str, Run] = {}
        for run in sorted(runs, key=lambda run: run["seed"]):
            lowest.setdefault(run["category"], run)
        return [lowest[name] for name in sorted(lowest)]

    def folder(self, run: Run) -> Path:
        """Return the folder of a run's training."""
        return self.work / str(run["training"])

    def predictor(self, run: Run) -> Predictor:
        """Load the detector of a run on the CPU.

        Raises:
            ResultError: If its file is missing.
        """
        path = self.folder(run) / MODEL_FILE
        if not path.exists():
            raise ResultError(
                f"needs the detector of {run['category']}, {run['variant']}, seed "
                f"{run['seed']}, which is not at {path}; remove the record of that run "
                "and make it again, or name the folder by --work"
            )
        return load(path, device="cpu")

    def defects(self, run: Run, kinds: Sequence[str] | None = None) -> list[Sample]:
        """Return the defective test images of a run, of some kinds.

        Raises:
            ResultError: If the list is missing.
        """
        return [
            sample
            for sample in read_samples(self.folder(run))
            if sample.defect_type != NORMAL
            and (kinds is None or sample.defect_type in kinds)
        ]


def _size(run: Run) -> str | None:
    size = run.get("settings", {}).get("config", {}).get("size")
    return None if size is None else str(size)
