"""Forms of requests and answers."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from fastapi import Path
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
)

from efficientad.station.http.problems import Problem

Decision = Literal["normal", "anomalous", "undecided"]
Name = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$", max_length=100)
]
"""Name of a source."""
Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=200)]
"""A text of one line."""
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=2000)]
Key = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]+$", max_length=255)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[
    str,
    StringConstraints(
        pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
    ),
]
"""UUIDv7."""
InspectionNumber = Annotated[Number, Path(description="Number of an inspection.")]


_Share = Annotated[float, Field(ge=0, le=1)]


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time is in no year of UTC") from error


Time = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A time with its zone."""


def _body(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    content = {media_type: {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


_FILE: Final = {"type": "string", "format": "binary"}
IMAGE_BODY: Final = _body("image/*", _FILE)
IMAGES_BODY: Final = _body(
    "multipart/form-data", {"type": "object", "additionalProperties": _FILE}
)


class Region(BaseModel):
    """A connected region of a defect, in pixels of the image.

    It has the name of the region of interest in which it lies, if the rule has one.
    """

    n: int
    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float
    name: str | None


class Inspection(BaseModel):
    """A stored inspection. `undecided` is never to be taken for `normal`."""

    id: str
    source: str
    source_key: str | None
    received_at: datetime
    captured_at: datetime | None
    part: str | None
    sha256: str
    color: Literal["rgb", "bgr"]
    model: str
    rule: str
    threshold: float
    image_score: float | None
    masked_score: float | None
    p_value: float | None
    decision: Decision
    expected: Literal["normal", "anomalous"] | None
    height: int | None
    width: int | None
    brightness: float | None
    contrast: float | None
    sharpness: float | None
    wait_ms: float | None
    decode_ms: float | None
    predict_ms: float | None
    store_ms: float | None
    media_state: Literal["stored", "removed"]
    media_bytes: int
    review_state: str | None
    replica: str
    error: str | None
    regions: list[Region]


class InspectionList(BaseModel):
    """Inspections, newest first."""

    items: list[Inspection]
    next: str | None
    """Value of `before` for older ones; none if these are the oldest."""


class BatchResult(BaseModel):
    """Result for one image of a batch: an inspection or a problem."""

    name: str
    inspection: Inspection | None = None
    problem: Problem | None = None


class Model(BaseModel):
    """A model file that the station has."""

    sha256: str
    name: str
    suffix: str
    bytes: int
    provenance: dict[str, Any]
    calibration: dict[str, Any]
    added_at: datetime
    added_by: str


class Strict(BaseModel):
    """A body without unknown fields."""

    model_config = ConfigDict(extra="forbid")


class RegionOfInterest(Strict):
    """A polygon in which defects count, or do not count."""

    name: Name
    kind: Literal["interest", "ignore"]
    points: Annotated[list[tuple[_Share, _Share]], Field(min_length=3, max_length=200)]
    """Corners, as shares of width and height."""


class TriedRule(Strict):
    """A rule that is not written yet."""

    model: Sha256
    threshold: Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
    budget: Annotated[float, Field(ge=1e-6, le=0.5)]
    min_area: Annotated[int, Field(ge=0, le=10**9)] = 0
    regions: Annotated[list[RegionOfInterest], Field(max_length=100)] = []


class NewRule(TriedRule):
    """A rule that follows the newest one of a model."""

    version: Annotated[int, Field(ge=2, le=2**31 - 1)]
    """Version of the newest rule, plus one."""
    reason: Text | None = None


class Rule(BaseModel):
    """How a station decides with a model; it does not change."""

    id: str
    model: str
    version: int
    threshold: float
    budget: float
    min_area: int
    regions: list[RegionOfInterest]
    at: datetime
    by: str
    reason: str | None


class NewActivation(Strict):
    """A model that shall inspect the images of a source."""

    source: Name | Literal["*"] = "*"
    model: Sha256
    rule: Number | None = None
    """Number of the rule. None: the newest one of the model."""
    reason: Text | None = None


class Activation(BaseModel):
    """A model and a rule for a source, from a time on."""

    id: str
    source: str
    model: str
    rule: str
    golden_run: str | None
    active: bool
    at: datetime
    by: str
    reason: str | None


class Source(BaseModel):
    """A source that the station itself reads."""

    name: str
    kind: str
    settings: dict[str, Any]
    state: str


class Triggered(BaseModel):
    """A frame that will be inspected."""

    inspection: str
    """Number that its inspection will have."""


class Health(BaseModel):
    """Whether the station takes images, and if not, why."""

    ready: bool
    problem: str | None


class NewSession(Strict):
    """A token that becomes a session of the page."""

    token: Annotated[str, StringConstraints(max_length=200)]


class Incident(BaseModel):
    """Something that people must know of."""

    id: str
    at: datetime
    kind: str
    count: int
    detail: str | None


class SystemState(BaseModel):
    """The state of the whole station."""

    name: str
    version: str
    problem: str | None
    started_at: datetime
    now: datetime
    last_stored: datetime | None
    counts_today: dict[str, int]
    queue_length: int
    free_bytes: int
    total_bytes: int
    undelivered: dict[str, int]
    settings: dict[str, Any]
    sources: list[Source]
    incidents: list[Incident]
