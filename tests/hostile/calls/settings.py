"""Hostile settings of a station: refused in one sentence before it is started."""

from collections.abc import Iterator
from typing import Final

from tests.hostile.case import IN, Case, special_cases, written_cases

PATH: Final = IN / "station.toml"
COMMAND: Final = ("serve", "part.ead", "--data", "out/station", "--config", str(PATH))
HASH: Final = "a" * 64
TEXTS: Final[dict[str, tuple[str | bytes, str]]] = {
    "a port of 400 digits": (f"port = {'9' * 400}", "port must be"),
    "a port of 5000 digits": (f"port = {'9' * 5000}", "TOML"),
    "a port of 9000 hexadecimal digits": (f"port = 0x{'f' * 9000}", "port must be"),
    "tokens that are a large number": (f"tokens = [0x{'f' * 9000}]", "a table"),
    "a share that is NaN": ("review_share = nan", "review_share must be"),
    "an infinite time": ("latency_budget = inf", "latency_budget must be"),
    "a time without an end": ("latency_budget = 1e400", "latency_budget must be"),
    "a date for a port": ("port = 2026-11-30", "port must be"),
    "a text for a switch": ('is_open = "true"', "is_open must be"),
    "a number for a folder": ("data = 3", "data must be"),
    "an unknown setting": ("prot = 1", "prot"),
    "nested lists": (f"tokens = {'[' * 5000}", "TOML"),
    "whole nested lists": (f"tokens = {'[' * 90}{']' * 90}", "a table"),
    "a token for a hash": ('[[tokens]]\nname="a"\nrole="line"\nsha256="a"', "64 hex"),
    "a hash in upper case": (
        f'[[tokens]]\nname="a"\nrole="line"\nsha256="{HASH.upper()}"',
        "lower case",
    ),
    "an unknown role": (f'[[tokens]]\nname="a"\nrole="x"\nsha256="{HASH}"', "role"),
    "a proxy of no network": ('[proxy]\naddresses = ["a"]', "networks"),
    "a webhook of half an address": (
        '[[webhooks]]\nname="a"\nurl="http://[::1/a"',
        "a webhook needs an address",
    ),
    "a webhook with a port out of range": (
        '[[webhooks]]\nname="a"\nurl="http://a:99999/"',
        "a webhook needs an address",
    ),
    "a webhook by mail": (
        '[[webhooks]]\nname="a"\nurl="mailto:a@b.c"',
        "a webhook needs an address",
    ),
    "a broker without a host": ('[mqtt]\nhost=""', "a broker needs a host"),
    "a camera without an address": ('[[cameras]]\nname="a"', "an address or a command"),
    "a source of an escape sequence": (
        '[[folders]]\nname="a\\u001b[2J"\npath="in"',
        "names of station",
    ),
    "two sources of one name": (
        '[[folders]]\nname="a"\npath="in"\n' * 2,
        "different names",
    ),
    "UTF-16": ("port = 1".encode("utf-16"), "TOML"),
    "Latin-1": ('name = "Größe"'.encode("latin-1"), "TOML"),
    "null characters": ("port\0 = 1", "TOML"),
}


def cases() -> Iterator[Case]:
    """Yield all cases of settings."""
    yield from written_cases("options", COMMAND, PATH, TEXTS, label="serve")
    yield from special_cases(
        "options",
        COMMAND,
        PATH,
        str(PATH),
        label="serve",
        without={"empty file"},  # all settings may be left out
    )


CASES = tuple(cases())
