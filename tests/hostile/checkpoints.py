"""Hostile checkpoints: a training goes on to the same bits, or not at all."""

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tests.hostile.case import OK, OUT, SPECIAL, Case, special_file, write
from tests.hostile.files import TRAIN
from tests.hostile.model_files import cut, flipped, zeroed

from efficientad.model_files import container

SOURCE = "run.ead.checkpoint"
CHECKPOINT = OUT / "part.ead.checkpoint"
COMMAND = ("train", "normal", "--output", "out/part.ead", *TRAIN)


def resumed(
    name: str,
    prepare: Callable[[], Any],
    words: str = "part.ead.checkpoint",
    more: tuple[str, ...] = ("--resume",),
    **expected: Any,
) -> Case:
    """Return a case of a training beside such a checkpoint."""
    return Case(
        area="checkpoints",
        name=name,
        prepare=prepare,
        command=(*COMMAND, *more),
        words=words,
        seconds=60,
        mebibytes=1500,
        **expected,
    )


def copied() -> None:
    """Put the sound checkpoint beside the output."""
    write(CHECKPOINT, Path(SOURCE).read_bytes())


def edited(change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> None:
    """Write the checkpoint with other tensors or content, and the right checksum."""
    arrays, content = container.read(Path(SOURCE), "checkpoint")
    change(arrays, content)
    OUT.mkdir()
    container.write(CHECKPOINT, "checkpoint", arrays, content)


def without(prefix: str) -> Callable[..., None]:
    """Return a change that removes tensors."""

    def change(arrays: dict[str, Any], _content: dict[str, Any]) -> None:
        for name in [name for name in arrays if name.startswith(prefix)]:
            del arrays[name]

    return change


def cut_tensor(prefix: str) -> Callable[..., None]:
    """Return a change that shortens a tensor."""

    def change(arrays: dict[str, Any], _content: dict[str, Any]) -> None:
        name = next(n for n in arrays if n.startswith(prefix) and arrays[n].ndim)
        arrays[name] = arrays[name][:-1]

    return change


def no_number(prefix: str, value: float) -> Callable[..., None]:
    """Return a change that puts a value into a tensor."""

    def change(arrays: dict[str, Any], _content: dict[str, Any]) -> None:
        name = next(n for n in arrays if n.startswith(prefix) and arrays[n].ndim)
        arrays[name] = np.array(arrays[name])
        arrays[name].flat[0] = value

    return change


def set_content(name: str, value: Any) -> Callable[..., None]:
    """Return a change of the content."""
    return lambda _arrays, content: content.update({name: value})


def cases() -> Iterator[Case]:
    """Yield all cases of checkpoints."""
    unfinished = partial(write, CHECKPOINT)
    yield resumed("without --resume", unfinished, "is not finished", more=())
    yield resumed(
        "a sound one",
        copied,
        "",
        codes=(OK,),
        makes=("part.ead",),
        removes=(CHECKPOINT.name,),
    )
    for kind in SPECIAL:
        if kind != "broken link":  # as if there were none
            yield resumed(kind, partial(special_file, kind, CHECKPOINT))
    for place in (0.0, 0.001, 0.01, 0.3, 0.7, 0.999):
        prepare = partial(flipped, SOURCE, CHECKPOINT, place)
        yield resumed(f"a flipped bit at {place}", prepare)
    for share in (0.0001, 0.01, 0.5, 0.999):
        prepare = partial(cut, SOURCE, CHECKPOINT, share)
        yield resumed(f"cut to {share}", prepare, "not a readable checkpoint")
    for share in (0.0, 0.5, 1.0):
        prepare = partial(zeroed, SOURCE, CHECKPOINT, share)
        yield resumed(f"a zeroed sector at {share}", prepare, "not a readable")
    yield from edited_cases()


def edited_cases() -> Iterator[Case]:
    """Yield checkpoints whose checksum is right, and whose content is not."""
    for prefix in ("student", "autoencoder", "optimizer", "optimizer.1."):
        prepare = partial(edited, without(prefix))
        yield resumed(f"without {prefix}", prepare, "whole checkpoint")
        prepare = partial(edited, cut_tensor(prefix))
        yield resumed(f"a shorter tensor of {prefix}", prepare, "whole checkpoint")
        for value in (math.nan, math.inf):
            prepare = partial(edited, no_number(prefix, value))
            yield resumed(f"{value} in {prefix}", prepare, "not finite")
    for steps in (10**9, 0, -1, "3", 2.0, True, None, [3], 4):
        prepare = partial(edited, set_content("steps", steps))
        yield resumed(f"steps are {json.dumps(steps)}", prepare, "bad entry")
    for seconds in (-1, "3", None):
        prepare = partial(edited, set_content("seconds", seconds))
        yield resumed(f"seconds are {json.dumps(seconds)}", prepare, "bad entry")
    no_settings: tuple[Any, ...] = ({}, None)
    for settings in no_settings:
        prepare = partial(edited, set_content("settings", settings))
        yield resumed(f"settings are {settings!r}", prepare, "of other settings")
    for option in (
        ("--seed", "1"),
        ("--steps", "4"),
        ("--batch-size", "2"),
        ("--preset", "quick"),
        ("--size", "medium"),
        ("--validation-share", "0.3"),
    ):
        name = f"of another {option[0][2:]}"
        yield resumed(name, copied, "of other settings", more=("--resume", *option))


CASES = tuple(cases())
