"""Hostile options: refused before anything is read."""

from collections.abc import Iterator
from itertools import product

from tests.hostile.case import Case

NUMBERS = ("-1", "0", "nan", "inf", "1e999", "1e-320", "text", "", "9" * 400)
WORDS = ("", "other", "CPU ", "3", "None2")
POSITIONAL = {
    "train": ("normal",),
    "calibrate": ("part.ead", "normal"),
    "predict": ("part.ead", "good.png"),
    "evaluate": ("part.ead", "parts"),
    "check": ("parts",),
    "export": ("part.ead",),
    "threshold": ("part.ead",),
    "card": ("part.ead",),
    "distill": ("normal",),
    "demo": (),
    "serve": ("part.ead",),
    "doctor": (),
}
OUTPUT = {"train": "out/a.ead", "calibrate": "out/a.ead", "predict": "out"}
OUTPUT |= {"evaluate": "out", "export": "out/a.onnx", "distill": "out/a.safetensors"}
OUTPUT |= {"demo": "out/demo"}
NUMBER_OPTIONS = {
    "train": (
        *("steps", "batch-size", "validation-share", "false-alarm-budget"),
        *("unsure-budget", "scale", "pixel-size", "min-area"),
    ),
    "calibrate": ("false-alarm-budget", "unsure-budget", "pixel-size", "min-area"),
    "threshold": (
        *("false-alarm-budget", "unsure-budget", "at", "pixel-size", "min-area"),
    ),
    "predict": ("streams", "n-workers", "part-size", "cpus", "gpus"),
    "distill": ("minutes", "steps", "n-held-out", "image-size", "learning-rate"),
    "demo": ("steps",),
    "serve": ("port",),
}
SOUND = {
    ("calibrate", "unsure-budget", "0"),
    ("threshold", "unsure-budget", "0"),
    ("predict", "gpus", "0"),
    ("predict", "gpus", "1e-320"),
    ("serve", "port", "0"),
    *product(("train", "calibrate"), ("min-area",), ("0", "1e-320")),
}
NUMBER_VALUES = tuple(
    (verb, name, value)
    for verb, names in NUMBER_OPTIONS.items()
    for name in names
    for value in NUMBERS
    if (verb, name, value) not in SOUND
)
LEVELS = (
    *(("-1", "9"), ("9", "9"), ("9", "8"), ("0", "65536"), ("0.5", "9"), ("a", "9")),
    *(("nan", "9"), ("0", "9" * 400), ("0", "9" * 5000), ("0", "")),
)
WORD_OPTIONS = {
    "train": (
        *("size", "preset", "device", "local-channels", "seed", "tile", "align"),
    ),
    "predict": ("device", "engine", "executor", "format"),
    "evaluate": ("device", "engine"),
    "export": ("format", "precision"),
}


def call_of(verb: str, *options: str) -> tuple[str, ...]:
    """Return a call that is sound but for further options."""
    output = ("--output", OUTPUT[verb]) if verb in OUTPUT else ()
    source = ("--source", "resnet18") if verb == "distill" else ()
    return (verb, *POSITIONAL[verb], *output, *source, *options)


def option(name: str, *command: str, words: str = "") -> Case:
    """Return a case of an option that is refused at once."""
    return Case(
        area="options",
        name=name,
        command=command,
        words=words,
        seconds=5,
        mebibytes=200,
    )


def cases() -> Iterator[Case]:
    """Yield all cases of options."""
    for verb in ("trian", "--version2", "predict2", "TRAIN", "-x", "../train"):
        yield option(f"verb {verb!r}", verb, words="needed one of")
    for verb, given in POSITIONAL.items():
        yield option(f"{verb} --unknown", *call_of(verb, "--unknown", "1"))
        yield option(f"{verb} with another word", *call_of(verb, "x", "--unknown"))
        if given:
            yield option(f"{verb} alone", verb, words="missing")
        if verb in OUTPUT:
            yield option(f"{verb} --output twice", *call_of(verb, "--output"))
    yield from value_cases()


def value_cases() -> Iterator[Case]:
    """Yield values that an option cannot have."""
    for verb, name, value in NUMBER_VALUES:
        called = call_of(verb, f"--{name}={value}")
        yield option(f"{verb} --{name}={value[:9]}", *called)
    for verb in ("train", "calibrate", "threshold"):
        budgets = ("--false-alarm-budget=0.1", "--unsure-budget=0.05")
        name = f"{verb} with budgets in the wrong order"
        yield option(name, *call_of(verb, *budgets), words="give a higher one")
    for verb, names in WORD_OPTIONS.items():
        for name in names:
            for value in WORDS:
                if not (name in {"local-channels", "seed"} and value == "3"):
                    called = call_of(verb, f"--{name}={value}")
                    yield option(f"{verb} --{name}={value}", *called)
    for value in ("-1", str(2**64), "1.5", "9" * 5000):
        called = call_of("train", f"--seed={value}")
        yield option(f"train --seed={value[:21]}", *called)
    for value in ("31", "33", "416", "-32"):
        called = call_of("train", f"--local-channels={value}")
        yield option(f"train --local-channels={value}", *called)
    for low, high in LEVELS:
        called = call_of("train", "--levels", low, high)
        yield option(f"train --levels {low} {high[:9]}, {len(high)}", *called)


CASES = tuple(cases())
