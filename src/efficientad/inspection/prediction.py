"""The prediction for one image, and a list of them.

A prediction holds numbers and small grids, but no pixels, so that many of them fit into
memory. It remembers the file it was made of, and is drawn on that file, or on an image
that it is given.
"""

import html
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from efficientad.decisions.decision import Decision
from efficientad.decisions.rule import ANYWHERE, Region, Rule
from efficientad.errors import ConfigError, ImageError, MissingDependencyError
from efficientad.images.encoding import data_uri, encoded
from efficientad.images.heatmaps import write_caption
from efficientad.images.levels import Levels
from efficientad.images.pose import Pose
from efficientad.images.rgb import ImageLike, Mask, RGBImage, as_rgb, read_image
from efficientad.inspection.panels import (
    prediction_overlay,
    prediction_panel,
    with_boxes,
)
from efficientad.method.maps import HIGH_TARGET, LOW_TARGET, combine_maps
from efficientad.method.placement import place_map
from efficientad.settings import checked, explains_freezing
from efficientad.storage import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

Grid = NDArray[np.float32]
"""Values of one map on the descriptor grid, (rows, columns)."""

_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_GRAY: Final = 128
_SIDE: Final = 256
"""Longer side of what stands for an image that is gone, pixels."""


@explains_freezing("call with_threshold of the predictor and predict again")
@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """Prediction for one image. Scores and maps rise with abnormality."""

    image_score: float
    """Maximum of the combined map, as `rule` has it, and the points of all terms."""

    p_value: float
    """Share of held-out normal images scoring as high, in (0, 1]."""

    threshold: float
    """Scores above it are anomalous."""

    height: int
    """Height of the image in pixels."""

    width: int
    """Width of the image in pixels."""

    grids: Mapping[str, Grid]
    """Normalized maps by name (`local`, `global`), one value per descriptor."""

    terms: Mapping[str, float] = field(default_factory=dict)
    """Points that image-level values add to the score, by name."""

    normal_range: tuple[float, float] = (LOW_TARGET, HIGH_TARGET)
    """`Calibration.normal_range`, from which pictures take their colors."""

    unsure_threshold: float | None = None
    """Scores above it are unsure where they are not anomalous. None: there are none."""

    rule: Rule = ANYWHERE
    """Region of interest and least area of a defect."""

    levels: Levels | None = None
    """Values of the file's 16-bit pixels that became 0 and 255."""

    pose: Pose | None = None
    """How the part lies in the image; `grids` are those of the aligned image. None: the
    image was not aligned."""

    path: Path | None = None
    """File of the image. None: it was given as pixels."""

    n_normal: int | None = None
    """Held-out normal images behind the p-value. None: unknown."""

    @property
    def decision(self) -> Decision:
        """`anomalous`, `unsure` where a person should look, or `normal`."""
        if self.is_anomalous:
            return "anomalous"
        level = self.unsure_threshold
        return "normal" if level is None or self.image_score <= level else "unsure"

    @property
    def is_anomalous(self) -> bool:
        """Whether the score exceeds the threshold."""
        return self.image_score > self.threshold

    @property
    def flagged_for(self) -> Literal["", "place", "composition"]:
        """Reason why the image is anomalous; empty where it is not.

        `place`: the combined map exceeds the threshold somewhere. `composition`: it
        does so nowhere, but the image as a whole is unusual.
        """
        if not self.is_anomalous:
            return ""
        return "place" if self.regions else "composition"

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """Connected pixels of the combined map above the threshold, largest first.

        They lie in the region of interest and have the least area. For an unsure image
        they are above the lower threshold. Empty where the image is normal, or unusual
        as a whole only.
        """
        if self.decision == "normal":
            return ()
        size = self.height, self.width
        found = self.rule.regions(self.combined_grid, self.level, *size)
        if self.pose is None:
            return found
        return tuple(region.in_own_frame(self.pose, *size) for region in found)

    @cached_property
    def region_mask(self) -> Mask:
        """Pixels of all `regions`, (height, width)."""
        if not self.regions:
            return np.zeros((self.height, self.width), np.bool_)
        size = self.height, self.width
        mask = self.rule.region_mask(self.combined_grid, self.level, *size)
        return mask if self.pose is None else self.pose.mask_in_own_frame(mask)

    def region_of_interest(self, height: int, width: int) -> Mask:
        """Return the pixels where a defect counts, at any size of the image."""
        mask = self.rule.mask_at(height, width)
        return mask if self.pose is None else self.pose.mask_in_own_frame(mask)

    @property
    def level(self) -> float:
        """Values of the combined map above it belong to `regions`."""
        level = self.unsure_threshold
        return self.threshold if self.is_anomalous or level is None else level

    @property
    def p_value_text(self) -> str:
        """The p-value for people: "0.35", or "below 1 in 23" above all 22 scores."""
        if self.n_normal is not None and round(self.p_value * (self.n_normal + 1)) == 1:
            return f"below 1 in {self.n_normal + 1}"
        return f"{self.p_value:.2g}"

    @property
    def combined_grid(self) -> Grid:
        """Mean of all maps, one value per descriptor."""
        return combine_maps(self.grids)

    @cached_property
    def anomaly_map(self) -> NDArray[np.float32]:
        """Combined map at the image's own size, (height, width)."""
        return self._placed(self.combined_grid)

    def map(self, name: str) -> NDArray[np.float32]:
        """Return one map at the image's own size, (height, width).

        The name is `local` (a defect within one patch), `global` (normal patches in a
        wrong arrangement), or another key of `grids`.
        """
        return self._placed(self.grids[name])

    def _placed(self, grid: Grid) -> NDArray[np.float32]:
        values = place_map(grid, self.height, self.width)
        return values if self.pose is None else self.pose.in_own_frame(values)

    def overlay(self, image: ImageLike | None = None) -> RGBImage:
        """Return the image under its anomaly map, (height, width, 3), RGB.

        What exceeds the threshold is outlined, and each of the `regions` has a box.
        Decision, score and threshold stand at the upper edge.

        Args:
            image: The image that was predicted; arrays are RGB. None: its file.

        Raises:
            ImageError: If the image was predicted from pixels and is not given, its
                file cannot be read, or it has another size.
        """
        if image is None and self.path is None:
            raise ImageError(
                "the predicted image was needed, this prediction was made from pixels "
                "and keeps none; give the image"
            )
        picture = as_rgb(
            self.path if image is None else image,  # type: ignore[arg-type]
            levels=self.levels,
        )
        if picture.shape[:2] != (self.height, self.width):
            raise ImageError(
                f"the predicted image of {self.width} x {self.height} pixels was "
                f"needed, got one of {picture.shape[1]} x {picture.shape[0]}; give the "
                "one that was predicted"
            )
        text = (
            f"{self.decision}: score {self.image_score:.3g}, threshold "
            f"{self.threshold:.3g}"
        )
        return write_caption(with_boxes(prediction_overlay(picture, self), self), text)

    def save(self, path: Path | str, image: ImageLike | None = None) -> None:
        """Write the `overlay` to a file.

        Args:
            path: File to write, for example `part.png`; its ending decides the format.
            image: The image that was predicted, as for `overlay`.

        Raises:
            ConfigError: If it is no path, or its ending is not that of an image.
            ImageError: As for `overlay`.
            StorageError: If the file cannot be written.
        """
        path = Path(checked("path", path, Path))
        suffix = path.suffix.lower()
        if suffix not in _SUFFIXES:
            raise ConfigError(
                f"the name of an image was needed, got {path.name}; end it in one of "
                f"{', '.join(_SUFFIXES)}"
            )
        picture = Image.fromarray(self.overlay(image))
        with atomic_write(path) as file:
            picture.save(file, Image.registered_extensions()[suffix])

    def show(
        self, image: ImageLike | None = None, *, axes: "Axes | None" = None
    ) -> None:
        """Show the `overlay` by matplotlib, in a notebook or in a window.

        Args:
            image: The image that was predicted, as for `overlay`.
            axes: Place in a figure to draw in. None: a figure that is shown.

        Raises:
            ImageError: As for `overlay`.
            MissingDependencyError: If matplotlib is not installed.
        """
        try:
            from matplotlib import pyplot as plt  # noqa: PLC0415 - not a dependency
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "show needs matplotlib, which is not installed; run: pip install "
                "matplotlib, or use save"
            ) from error
        picture = self.overlay(image)
        place = plt.subplots()[1] if axes is None else axes
        place.imshow(picture)
        place.set_title(str(self), fontsize="small", wrap=True)
        place.set_axis_off()
        if axes is None:
            plt.show()

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers of the prediction in the types of JSON, without maps."""
        return {
            "path": None if self.path is None else str(self.path),
            "image_score": self.image_score,
            "p_value": self.p_value,
            "threshold": self.threshold,
            "is_anomalous": self.is_anomalous,
            "decision": self.decision,
            "flagged_for": self.flagged_for,
            "regions": [asdict(region) for region in self.regions],
            "height": self.height,
            "width": self.width,
            "terms": dict(self.terms),
        }

    def __str__(self) -> str:
        """Return the decision and its reasons as one sentence."""
        sign = ">" if self.is_anomalous else "≤"
        name = "" if self.path is None else f"{self.path.name}: "
        return (
            f"{name}{self.decision}, score {self.image_score:.4g} {sign} threshold "
            f"{self.threshold:.4g}, p-value {self.p_value_text}"
        )

    def __repr__(self) -> str:
        return f"<Prediction {self}, {self.width} x {self.height} pixels>"

    def _repr_png_(self) -> bytes:
        """Return a small picture as PNG, with the maps side by side.

        The maps lie on gray where the image is not at hand any more.
        """
        size = (self.height, self.width)
        scale = min(1, _SIDE / max(size))
        image = np.full((*(max(1, round(scale * n)) for n in size), 3), _GRAY, np.uint8)
        if self.path is not None:
            with suppress(ImageError):  # moved or removed since
                found = read_image(self.path, levels=self.levels)
                image = found if found.shape[:2] == size else image
        return encoded(Image.fromarray(prediction_panel(image, self)))

    def _repr_html_(self) -> str:
        picture = data_uri(self._repr_png_())
        return f'<p>{html.escape(str(self))}</p><img src="{picture}">'


class Predictions(list[Prediction]):
    """Predictions of several images; a list that pandas and notebooks can show."""

    def to_pandas(self) -> "DataFrame":
        """Return a data frame with a row for each prediction, as by `to_dict`.

        Raises:
            MissingDependencyError: If pandas is not installed.
        """
        try:
            import pandas  # noqa: PLC0415, ICN001 - not a dependency
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "to_pandas needs pandas, which is not installed; run: pip install "
                "pandas"
            ) from error
        return pandas.json_normalize([each.to_dict() for each in self])

    def __repr__(self) -> str:
        n_anomalous = sum(each.is_anomalous for each in self)
        return f"<Predictions of {len(self)} images, {n_anomalous} anomalous>"

    def _repr_html_(self) -> str:
        rows = "".join(f"<li>{html.escape(str(each))}</li>" for each in self)
        return f"<p>{html.escape(repr(self))}</p><ol start=0>{rows}</ol>"
