"""Check data before hours are spent on it: the verb `check`."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from efficientad.datasets import Category, Sample
from efficientad.datasets.checks import MoreFindings, check_category
from efficientad.datasets.findings import CategoryCheck, Finding
from efficientad.datasets.layouts import find_category_folders
from efficientad.datasets.lists import is_list
from efficientad.datasets.samples import Split
from efficientad.errors import DatasetError
from efficientad.images.listing import join_names
from efficientad.storage import require_writable, write_whole


def check_data(
    data: Path | str, *, model: Path | str | None = None, output: Path | None = None
) -> list[CategoryCheck]:
    """Read all images and masks of a data set, and list what is wrong.

    Args:
        data: A category, a folder of normal images, a CSV or JSON list, or a folder of
            categories in any layout that `find_categories` knows.
        model: Detector file; with it normal images that are unlike all others are
            found, too.
        output: JSON file to write with all findings and all files. None: no file.

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
    more = None if model is None else _suspicious_by(Path(model))
    folders = [root] if is_list(root) else list(find_category_folders(root)) or [root]
    check = partial(
        check_category,
        progress=_shown,
        more_findings=more,
    )
    if len(folders) == 1:
        checks = [check(folders[0])]
    else:
        checks = [_check_or_reason(check, folder) for folder in folders]
    if output is not None:
        text = json.dumps([check.as_json() for check in checks], indent=2)
        write_whole(output, (text + "\n").encode())
    return checks


def _check_or_reason(
    check: Callable[[Path], CategoryCheck], folder: Path
) -> CategoryCheck:
    """Check one of several categories; one that is none is a finding."""
    try:
        return check(folder)
    except DatasetError as error:
        finding = Finding("layout", "error", str(error), (folder,))
        return CategoryCheck(folder.name, folder, {}, (finding,))


def _shown(samples: list[tuple[Split, Sample]]) -> Iterable[tuple[Split, Sample]]:
    return tqdm(samples, unit="image", disable=None)


def _suspicious_by(model: Path) -> MoreFindings:
    """Look for normal images that are unlike all others, by a detector's teacher."""
    # Only this part needs torch.
    from efficientad.evaluation import suspicion  # noqa: PLC0415
    from efficientad.model_files import detector_file as model_file  # noqa: PLC0415

    detector = model_file.load(model)

    def look(category: Category, samples: Sequence[Sample]) -> Iterator[Finding]:
        if len(samples) < suspicion.MIN_IMAGES:
            return
        paths = [sample.path for sample in samples]
        scores = suspicion.leave_out_scores(
            detector, paths, progress=lambda given: tqdm(given, disable=None)
        )
        flagged = suspicion.is_suspicious(scores).nonzero()[0]
        strangest_first = sorted(flagged.tolist(), key=lambda i: -scores[i])
        if strangest_first:
            found = [samples[i] for i in strangest_first]
            yield Finding(
                "suspicious",
                "warning",
                f"{len(found)} normal images are unlike all others: "
                f"{join_names(category.name_of(sample) for sample in found)}; have a "
                "look whether they show defects",
                tuple(sample.path for sample in found),
            )

    return look
