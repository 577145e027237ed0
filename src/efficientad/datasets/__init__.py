"""Images in folders or lists, as samples of a category.

| module | what |
|---|---|
| `samples` | a sample, a category, and the masks of a defective image |
| `folders` | MVTec AD, MVTec LOCO, converted VisA, plain folders |
| `tables` | VisA as it is published, CSV and JSON lists |
| `layouts` | which of these a folder is; all categories below a folder |
| `splits` | holding images out, keeping sets apart |
| `check` | what is wrong with a data set, before hours are spent on it |
| `mask_check`, `near_duplicates` | its parts: masks, and pictures nearly the same |
| `findings` | what it gives |

No torch here.
"""

from efficientad.datasets.annotations import (
    read_annotation_channels,
    read_defect_mask,
)
from efficientad.datasets.layouts import (
    MIN_NORMAL_IMAGES,
    find_categories,
    normal_image_paths,
    open_category,
)
from efficientad.datasets.samples import (
    NORMAL,
    Category,
    Collection,
    Sample,
)
from efficientad.datasets.splits import (
    require_disjoint,
    shared_images,
    split_validation,
)

__all__ = [
    "MIN_NORMAL_IMAGES",
    "NORMAL",
    "Category",
    "Collection",
    "Sample",
    "find_categories",
    "normal_image_paths",
    "open_category",
    "read_annotation_channels",
    "read_defect_mask",
    "require_disjoint",
    "shared_images",
    "split_validation",
]
