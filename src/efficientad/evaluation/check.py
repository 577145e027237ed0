"""The verb `check`: find what is wrong with data before hours are spent on it."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from efficientad.datasets import Category, Sample
from efficientad.datasets.checks import MoreFindings, check_category
from efficientad.datasets.findings import CategoryCheck, Finding
from efficientad.datasets.layouts import find_category_folders
from efficientad.datasets.lists import is_list
from efficientad.errors import DatasetError
from efficientad.images.listing import join_names
from efficientad.inspection.opening import require_detector_file
from efficientad.names import as_text
from efficientad.progress import tracked
from efficientad.settings import checks_arguments
from efficientad.storage import require_writable, write_atomically


@checks_arguments
def check(
    data: Path | str, *, model: Path | str | None = None, output: Path | None = None
) -> list[CategoryCheck]:
    """Read all images and masks of a data set, and list what is wrong.

    Args:
        data: Category, folder of normal images, CSV or JSON list, or folder of
            categories in any layout that `open_category` accepts.
        model: Detector file; with it, normal images that are unlike all others are
            found, too.
        output: JSON file for all findings and all files. None: no file.

    Returns:
        One check for each category, in the order of their paths.

    Raises:
        DatasetError: If there is no data at all.
        ModelFileError: If the model cannot be used.
        StorageError: If the file cannot be written.
    """
    if output is not None:
        require_writable(output, may_be_device=True)
    root = Path(data)
    more = None if model is None else _unusual_by(Path(model))
    folders = [root] if is_list(root) else list(find_category_folders(root)) or [root]
    checks = []
    for folder in folders:
        try:
            checks.append(check_category(folder, more_findings=more))
        except DatasetError as error:
            if len(folders) == 1:
                raise
            # One of several folders that is no category is a finding.
            finding = Finding("layout", "error", str(error), (folder,))
            checks.append(CategoryCheck(folder.name, folder, {}, (finding,)))
    if output is not None:
        text = json.dumps(as_text([each.as_json() for each in checks]), indent=2)
        write_atomically(output, (text + "\n").encode())
    return checks


def _unusual_by(model: Path) -> MoreFindings:
    """Return a search for normal images that are unlike all others."""
    require_detector_file(model)
    # Only this part needs torch.
    from efficientad.evaluation import unusual_images  # noqa: PLC0415
    from efficientad.method.detector import Detector  # noqa: PLC0415
    from efficientad.model_files import detector_file  # noqa: PLC0415

    file = detector_file.read_detector(model)
    detector = Detector.from_arrays(file.weights, file.size)

    def find(category: Category, samples: Sequence[Sample]) -> Iterator[Finding]:
        if len(samples) < unusual_images.MIN_IMAGES:
            return
        paths = [sample.path for sample in samples]
        images = map(file.preparation.read, tracked(paths, len(paths), "comparing"))
        distances = unusual_images.leave_one_out_distances(detector, images)
        flagged = unusual_images.is_unusual(distances).nonzero()[0]
        order = sorted(flagged.tolist(), key=lambda i: -distances[i])
        if order:
            found = [paths[i] for i in order]
            yield Finding(
                "suspicious",
                "warning",
                f"{len(found)} normal images are unlike all others: "
                f"{join_names(map(category.name_of, found))}; have a look whether they "
                "show defects",
                tuple(found),
            )

    return find
