"""Files of other projects that the station's page is shipped with: `make vendor`.

    python vendor.py            # the recorded versions, refused if they have changed
    python vendor.py --update   # record what the registry has for these versions

`vendored.json` names packages, versions, files and their hashes. A test compares them.
"""

import argparse
import base64
import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

VENDOR = Path(__file__).parent / "src" / "efficientad" / "station" / "page" / "vendor"
RECORD = VENDOR / "vendored.json"


def packed(name: str, version: str, folder: Path) -> tuple[Path, str]:
    """Return the archive of a package, as npm downloads it, and its integrity."""
    command = ["npm", "pack", f"{name}@{version}", "--ignore-scripts", "--silent"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)  # noqa: S603
    (archive,) = folder.glob("*.tgz")
    digest = hashlib.sha512(archive.read_bytes()).digest()
    return archive, f"sha512-{base64.b64encode(digest).decode()}"


def vendor(package: dict[str, Any], *, update: bool) -> dict[str, str]:
    """Copy the files of a package, and return their hashes by their names."""
    name, version = package["name"], package["version"]
    with tempfile.TemporaryDirectory() as folder:
        archive, integrity = packed(name, version, Path(folder))
        if update:
            package["integrity"] = integrity
        if integrity != package["integrity"]:
            raise SystemExit(
                f"{name} {version} must have {package['integrity']}, the registry has "
                f"{integrity}; find out why, then run with --update"
            )
        hashes = {}
        with tarfile.open(archive) as files:
            for inner in package["files"]:
                member = files.extractfile(f"package/{inner}")
                assert member is not None
                path = VENDOR / name.lower() / Path(inner).name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(member.read())
                place = path.relative_to(VENDOR).as_posix()
                hashes[place] = hashlib.sha256(path.read_bytes()).hexdigest()
    return hashes


def main() -> None:
    """Copy the files of all packages."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--update", action="store_true", help="record new hashes")
    update = parser.parse_args().update
    packages = json.loads(RECORD.read_text())
    for package in packages:
        package["sha256"] = vendor(package, update=update)
    RECORD.write_text(f"{json.dumps(packages, indent=1)}\n")


if __name__ == "__main__":
    main()
