"""Images in folders or lists, as samples of a category. No torch here.

| module | content |
|---|---|
| `samples` | a sample, a category, and the collection it belongs to |
| `annotations` | masks, channels and saturation areas |
| `folders`, `visa` | MVTec AD and plain folders; VisA |
| `lists`, `manifests` | CSV and JSON; Amazon Lookout for Vision |
| `layouts` | the layout of a folder, and all categories below it |
| `splits` | holding images out, keeping sets apart |
| `checks`, `mask_checks`, `near_duplicates`, `findings` | faults of a data set |
"""

from efficientad.datasets.annotations import read_annotation_channels, read_defect_mask
from efficientad.datasets.layouts import (
    MIN_NORMAL_IMAGES,
    normal_image_paths,
    open_category,
)
from efficientad.datasets.samples import NORMAL, Category, Sample
from efficientad.datasets.splits import require_disjoint, split_validation

__all__ = [
    "MIN_NORMAL_IMAGES",
    "NORMAL",
    "Category",
    "Sample",
    "normal_image_paths",
    "open_category",
    "read_annotation_channels",
    "read_defect_mask",
    "require_disjoint",
    "split_validation",
]
