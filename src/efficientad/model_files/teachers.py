"""Teacher files: the shipped ones and the user's own."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor

from efficientad.errors import ModelFileError
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.method.sizes import DESCRIPTOR_CHANNELS, ModelSize
from efficientad.model_files import container as tensor_file
from efficientad.model_files.json_text import read_provenance
from efficientad.model_files.tensors import as_arrays, as_tensors
from efficientad.settings import checks_arguments
from efficientad.storage import file_hash


@dataclass(frozen=True)
class Teacher:
    """A distilled patch description network and its provenance."""

    network: PatchDescriptionNetwork
    provenance: Mapping[str, Any]
    file_hash: str


def stored_weights(network: PatchDescriptionNetwork) -> dict[str, Tensor]:
    """Return the weights as a teacher file has them: half precision, on the CPU."""
    return {name: value.half().cpu() for name, value in network.state_dict().items()}


def save_teacher(
    network: PatchDescriptionNetwork, provenance: Mapping[str, Any], path: Path
) -> None:
    """Write a teacher file, weights in half precision.

    Raises:
        StorageError: If it cannot be written.
    """
    content = {"size": network.size, "provenance": dict(provenance)}
    tensor_file.write(path, "teacher", as_arrays(stored_weights(network)), content)


@checks_arguments
def open_teacher(size: ModelSize, path: Path | str | None = None) -> Teacher:
    """Open the shipped teacher of a size, checked by its hash, or a file of that size.

    Raises:
        ConfigError: If the size is unknown.
        ModelFileError: If the file cannot be used, is of another size, or if the
            shipped one is missing or damaged.
    """
    file = shipped_teacher_path(size) if path is None else Path(path)
    arrays, content = tensor_file.read(file, "teacher", is_verified=path is None)
    if content.get("size") != size:
        raise ModelFileError(
            f"{file} is a teacher of size {content.get('size')}; needed {size}: give "
            f"--size {content.get('size')} or another teacher"
        )
    network = PatchDescriptionNetwork(size)
    try:
        provenance = read_provenance(content.get("provenance", {}))
        tensors = as_tensors(arrays)
        network.load_state_dict({k: v.float() for k, v in tensors.items()})
    except TypeError as error:
        raise ModelFileError(
            f"{file} does not say where it comes from (bad entry: {error}); make it "
            "anew with `efficientad distill`"
        ) from error
    except RuntimeError as error:
        raise ModelFileError(
            f"{file} does not hold the weights of a {size} teacher with "
            f"{DESCRIPTOR_CHANNELS} channels; make it anew with `efficientad distill`"
        ) from error
    digest = file_hash(file)
    if path is None and digest != shipped_hashes().get(file.name):
        raise ModelFileError(
            f"the shipped teacher {file} is damaged: its hash differs from the "
            "recorded one; install efficientad again"
        )
    return Teacher(network, provenance, digest)


def load_teacher(
    size: ModelSize = "small", path: Path | str | None = None
) -> PatchDescriptionNetwork:
    """Return a teacher as a module, ready for use in any method.

    It maps (batch, 3, height, width) ImageNet-normalized RGB images to
    (batch, 384, rows, columns) descriptors, one every 4 pixels, each of one 33 x 33
    patch. Its parameters take no gradients. Without a path, it is the shipped one.

    Raises:
        ModelFileError: As `open_teacher`.
    """
    return open_teacher(size, path).network.eval().requires_grad_(requires_grad=False)


def shipped_teacher_path(size: ModelSize) -> Path:
    """Return the path of the teacher that comes with the package.

    Raises:
        ModelFileError: If this package ships none of that size.
    """
    path = weights_folder() / f"teacher_{size}.safetensors"
    if not path.is_file():
        raise ModelFileError(
            f"the {size} teacher is not installed: install efficientad-teachers, or "
            f"give one by --teacher, made by `efficientad distill --size {size}`"
        )
    return path


def weights_folder() -> Path:
    """Return the folder of the shipped teachers."""
    return Path(str(resources.files("efficientad.weights")))


def shipped_hashes() -> dict[str, str]:
    """Return the recorded hashes of the shipped teachers by file name."""
    path = weights_folder() / "hashes.json"
    return json.loads(path.read_text()) if path.is_file() else {}
