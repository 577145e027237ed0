"""Hostile model files: damage is noticed, and nothing in a file runs."""

import base64
import json
import math
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tests.hostile.case import (
    IN,
    OK,
    OUT,
    SPECIAL,
    Case,
    nothing,
    special_file,
    write,
)
from tests.hostile.images import black

from efficientad.model_files import container

MODEL = IN / "part.ead"
VERBS = {
    "predict": ("predict", str(MODEL), "good.png", "--output", "out"),
    "threshold": ("threshold", str(MODEL)),
    "export": ("export", str(MODEL), "--output", "out/part.onnx"),
    "calibrate": ("calibrate", str(MODEL), "normal", "--output", "out/new.ead"),
    "evaluate": ("evaluate", str(MODEL), "parts", "--output", "out"),
    "check": ("check", "parts", "--model", str(MODEL)),
    "card": ("card", str(MODEL)),
}
PLACES = (0.0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95, 0.999)


def flipped(source: str, target: Path, place: float) -> None:
    """Copy a file with one flipped bit."""
    data = bytearray(Path(source).read_bytes())
    data[int(place * (len(data) - 1))] ^= 8
    write(target, bytes(data))


def cut(source: str, target: Path, share: float) -> None:
    """Copy the beginning of a file."""
    data = Path(source).read_bytes()
    write(target, data[: int(share * len(data))])


def zeroed(source: str, target: Path, share: float) -> None:
    """Copy a file with a sector of zeros."""
    data = bytearray(Path(source).read_bytes())
    start = int(share * (len(data) - 4096)) // 4096 * 4096
    data[start : start + 4096] = bytes(4096)
    write(target, bytes(data))


def edited(change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> None:
    """Write the model with other tensors or content, and their right checksum."""
    arrays, content = container.read(Path("part.ead"), "detector")
    change(arrays, content)
    IN.mkdir(exist_ok=True)
    container.write(MODEL, "detector", arrays, content)


def raw(content: str, kind: str = "detector", version: str = "1") -> None:
    """Write a file whose description is any text."""
    IN.mkdir(exist_ok=True)
    metadata = {"efficientad": kind, "efficientad_version": version}
    save_file({"a": np.ones(2)}, MODEL, metadata | {"content": content})


def refused(
    name: str, prepare: Callable[[], Any], words: str = "", verb: str = "predict"
) -> Case:
    """Return a case of a model file that a verb refuses."""
    return Case(
        area="model_files",
        name=f"{verb}: {name}",
        prepare=prepare,
        command=VERBS[verb],
        words=words,
    )


def set_in(place: tuple[Any, ...], value: Any) -> Callable[..., None]:
    """Return a change of the content at a place."""

    def change(_arrays: dict[str, Any], content: dict[str, Any]) -> None:
        inner: Any = content
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value

    return change


def set_tensor(name: str, value: Callable[[Any], Any]) -> Callable[..., None]:
    """Return a change of a tensor; None removes it."""

    def change(arrays: dict[str, Any], _content: dict[str, Any]) -> None:
        made = value(arrays[name])
        if made is None:
            del arrays[name]
        else:
            arrays[name] = made

    return change


def with_value(array: Any, value: float) -> Any:
    """Return a copy whose last number is another one."""
    made = np.array(array)
    made.flat[-1] = value
    return made


def ones_like(array: Any, kind: str) -> Any:
    """Return an array of ones of another type."""
    return np.ones(array.shape, kind)


TENSORS = (
    *("teacher_mean", "teacher_std", "teacher.convolutions.0.weight"),
    *("student.convolutions.3.bias", "autoencoder.describe.weight"),
)
LARGE_PICTURE = base64.b64encode(black(20_000, 20_000)).decode()
"""A PNG of a few kilobytes that would be 400 megapixels."""
CONTENT = {
    ("size",): ("large", None, 3, ["small"]),
    ("calibration",): (None, [], "text", {}),
    ("calibration", "scales", "local", "high"): ("2", None, -1.0, True),
    ("calibration", "scales", "local"): (None, [0, 1], {}),
    ("calibration", "normal_scores"): ([], [2, 1], "text", [None], ["0.1"]),
    ("calibration", "false_alarm_budget"): (0, 0.9, -1, "1%", None),
    ("calibration", "given_threshold"): ("0.1", [1], True),
    ("calibration", "threshold_rule"): ("best", None, 1),
    ("provenance",): (None, 3, "text", [1]),
    ("provenance", "recipe"): (None, 3, [1], {"steps": 10**9 + 0.5}),
    ("provenance", "training_images"): ([], {"a": 1}, "text"),
    ("calibration", "unsure_budget"): (0.0001, "1", 0.9, True),
    ("calibration", "second_session"): ({"a": []}, {"a": [None]}, 3, [1]),
    ("calibration", "terms"): (
        {"composition": {"center": 0, "slope": 1}},
        [1],
        {"x": {}},
    ),
    ("calibration", "score_has_map"): ("x", 3, False),
    ("calibration", "rule"): (
        *(None, [1], {"min_area": 2}, {"min_area": "1"}, {"image_mm2": -1}, {"x": 1}),
        *({"region_of_interest": text} for text in ("x", LARGE_PICTURE, 3)),
    ),
    ("levels",): ([0], [9, 9], ["0", "9"], 3, [0, 70_000], [0.0, 9], [True, 9]),
    ("tiled_input_size",): ([256], [100, 100], "ab", [256, 10**6], [256.0, 256], 3),
    ("alignment",): (
        *(None, {}, "x", {"reference": "x", "least_agreement": 0.5}),
        {"reference": LARGE_PICTURE, "least_agreement": 0.5},
    ),
}
TEXTS = {
    "nested lists": "[" * 1000 + "]" * 1000,
    "nested tables": '{"a": ' * 1000 + "1" + "}" * 1000,
    "unclosed tables": '{"a": ' * 100_000,
    "a number of 400 digits": '{"size": 1' + "0" * 399 + "}",
    "a number of 5000 digits": '{"size": 1' + "0" * 5000 + "}",
    "an infinite number": '{"high": 1e999}',
    "NaN": '{"high": NaN}',
    "a list": "[1, 2]",
    "nothing": "",
    "null": "null",
    "an empty table": "{}",
}


def cases() -> Iterator[Case]:
    """Yield all cases of model files."""
    for verb in VERBS:
        for kind in (*SPECIAL, "missing"):
            prepare = partial(special_file, kind, MODEL)
            chosen = nothing if kind == "missing" else prepare
            yield refused(kind, chosen, str(MODEL), verb)
    for place in PLACES:
        prepare = partial(flipped, "part.ead", MODEL, place)
        yield refused(f"a flipped bit at {place}", prepare, "part.ead")
    for share in (0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.9999):
        prepare = partial(cut, "part.ead", MODEL, share)
        yield refused(f"cut to {share}", prepare, "is not a readable detector file")
    for share in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
        prepare = partial(zeroed, "part.ead", MODEL, share)
        yield refused(f"a zeroed sector at {share}", prepare, "not a readable detector")
    yield from edited_cases()
    yield from threshold_cases()


def edited_cases() -> Iterator[Case]:
    """Yield files whose checksum is right, and whose content is not."""
    for name in TENSORS:
        for value in (math.nan, math.inf, -math.inf):
            change = set_tensor(name, partial(with_value, value=value))
            yield refused(f"{value} in {name}", partial(edited, change), "not finite")
        for kind in ("int32", "uint32", "bool"):
            change = set_tensor(name, partial(ones_like, kind=kind))
            yield refused(f"{kind} in {name}", partial(edited, change), "of type")
        for what, value_of in (
            ("missing", lambda _a: None),
            ("cut", lambda a: a[:-1]),
            ("a number", lambda _a: np.float32(1)),
        ):
            prepare = partial(edited, set_tensor(name, value_of))
            yield refused(f"{name} is {what}", prepare, "does not hold")
    for place, values in CONTENT.items():
        for entry in values:
            name = f"{'.'.join(place)} is {json.dumps(entry)[:60]}"
            yield refused(name, partial(edited, set_in(place, entry)), "bad entry")
    for name, text in TEXTS.items():
        yield refused(f"described by {name}", partial(raw, text), "in/part.ead")
    for kind in ("teacher", "checkpoint", "basis", "x"):
        prepare = partial(raw, "{}", kind)
        yield refused(f"a {kind} file", prepare, "needed a detector file")
    for version in ("0", "3", "", "new"):
        prepare = partial(raw, "{}", version=version)
        yield refused(f"version {version!r}", prepare, "has file format")


def for_its_owner_alone() -> None:
    """Put the model to the output, readable by its owner alone."""
    write(OUT / "part.ead", Path("part.ead").read_bytes()).chmod(0o600)


def require_for_its_owner_alone() -> None:
    """Assert that it still is."""
    assert (OUT / "part.ead").stat().st_mode & 0o777 == 0o600


def threshold_cases() -> Iterator[Case]:
    """Yield changes of a threshold that are refused, and a sound one."""
    for name, options in {
        "a threshold below all": ("--at", "-1"),
        "a threshold above all": ("--at", "50"),
        "a budget of nothing": ("--false-alarm-budget", "0"),
        "a budget of all": ("--false-alarm-budget", "1"),
        "a threshold that is no number": ("--at", "nan"),
    }.items():
        yield Case(
            area="model_files",
            name=f"threshold: {name}",
            prepare=lambda: shutil.copy("part.ead", MODEL),
            command=("threshold", str(MODEL), *options),
        )
    yield Case(
        area="model_files",
        name="threshold: a folder for the output",
        prepare=partial((OUT / "new.ead").mkdir, parents=True),
        command=("threshold", "part.ead", "--at", "0.2", "--output", "out/new.ead"),
    )
    yield Case(
        area="model_files",
        name="threshold: permissions stay",
        prepare=for_its_owner_alone,
        command=("threshold", "out/part.ead", "--at", "0.2"),
        codes=(OK,),
        makes=("part.ead",),
        check=require_for_its_owner_alone,
    )


CASES = tuple(cases())
