"""The options of a verb: tyro makes them from the function's parameters and reads them.

Wrong options become one sentence, as any other bad input does.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from functools import partial, wraps
from inspect import cleandoc, signature, unwrap
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, get_args

from efficientad.errors import ConfigError

if TYPE_CHECKING:
    from tyro._errors import ParseErrorEvent, ParseErrorHook
    from tyro.constructors import ConstructorRegistry

_ALONE: Final = {"--align": "always"}
"""Options that may stand without a value, and what they mean then."""


def call_of(
    verb: Callable[..., int], name: str, options: Sequence[str]
) -> Callable[[], int] | None:
    """Return the call of a verb with its options, or None if help was asked for.

    Raises:
        ConfigError: If the verb does not take these options.
    """
    import tyro

    # tyro keeps the line breaks of an argument's text, and breaks lines itself too.
    function = unwrap(verb)
    function.__doc__ = cleandoc(function.__doc__ or "").replace("\n" + 8 * " ", " ")

    @wraps(verb)
    def call(*arguments: Any, **named: Any) -> Callable[[], int]:
        return partial(verb, *arguments, **named)

    program = f"efficientad {name}"

    def refuse(event: "ParseErrorEvent") -> None:
        if sentence := _sentence(event, _names_of(verb)):
            raise ConfigError(f"{sentence}; see {program} --help")

    flat = (tyro.conf.OmitArgPrefixes,)
    try:
        with _on_error(refuse):
            return tyro.cli(
                call,
                prog=program,
                args=list(_completed(options)),
                config=flat,
                registry=_registry(),
            )
    except SystemExit as request:
        if request.code:
            raise
        return None


def _completed(options: Sequence[str]) -> Iterator[str]:
    """Yield the options, and the value of one that may stand without."""
    for option, following in zip(options, (*options[1:], "--"), strict=False):
        yield option
        if option in _ALONE and following.startswith("--"):
            yield _ALONE[option]


def _registry() -> "ConstructorRegistry":
    """Return rules for options that may be None, several arguments, and settings."""
    from tyro.constructors import (
        ConstructorRegistry,
        PrimitiveConstructorSpec,
        PrimitiveTypeInfo,
        StructConstructorSpec,
        StructTypeInfo,
    )

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def left_out(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        kinds = get_args(info.type)
        others = [kind for kind in kinds if kind is not NoneType]
        if NoneType not in kinds or len(others) != 1:
            return None
        inner = PrimitiveTypeInfo.make(others[0], info.markers)
        spec = ConstructorRegistry.get_primitive_spec(inner)
        if not isinstance(spec, PrimitiveConstructorSpec):
            return None
        return replace(
            spec,
            is_instance=lambda value: value is None or spec.is_instance(value),
            str_from_instance=lambda value: (
                ["None"] if value is None else spec.str_from_instance(value)
            ),
        )

    @registry.primitive_rule
    def several(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        if info.type != tuple[str, ...]:
            return None
        return PrimitiveConstructorSpec(
            nargs="*",
            metavar="SOURCE ...",
            instance_from_str=tuple,
            is_instance=lambda value: isinstance(value, tuple),
            str_from_instance=list,
        )

    under_way: list[Any] = []

    @registry.struct_rule
    def settings(info: StructTypeInfo) -> StructConstructorSpec | None:
        if not is_dataclass(info.type) or info.type in under_way:
            return None
        under_way.append(info.type)
        spec = ConstructorRegistry.get_struct_spec(info)
        under_way.pop()
        if not isinstance(spec, StructConstructorSpec):
            return None
        each = (
            replace(f, helptext=partial(_on_one_line, f.helptext)) for f in spec.fields
        )
        return replace(spec, fields=tuple(each))

    return registry


def _on_one_line(text: Any) -> str:
    return " ".join((text() or "").split())


def _on_error(refuse: "ParseErrorHook") -> AbstractContextManager[None]:
    """Call `refuse` before tyro prints a box and exits with code 2."""
    try:
        from tyro._errors import on_parse_error
    except ImportError:  # not a public module: without it the box is printed
        return nullcontext()
    return on_parse_error(refuse)


def _sentence(event: "ParseErrorEvent", known: Sequence[str]) -> str:
    """Return what is wrong with the options; empty for an error of another kind."""
    from tyro import _errors as errors

    sentence = ""
    match event:
        case errors.MissingArgs(missing_arguments=missing, unrecognized_tokens=tokens):
            sentence = "missing: " + ", ".join(
                gap.arg.display_name() for gap in missing
            )
            sentence += f"; {_unrecognized(tokens, known)}" if tokens else ""
        case errors.UnrecognizedArgs(tokens=tokens):
            sentence = _unrecognized(tokens, known)
        case errors.InvalidChoice(argument=option, value=value, choices=choices):
            expected = ", ".join(sorted(choices))
            sentence = f"{option.display_name()} needs one of {expected}, got {value!r}"
        case errors.BadValue(argument=option):
            sentence = f"{option.display_name()} needs a value, got none"
        case errors.InstantiationFailure(argument=option, message=message):
            sentence = message
            if option is not None:  # otherwise settings exclude each other
                kind = str(option.lowered.metavar)
                value = message.rpartition(": ")[2]  # the last reason ends with it
                sentence = f"{option.display_name()} needs {kind}, got {value}"
    return sentence


def _unrecognized(tokens: Sequence[str], known: Sequence[str]) -> str:
    names = [token.partition("=")[0] for token in tokens if token.startswith("-")]
    similar = [name for wrong in names for name in get_close_matches(wrong, known, n=1)]
    meant = f"; perhaps you meant {', '.join(similar)}" if similar else ""
    return f"unrecognized options: {', '.join(tokens)}{meant}"


def _names_of(verb: Callable[..., int]) -> list[str]:
    """Return the options of a verb as they are written on the command line."""
    names: list[str] = []
    for name, parameter in signature(verb).parameters.items():
        names += _flat(name, parameter.annotation)
    return [f"--{name.replace('_', '-')}" for name in names]


def _flat(name: str, kind: Any) -> list[str]:
    if not is_dataclass(kind):
        return [name]
    return [each for f in fields(kind) for each in _flat(f.name, f.type)]
