r"""Are a teacher's maps the same in half precision?

A shipped teacher's weights are stored in half precision. Here one detector judges
normal and defective test images twice: with the teacher as distilled (out of the
checkpoint, single precision) and as stored. The difference stands beside the spread of
the maps and of the image scores. The checkpoint must be that of the teacher.

    python benchmarks/teacher_half.py --checkpoint teacher.safetensors.checkpoint \
        --teacher teacher.safetensors --category ../shared/data/mvtec_ad/bottle
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from records import RESULTS, write_run

import efficientad
from efficientad.datasets import open_category
from efficientad.errors import EfficientADError, ModelFileError
from efficientad.method.networks import PatchDescriptionNetwork
from efficientad.model_files import container as tensor_file
from efficientad.model_files.teachers import Teacher, open_teacher, stored_weights
from efficientad.training.config import ALL_CHANNELS

Grids = NDArray[np.float32]
_PREFIX = "network."


def exact_teacher(checkpoint: Path) -> PatchDescriptionNetwork:
    """The teacher of a checkpoint, folded, in single precision.

    Raises:
        ModelFileError: If it is not the checkpoint of a distillation.
    """
    tensors, content = tensor_file.read(checkpoint, "checkpoint")
    settings = content["settings"]
    if "has_batch_norm" not in settings:
        raise ModelFileError(
            f"{checkpoint} is not the checkpoint of a distillation; give the one "
            "beside the teacher"
        )
    network = PatchDescriptionNetwork(
        settings["size"], has_batch_norm=settings["has_batch_norm"]
    )
    network.load_state_dict(
        {k.removeprefix(_PREFIX): v for k, v in tensors.items() if _PREFIX in k}
    )
    network.eval().requires_grad_(requires_grad=False)
    return network.folded() if settings["has_batch_norm"] else network


def halved(network: PatchDescriptionNetwork) -> PatchDescriptionNetwork:
    """The same as a file stores it."""
    stored = PatchDescriptionNetwork(network.size)
    stored.load_state_dict(stored_weights(network))
    return stored.eval().requires_grad_(requires_grad=False)


def stored_teacher(exact: PatchDescriptionNetwork, path: Path | None) -> Teacher:
    """The teacher file whose weights in single precision these are.

    Raises:
        ModelFileError: If it is another one.
    """
    teacher = open_teacher(exact.size, path)
    differing = teacher.differing(exact)
    if differing:
        raise ModelFileError(
            f"{path or 'the shipped teacher'} must be what the checkpoint ends in, "
            f"its {differing[0]} differs; give --teacher the file beside the checkpoint"
        )
    return teacher


def combined(detector: efficientad.Detector, images: Sequence[Path]) -> Grids:
    """Combined maps on the descriptor grid."""
    detector.runtime = "pytorch"
    predictions = [detector.predict(path) for path in images]
    return np.stack([(p.local_grid + p.global_grid) / 2 for p in predictions])


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, judge twice, compare, record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, help="default: the shipped one")
    parser.add_argument("--category", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--n-images", type=int, default=20)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    try:
        exact = exact_teacher(options.checkpoint)
        category = open_category(options.category)
        every = max(1, len(category.test) // options.n_images)
        images = [sample.path for sample in category.test[::every]]
        teacher = stored_teacher(exact, options.teacher)
        config = efficientad.TrainConfig(
            size=exact.size,
            preset="quick",
            steps=options.steps,
            teacher=options.teacher,
            local_channels=ALL_CHANNELS,  # else the teacher's axes are others
            global_channels=ALL_CHANNELS,
            device="cpu",
        )
        detector = efficientad.train(options.category, config)
        detector.teacher = teacher.network
        stored = combined(detector, images)
        detector.teacher = exact
        as_distilled = combined(detector, images)
    except EfficientADError as error:
        print(f"teacher_half: {error}", file=sys.stderr)
        return 2
    gap = np.abs(stored - as_distilled)
    scores = [maps.max((1, 2)) for maps in (stored, as_distilled)]
    run = {
        "experiment": "teacher_half",
        "category": category.name,
        "variant": f"{exact.size}, half against single precision",
        "seed": 0,
        "settings": {"steps": options.steps, "n_images": len(images)},
        "teacher": {"hash": teacher.file_hash},
        "metrics": {
            "largest_map_difference": float(gap.max()),
            "mean_map_difference": float(gap.mean()),
            "map_deviation": float(as_distilled.std()),
            "largest_score_difference": float(np.abs(scores[0] - scores[1]).max()),
            "score_deviation": float(scores[1].std()),
        },
    }
    print(write_run(run, options.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
