"""HTML and SVG from the templates beside this module."""

from functools import cache
from typing import TYPE_CHECKING, Any

from efficientad.errors import train_extra_is_missing

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def environment() -> "Environment":
    """Return the templates; they escape every value."""
    try:
        # Only reports need jinja2; a line-side computer evaluates without it.
        from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise train_extra_is_missing("a report", error) from error
    return Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(template: str, **values: Any) -> str:
    """Return a template filled with values."""
    return environment().get_template(template).render(**values)
