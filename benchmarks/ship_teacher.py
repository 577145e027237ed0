"""Make a teacher file the shipped one: weights, hash, documents, log, changelog.

    make ship-teacher TEACHER=teacher.safetensors
    python benchmarks/ship_teacher.py teacher.safetensors --source "ResNet-50, MIT"

What is not given about source, images and hardware is what the file says, or stays as
it was said of the shipped teacher, as long as source network and images are the same.
The log must be beside the file, and of this teacher. Nothing is committed; nothing
changes where teacher, log or documents are refused.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from efficientad.distillation.files import DistillationFiles
from efficientad.errors import EfficientADError, ModelFileError
from efficientad.model_files.container import read
from efficientad.model_files.teachers import open_teacher, ship_teacher
from efficientad.storage import write_whole
from efficientad.training.environment import commit
from efficientad_lab.studies.records import short_commit

REPOSITORY = Path(__file__).resolve().parents[1]
BY_HAND = (
    "the prose around the table in docs/teachers.md, and docs/teacher_figure.png with "
    "its record (benchmarks/teacher_figure.py)"
)
"""What tells of a shipped teacher, too, and is not rewritten."""

# What a fact belongs to: it is kept while this stays the same.
_KEPT_WITH = {
    "source": "source_hash",
    "image_sources": "images",
    "hardware": "hours",
}


def region(size: str, facts: Mapping[str, Any]) -> str:
    """The table about one teacher in docs/teachers.md."""
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
        f"over the training in [the log](../benchmarks/teachers/teacher_{size}.jsonl)",
        "weights": "half precision",
        "commit": f"`{short_commit(facts.get('commit', 'unknown'))}`",
    }
    if "note" in facts:
        rows["note"] = facts["note"]
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def with_region(text: str, size: str, facts: Mapping[str, Any]) -> str:
    """The document with what stands between the marks of a size written anew.

    Raises:
        ModelFileError: If it has no place for it.
    """
    pattern = rf"(<!-- teacher: {size} -->\n).*?(<!-- end of teacher -->)"
    table = f"\n{region(size, facts)}\n\n"
    new, n = re.subn(
        pattern, lambda m: f"{m[1]}{table}{m[2]}", text, count=1, flags=re.DOTALL
    )
    if n != 1:
        raise ModelFileError(
            f"docs/teachers.md needs the marks <!-- teacher: {size} --> and "
            "<!-- end of teacher -->, it has them not; write them"
        )
    return new


def with_changelog_line(text: str, size: str, facts: Mapping[str, Any]) -> str:
    """The changelog with one line about this teacher among what is unreleased.

    Raises:
        ModelFileError: If nothing is called so.
    """
    if "## Unreleased\n" not in text:
        raise ModelFileError(
            "CHANGELOG.md needs the heading ## Unreleased, it has none; write it"
        )
    start = f"- The shipped {size} teacher "
    line = (
        f"{start}is distilled from {facts['settings']['source']} in "
        f"{facts['settings']['steps']} steps of {facts['settings']['batch_size']}; "
        f"held-out explained variance {facts['explained_variance']:.3f}.\n"
    )
    head, rest = text.split("## Unreleased\n", 1)
    section, *released = re.split(r"(?m)^(?=## )", rest, maxsplit=1)
    old = re.escape(start) + r".*\n"
    if re.search(old, section):
        section = re.sub(old, lambda _: line, section)
    elif "### Changed\n" in section:
        section = section.replace("### Changed\n\n", f"### Changed\n\n{line}", 1)
    else:
        section = f"{section.rstrip()}\n\n### Changed\n\n{line}" + "\n" * bool(released)
    return "".join([head, "## Unreleased\n", section, *released])


def log_of(path: Path, facts: Mapping[str, Any]) -> Path:
    """Find the log of a teacher's distillation.

    Raises:
        ModelFileError: If there is none, or it is another one's.
    """
    files = DistillationFiles(path)
    if not files.log_file.is_file():
        raise ModelFileError(
            f"a shipped teacher comes with its log, {files.log_file} is not there; "
            "copy it there"
        )
    last = files.last_line()
    names = {"step": "n_steps", "explained_variance": "explained_variance"}
    if any(last.get(name) != facts.get(fact) for name, fact in names.items()):
        raise ModelFileError(
            f"{files.log_file} must end with step and explained variance of "
            f"{path.name}, it does not; give log and teacher of one distillation"
        )
    return files.log_file


def ship(path: Path, given: Mapping[str, str], repository: Path) -> Path:
    """Put a teacher in place of the shipped one; everything that tells of it too.

    Raises:
        ModelFileError: If teacher, log or documents are not as they must be.
    """
    _, content = read(path, "teacher")
    size, facts = content["size"], open_teacher(content["size"], path).provenance
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
    kept = {
        name: before[name]
        for name, with_what in _KEPT_WITH.items()
        if name in before and before.get(with_what) == facts.get(with_what)
    }
    facts = {**kept, "commit": commit(), **facts, **given}
    texts = {
        document: rewritten(document.read_text(encoding="utf-8"), size, facts)
        for document, rewritten in (
            (repository / "docs" / "teachers.md", with_region),
            (repository / "CHANGELOG.md", with_changelog_line),
        )
    }
    target = ship_teacher(path, facts)
    shutil.copy(log, repository / "benchmarks" / "teachers" / f"teacher_{size}.jsonl")
    for document, text in texts.items():
        write_whole(document, text.encode())
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """Ship the teacher that is named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--source", help="source network, its origin and its licence")
    parser.add_argument("--image-sources", help="what the images are, their licences")
    parser.add_argument("--hardware", help="what it was distilled on")
    parser.add_argument("--commit", help="default: as the file says, or HEAD")
    parser.add_argument("--note", help="anything else")
    given = vars(parser.parse_args(arguments))
    path = given.pop("teacher")
    try:
        facts = {k: v for k, v in given.items() if v is not None}
        target = ship(path, facts, REPOSITORY)
    except EfficientADError as error:
        print(f"ship_teacher: {error}", file=sys.stderr)
        return 2
    print(f"shipped {target}; left to do by hand: {BY_HAND}")
    print("then see git diff, run the tests, and commit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
