"""What a wheel carries: also the files of the package that are not Python."""

import subprocess
import sys
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "src" / "efficientad"


def test_a_wheel_carries_every_file_of_the_package(tmp_path):
    """Teachers and native sources included: an offline machine has nothing else."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert "efficientad/py.typed" in expected
    for suffix in (".safetensors", ".cpp", ".h", ".j2"):
        assert any(path.endswith(suffix) for path in expected), suffix
    assert expected <= packed
