"""The files beside the teacher of a distillation: checkpoint, log and snapshots."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from efficientad.errors import ModelFileError, StorageError
from efficientad.model_files import container as tensor_file
from efficientad.storage import write_atomically

logger = logging.getLogger(__name__)


class DistillationFiles:
    """Paths of the files beside an output file.

    Args:
        output: Teacher file to write.

    Attributes:
        checkpoint: State of the run, during it and after it.
        log_file: Measurements, one line of JSON each.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.checkpoint = output.with_name(output.name + ".checkpoint")
        self.log_file = output.with_name(output.name + ".jsonl")

    def require_decision(self, *, resume: bool) -> None:
        """Refuse to overwrite the checkpoint of an unfinished run.

        Raises:
            ModelFileError: If there is one, or one that cannot be read.
        """
        if not self.checkpoint.exists():
            if resume:
                logger.info("no checkpoint at %s: this begins anew", self.checkpoint)
            return
        if resume:
            return
        _, content = tensor_file.read(self.checkpoint, "checkpoint")
        # A teacher is written after its last checkpoint.
        if (
            not content.get("is_finished")
            or not self.output.exists()
            or self.checkpoint.stat().st_mtime_ns > self.output.stat().st_mtime_ns
        ):
            raise ModelFileError(
                f"{self.checkpoint} is of a distillation that is not finished; go on "
                "with --resume, or remove it to begin anew"
            )

    def snapshot(self, share: float) -> Path:
        """Return the path of the teacher after a share of the training."""
        percent = f"{100 * share:g}"
        return self.output.with_stem(f"{self.output.stem}_at_{percent}")

    def report_missing(self, snapshots: Mapping[int, float], n_steps: int) -> None:
        """Name the snapshots of steps before `n_steps` that were not saved."""
        for number, share in snapshots.items():
            path = self.snapshot(share)
            if number <= n_steps and not path.exists():
                logger.warning("not saved: %s, step %d is over", path, number)

    def cut_log(self, n_steps: int) -> None:
        """Remove the lines of later steps, and incomplete ones."""
        if self.log_file.exists():
            lines = self.log_file.read_text().splitlines()
            kept = [f"{line}\n" for line in lines if _is_up_to(n_steps, line)]
            write_atomically(self.log_file, "".join(kept).encode())

    def log(self, line: Mapping[str, Any]) -> None:
        """Append a line to the log.

        Raises:
            StorageError: If it cannot be written.
        """
        try:
            with self.log_file.open("a") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as error:
            raise StorageError(
                f"cannot write {self.log_file} ({error.strerror}); free some space and "
                "go on with --resume"
            ) from error


def _is_up_to(n_steps: int, line: str) -> bool:
    try:
        step: int = json.loads(line)["step"]
    except ValueError:  # half a line: the process was killed, or the disk was full
        return False
    return step <= n_steps
