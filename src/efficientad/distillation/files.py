"""What a distillation leaves beside its teacher: a checkpoint, a log and snapshots."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from efficientad.errors import ModelFileError, StorageError
from efficientad.model_files import container as tensor_file
from efficientad.storage import write_atomically
from efficientad.training.progress import tell


class DistillationFiles:
    """What stands beside the output file.

    Attributes:
        checkpoint: Where the run is kept while it is not finished, and after it.
        log_file: Where what was measured stands, a line of JSON each.
    """

    def __init__(self, output: Path) -> None:
        """Name the files; none is touched.

        Args:
            output: The teacher file to be written.
        """
        self._output = output
        self.checkpoint = output.with_name(output.name + ".checkpoint")
        self.log_file = output.with_name(output.name + ".jsonl")

    def require_decision(self, *, is_to_go_on: bool) -> None:
        """Refuse to begin over the checkpoint of what is not finished.

        Raises:
            ModelFileError: If there is one, or one that cannot be read.
        """
        if is_to_go_on and not self.checkpoint.exists():
            tell(f"no checkpoint at {self.checkpoint}: this begins anew")
        if not is_to_go_on and self._is_unfinished():
            raise ModelFileError(
                f"{self.checkpoint} is of a distillation that is not finished; go on "
                "with --resume, or remove it to begin anew"
            )

    def _is_unfinished(self) -> bool:
        """Whether a run stands here that has steps to do, or has no teacher yet.

        Raises:
            ModelFileError: If what stands here is no checkpoint.
        """
        if not self.checkpoint.exists():
            return False
        _, content = tensor_file.read(self.checkpoint, "checkpoint")
        if content["steps"] < content["settings"]["steps"] or not self._output.exists():
            return True
        # A teacher is written after its last checkpoint.
        return self.checkpoint.stat().st_mtime_ns > self._output.stat().st_mtime_ns

    def snapshot(self, share: float) -> Path:
        """Name the teacher that is kept after a share of the training."""
        percent = f"{100 * share:g}"
        return self._output.with_stem(f"{self._output.stem}_at_{percent}")

    def tell_missing(self, snapshots: Mapping[int, float]) -> None:
        """Say which snapshots, by step, are not there, though their step is over."""
        for number, share in snapshots.items():
            if not self.snapshot(share).exists():
                tell(f"not kept: {self.snapshot(share)}, step {number} is over")

    def cut_log(self, n_steps: int) -> None:
        """Keep the lines up to a step; those behind it will come again."""
        if not self.log_file.exists():
            return
        lines = self.log_file.read_text().splitlines()
        kept = [f"{line}\n" for line in lines if _is_up_to(n_steps, line)]
        write_atomically(self.log_file, "".join(kept).encode())

    def last_line(self) -> dict[str, Any]:
        """Give the last line of the log; an empty one where there is no whole one."""
        lines = self.log_file.read_text().splitlines() if self.log_file.exists() else []
        try:
            last: dict[str, Any] = json.loads(lines[-1])
        except (IndexError, ValueError):
            return {}
        return last

    def log(self, line: Mapping[str, Any]) -> None:
        """Add a line to the log.

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
    """Whether a line of the log is whole, and of a step until then."""
    try:
        step: int = json.loads(line)["step"]
    except ValueError:  # half a line: the process was killed, or the disk was full
        return False
    return step <= n_steps
