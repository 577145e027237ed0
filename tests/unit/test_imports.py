"""What importing a module costs: a line-side computer has no torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import efficientad
from efficientad.errors import TRAIN_EXTRA

PACKAGE = Path(efficientad.__file__).parent

TORCH_FREE = [
    "efficientad",
    "efficientad.cli.main",
    "efficientad.cli.options",
    "efficientad.cores",
    "efficientad.datasets",
    "efficientad.errors",
    "efficientad.images.heatmaps",
    "efficientad.images",
    "efficientad.storage",
    "efficientad.evaluation.evaluate",
    "efficientad.evaluation.metrics",
    "efficientad.evaluation.report",
    "efficientad.method.placement",
    "efficientad.demo_parts",
    "efficientad.training.config",
    "efficientad.distillation.config",
    *(
        f"efficientad.{folder}.{path.stem}"
        for folder in ("calibration", "decisions", "inspection", "exports", "shards")
        for path in sorted((PACKAGE / folder).glob("[!_]*.py"))
    ),
    "efficientad.progress",
    "efficientad.engines.engine",
    "efficientad.engines.graph_outputs",
    "efficientad.engines.names",
    "efficientad.engines.native",
    "efficientad.engines.native_networks",
    "efficientad.engines.onnxruntime",
    "efficientad.engines.openvino",
    "efficientad.kernels.layers",
    "efficientad.method",
    "efficientad.method.maps",
    "efficientad.method.sizes",
    "efficientad.model_files.export_metadata",
    "efficientad.station.prediction.inspector",
    "efficientad.station.serve",
]


def packages_loaded_by(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after the statement."""
    program = (
        f"{statement}\nimport json, sys\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    return set(json.loads(output_of(program)))


def output_of(program: str) -> str:
    finished = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )
    return finished.stdout


def with_quiet_output(statement: str) -> str:
    return (
        "import contextlib, io\n"
        f"with contextlib.redirect_stdout(io.StringIO()):\n    {statement}"
    )


def importers_of_an_extra(modules):
    """Return the first modules, one after the other, that load a package of one."""
    program = (
        "import importlib, json, sys\n"
        f"extra, found = {sorted(TRAIN_EXTRA)}, {{}}\n"
        f"for module in {modules}:\n"
        "    importlib.import_module(module)\n"
        "    for package in set(extra) & set(sys.modules):\n"
        "        found.setdefault(package, module)\n"
        "print(json.dumps(found))"
    )
    return json.loads(output_of(program))


def test_torch_free_modules_load_no_package_of_an_extra():
    folders = ("evaluation", "calibration", "exports", "demo_parts.demo")
    needing_scipy = tuple(f"efficientad.{folder}" for folder in folders)
    others = [name for name in TORCH_FREE if not name.startswith(needing_scipy)]

    assert importers_of_an_extra(others) == {}
    assert importers_of_an_extra(TORCH_FREE).keys() <= {"scipy"}


def test_the_check_names_the_module_that_needs_torch():
    """The positive control."""
    module = "efficientad.method.networks"

    assert importers_of_an_extra([*TORCH_FREE, module, "torch"])["torch"] == module


def test_the_check_notices_torch():
    """The positive control: a module that does need torch must be seen to load it."""
    loaded = packages_loaded_by("import efficientad.method.networks")

    assert {"efficientad", "torch"} <= loaded


def test_the_check_notices_a_public_name_that_needs_torch():
    assert "torch" in packages_loaded_by("import efficientad; efficientad.Detector")


def test_settings_can_be_made_without_torch():
    loaded = packages_loaded_by("import efficientad; efficientad.TrainConfig()")

    assert not loaded & TRAIN_EXTRA


def call(*arguments):
    return f"from efficientad.cli.main import main; assert main({list(arguments)}) == 0"


def test_the_help_of_the_command_line_loads_nothing_but_the_package():
    loaded = packages_loaded_by(with_quiet_output(call("--help")))

    heavy = {"PIL", "matplotlib", "numpy", "safetensors", "tifffile", "tqdm", "tyro"}
    assert not loaded & (TRAIN_EXTRA | heavy)


@pytest.mark.parametrize("verb", ["train", "predict", "distill"])
def test_the_help_of_a_verb_loads_only_what_reads_options(verb):
    loaded = packages_loaded_by(with_quiet_output(call(verb, "--help")))

    heavy = {"PIL", "matplotlib", "numpy", "safetensors", "tifffile", "tqdm"}
    assert not loaded & (TRAIN_EXTRA | heavy)
    assert "tyro" in loaded


def test_a_missing_package_is_named_with_the_extra_that_brings_it():
    statement = (
        "import sys; sys.modules['torch'] = None\n"
        "import efficientad\n"
        "try:\n    efficientad.Detector\n"
        "except efficientad.MissingDependencyError as error:\n"
        "    assert 'PyTorch' in str(error) and 'efficientad[train]' in str(error)\n"
        "else:\n    raise SystemExit('no error')"
    )

    assert "efficientad" in packages_loaded_by(statement)
