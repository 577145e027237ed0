"""The door of the package: what it offers, and that nothing behind it is missing."""

import ast
import importlib.metadata
import inspect
from pathlib import Path

import pytest

import efficientad
from efficientad import errors


@pytest.mark.parametrize("name", efficientad.__all__)
def test_a_public_name_is_there_and_explained(name):
    assert inspect.getdoc(getattr(efficientad, name))


def test_the_list_of_public_names_is_sorted_and_complete():
    public_errors = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.EfficientADError)
    }

    assert efficientad.__all__ == sorted(efficientad.__all__)
    assert set(efficientad.__all__) == public_errors | set(efficientad._HOME_OF)


def test_type_checkers_see_the_same_homes():
    """The imports under TYPE_CHECKING and the lazy table must tell the same."""
    tree = ast.parse(Path(efficientad.__file__).read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: str(statement.module).removeprefix("efficientad.")
        for statement in guarded.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }

    assert seen == efficientad._HOME_OF


def test_public_names_are_listed_before_they_are_loaded():
    assert set(efficientad.__all__) <= set(dir(efficientad))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'teach'"):
        efficientad.teach  # noqa: B018


def test_the_version_is_the_installed_one():
    try:
        installed = importlib.metadata.version("efficientad")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("efficientad is run from its sources, not installed")

    assert efficientad.__version__ == installed


def test_every_error_is_also_a_fitting_builtin():
    leaves = errors.EfficientADError.__subclasses__()

    assert leaves
    fitting = (ValueError, RuntimeError, OSError, ImportError, LookupError)
    for leaf in leaves:
        assert issubclass(leaf, fitting)
