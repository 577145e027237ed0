"""Replace a shipped teacher: weights, hash, log and its table in docs/teachers.md.

    make ship-teacher TEACHER=teacher.safetensors
    python lab/experiments/teachers/ship.py teacher.safetensors --hardware "one H200"

Facts about source, images and hardware that are not given come from the file, or from
the shipped teacher as long as source network and images are the same. The log of this
teacher must lie beside the file. Nothing is committed, and nothing changes if teacher,
log or page are refused.
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from efficientad.cli.environment import commit
from efficientad.errors import EfficientADError, ModelFileError
from efficientad.model_files import teachers
from efficientad.model_files.container import read
from efficientad.model_files.teachers import open_teacher, save_teacher
from efficientad.storage import file_hash, write_atomically
from efficientad_lab.studies.records import short_commit

REPOSITORY = Path(__file__).resolve().parents[3]
LOGS = Path("lab") / "experiments" / "teachers" / "logs"
BY_HAND = (
    "the prose around the table in docs/teachers.md, and docs/teacher_figure.png with "
    "its record (lab/experiments/teacher_figure/run.py)"
)
"""Parts that describe a shipped teacher and are not rewritten."""

# A fact of the shipped teacher stays true as long as this one is the same.
_DEPENDS_ON = {
    "source": "source_hash",
    "image_sources": "images",
    "hardware": "hours",
}


def region(size: str, facts: Mapping[str, Any]) -> str:
    """Return the table about one teacher in docs/teachers.md."""
    settings = facts["settings"]
    grid = settings["window_cells"]
    seen = f"windows of {grid} x {grid} descriptors" if grid else "whole images, padded"
    spread = ", ".join(
        f"{value:.2f}" for value in facts.get("explained_variance_quartiles", [])
    )
    spread = f"; over the channels, least, quartiles and most: {spread}" * bool(spread)
    kinds = f": {facts['image_sources']}" if "image_sources" in facts else ""
    rows = {
        "source network": facts.get("source", settings["source"]),
        "channels": f"reduction `{settings['reduction']}` to 384",
        "images": f"{facts['n_images']} of {facts['images']}{kinds}; "
        f"{settings['n_held_out']} of them held out",
        "training": f"preset `{settings['preset']}`: {settings['steps']} steps of "
        f"{settings['batch_size']} ({seen}), optimizer `{settings['optimizer']}`, "
        f"rate {settings['learning_rate']:g}, "
        f"schedule `{settings['rate_schedule']}`, seed {settings['seed']}",
        "hardware": f"{facts.get('hardware', 'not recorded')}; "
        f"{facts['hours']:.2f} hours of steps",
        "held-out explained variance": f"{facts['explained_variance']:.3f}{spread}; "
        f"over the training in [the log](../{LOGS}/teacher_{size}.jsonl)",
        "weights": "half precision",
        "commit": f"`{short_commit(facts.get('commit', 'unknown'))}`",
    }
    if "start" in facts:
        start = facts["start"]
        rows["training"] += (
            f", from a teacher of {start['n_steps']} steps, {start['hours']:.2f} hours "
            f"and an explained variance of {start['explained_variance']:.3f}"
        )
    if "note" in facts:
        rows["note"] = facts["note"]
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def with_region(text: str, size: str, facts: Mapping[str, Any]) -> str:
    """Return the page with the table of a size written anew.

    Raises:
        ModelFileError: If the page has no marks for the table.
    """
    pattern = rf"(<!-- teacher: {size} -->\n).*?(<!-- end of teacher -->)"
    table = f"\n{region(size, facts)}\n\n"
    new, n = re.subn(
        pattern, lambda m: f"{m[1]}{table}{m[2]}", text, count=1, flags=re.DOTALL
    )
    if n != 1:
        raise ModelFileError(
            f"docs/teachers.md needs the marks <!-- teacher: {size} --> and "
            "<!-- end of teacher -->, they are missing; write them"
        )
    return new


def log_of(path: Path, facts: Mapping[str, Any]) -> Path:
    """Return the path of a teacher's log.

    Raises:
        ModelFileError: If there is no log, or it belongs to another teacher.
    """
    log_file = path.with_name(f"{path.name}.jsonl")
    if not log_file.is_file():
        raise ModelFileError(
            f"a shipped teacher needs its log, {log_file} is missing; copy it there"
        )
    last = json.loads((log_file.read_text().splitlines() or ["{}"])[-1])
    names = {"step": "n_steps", "explained_variance": "explained_variance"}
    if any(last.get(name) != facts.get(fact) for name, fact in names.items()):
        raise ModelFileError(
            f"{log_file} must end with step and explained variance of "
            f"{path.name}, it does not; use log and teacher of one distillation"
        )
    return log_file


def ship(path: Path, given: Mapping[str, str], repository: Path) -> Path:
    """Replace the shipped teacher, its log and its table; return the new file.

    Args:
        path: Teacher file, with its log beside it.
        given: Facts that replace those of the file.
        repository: Folder of docs and logs.

    Raises:
        ModelFileError: If teacher, log or page cannot be used.
    """
    _, content = read(path, "teacher")
    size, teacher = content["size"], open_teacher(content["size"], path)
    facts = teacher.provenance
    if "settings" not in facts:
        raise ModelFileError(
            f"{path} does not say how it was made; ship what `efficientad distill` "
            "wrote"
        )
    log = log_of(path, facts)
    try:
        before: Mapping[str, Any] = open_teacher(size).provenance
    except ModelFileError:  # none is shipped yet
        before = {}
    unchanged = {
        name: before[name]
        for name, other in _DEPENDS_ON.items()
        if name in before and before.get(other) == facts.get(other)
    }
    facts = {**unchanged, "commit": commit(), **facts, **given}
    page = repository / "docs" / "teachers.md"
    text = with_region(page.read_text(encoding="utf-8"), size, facts)
    folder = teachers.weights_folder()
    target = folder / f"teacher_{size}.safetensors"
    save_teacher(teacher.network, facts, target)
    hashes = teachers.shipped_hashes() | {target.name: file_hash(target)}
    text_of_hashes = f"{json.dumps(hashes, indent=2)}\n"
    write_atomically(folder / "hashes.json", text_of_hashes.encode())
    shutil.copy(log, repository / LOGS / f"teacher_{size}.jsonl")
    write_atomically(page, text.encode())
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """Ship the teacher."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--source", help="source network, origin and licence")
    parser.add_argument("--image-sources", help="images and their licences")
    parser.add_argument("--hardware", help="hardware of the distillation")
    parser.add_argument("--commit", help="default: as the file says, or HEAD")
    parser.add_argument("--note", help="anything else")
    given = vars(parser.parse_args(arguments))
    path = given.pop("teacher")
    try:
        facts = {k: v for k, v in given.items() if v is not None}
        target = ship(path, facts, REPOSITORY)
    except EfficientADError as error:
        print(f"ship: {error}", file=sys.stderr)
        return 2
    print(f"shipped {target}; left to do by hand: {BY_HAND}")
    print("then see git diff, run the tests, and commit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
