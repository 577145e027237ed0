"""What an extra pulls in: a line-side computer gets no torch."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = tomllib.loads(
    (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
)["project"]
PINNED = (Path(__file__).resolve().parents[2] / "constraints.txt").read_text(
    encoding="utf-8"
)


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def own(extra):
    """Requirements of this package with one of its extras."""
    given = PROJECT["dependencies"] if extra is None else []
    if extra is not None:
        given = PROJECT["optional-dependencies"][extra]
    return [Requirement(text) for text in given]


def of(name, extras):
    """Requirements of an installed package, for this machine."""
    found = [Requirement(text) for text in requires(name) or []]
    return [
        r
        for r in found
        if r.marker is None
        or any(r.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]


def pulled_in(extra):
    """Every package that `pip install efficientad[extra]` needs, by name."""
    waiting = own(None) + own(extra)
    found: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        name, extras = plain(requirement.name), frozenset(requirement.extras)
        if (name, extras) in found:
            continue
        found.add((name, extras))
        if name == "efficientad":
            waiting += [r for e in sorted(extras) for r in own(e)]
            continue
        try:
            waiting += of(name, extras)
        except PackageNotFoundError:
            pytest.skip(f"needs {name} installed, to read what it requires")
    return {name for name, _ in found}


@pytest.mark.parametrize("extra", ["onnx", "openvino", "ray", "station"])
def test_a_deployment_install_pulls_no_torch(extra):
    found = pulled_in(extra)

    assert {"numpy", "pillow"} < found
    assert not found & {"torch", "torchvision", "scipy", "onnx"}


def test_training_needs_no_scikit_image_and_no_scikit_learn():
    found = pulled_in("train")

    assert "torch" in found
    assert not found & {"scikit-image", "scikit-learn"}


@pytest.mark.parametrize("extra", ["train", "export"])
def test_the_search_finds_torch_where_it_is_pulled_in(extra):
    assert "torch" in pulled_in(extra)


@pytest.mark.parametrize(
    "extra", ["onnx", "openvino", "export", "ray", "station", "postgres"]
)
def test_what_is_pulled_in_is_pinned(extra):
    pinned = {plain(line.partition("==")[0]) for line in PINNED.splitlines()}

    assert pulled_in(extra) - {"efficientad"} <= pinned


def test_the_oldest_constraints_are_the_oldest_versions_that_are_allowed():
    text = (Path(__file__).resolve().parents[2] / "constraints-oldest.txt").read_text()
    pinned = {line for line in text.splitlines() if not line.startswith("#")}

    oldest = {
        f"{r.name}=={pin(specifier.version)}"
        for extra in (None, "onnx", "openvino")
        for r in own(extra)
        for specifier in r.specifier
    }
    assert pinned == oldest


def pin(version):
    """Return a version with three numbers."""
    numbers = version.split(".")
    return ".".join(numbers + ["0"] * (3 - len(numbers)))
