"""The command line: `efficientad VERB`, each verb a function of the same name.

The lab adds its verbs by entry points. Errors raised on purpose become one line on
stderr and exit code 2; other errors keep their traceback.
"""

import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib.metadata import entry_points
from io import TextIOWrapper
from typing import Final

from efficientad import __version__
from efficientad.cli import BAD_INPUT, INTERRUPTED, OK, serving, verbs
from efficientad.cli.options import call_of
from efficientad.cli.process import lasting_streams, logging_to_stderr
from efficientad.errors import (
    TRAIN_EXTRA,
    ConfigError,
    EfficientADError,
    MissingDependencyError,
    extra_is_missing,
    path_error,
)
from efficientad.names import printable

_VERBS: Final[dict[str, Callable[..., int]]] = {
    "demo": verbs.demo,
    "train": verbs.train,
    "calibrate": verbs.calibrate,
    "predict": verbs.predict,
    "evaluate": verbs.evaluate,
    "check": verbs.check,
    "export": verbs.export,
    "threshold": verbs.threshold,
    "card": verbs.card,
    "distill": verbs.distill,
    "serve": serving.serve,
    "doctor": verbs.doctor,
}
_LAB_VERBS: Final = {
    "benchmark": "Measure speed, memory and cost of every engine.",
    "reproduce": "Train and evaluate all scenarios: the paper's Tables 1 and 2.",
    "ablate": "Measure the effect of each part of the method.",
    "figures": "Draw the paper's figures from recorded runs.",
}
_TRAINING_VERBS: Final = {"train", "demo", "distill", "reproduce", "ablate"}
_REMEDIES: Final = {
    **dict.fromkeys(("train", "distill"), "; --resume continues"),
    **dict.fromkeys(("demo", "reproduce", "ablate"), "; the same command continues"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line with the arguments given, or those of the process.

    Returns:
        The exit code: that of the verb, 2 for bad input or where standard output takes
        no text, 130 for an interrupt.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may be no UTF-8
    with lasting_streams() as lost:
        code = _run(arguments)
        sys.stdout.flush()
        error = lost()
        # Who closes a pipe, as `head` does, has read enough.
        if error is None or isinstance(error, BrokenPipeError):
            return code
        if code in {BAD_INPUT, INTERRUPTED}:
            return code
        reason = f"cannot write to standard output ({error.strerror})"
        print(f"efficientad: {reason}; all result files are whole", file=sys.stderr)
        return BAD_INPUT


def _run(arguments: list[str] | None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    verb, *options = given or ["--help"]
    if verb in {"-h", "--help"}:
        print(_overview())
        return OK
    if verb == "--version":
        print(f"efficientad {__version__}")
        return OK
    try:
        call = call_of(_function_of(verb), verb, options)
        if call is None:
            return OK
        if verb in _TRAINING_VERBS:
            from efficientad.cli.process import keep_freed_memory

            keep_freed_memory()
        with logging_to_stderr():
            return call()
    except KeyboardInterrupt:
        print(f"efficientad: interrupted{_REMEDIES.get(verb, '')}", file=sys.stderr)
        return INTERRUPTED
    except (EfficientADError, OSError, ModuleNotFoundError) as error:
        sentence = _sentence_of(error, verb)
        if sentence is None:
            raise
        print(f"efficientad: {printable(sentence)}", file=sys.stderr)
        return BAD_INPUT


def _function_of(verb: str) -> Callable[..., int]:
    """Return the function of a verb of this package or of the lab.

    Raises:
        ConfigError: If there is no such verb.
        MissingDependencyError: If the lab, whose verb it is, is not installed.
    """
    if verb in _VERBS:
        return _VERBS[verb]
    for entry_point in entry_points(group="efficientad.verbs", name=verb):
        function: Callable[..., int] = entry_point.load()
        return function
    if verb in _LAB_VERBS:
        raise MissingDependencyError(
            f"{verb} is a verb of the lab, which is not installed; run: pip install "
            "./lab in the source tree"
        )
    known = [*_VERBS, *_LAB_VERBS]
    similar = get_close_matches(verb, known, n=1)
    meant = f"; perhaps you meant {similar[0]}" if similar else ""
    raise ConfigError(
        f"needed one of {', '.join(known)}, got {verb or 'nothing'}{meant}; "
        "see efficientad --help"
    )


def _sentence_of(error: Exception, verb: str) -> str | None:
    """Return the sentence for bad input, or None for an error of another kind."""
    if isinstance(error, EfficientADError):
        return str(error)
    if isinstance(error, OSError):
        found = path_error(error)
        return None if found is None else str(found)
    if isinstance(error, ModuleNotFoundError) and error.name in TRAIN_EXTRA:
        return str(extra_is_missing(verb, "train", error))
    return None


def _overview() -> str:
    """Return the help of all verbs. It reads no options, which would take longer."""
    own = {name: str(verb.__doc__).partition("\n")[0] for name, verb in _VERBS.items()}
    return "\n".join(
        [
            "usage: efficientad VERB ...",
            "",
            "Find what is wrong in a picture, having seen only good ones.",
            "",
            *(f"  {name:10} {sentence}" for name, sentence in own.items()),
            "",
            "In the lab (pip install ./lab):",
            "",
            *(f"  {name:10} {sentence}" for name, sentence in _LAB_VERBS.items()),
            "",
            "efficientad VERB --help lists its options, --version shows the version.",
        ]
    )
