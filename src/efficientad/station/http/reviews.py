"""Reviews, the queue for them, and golden samples."""

from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, StringConstraints

from efficientad.station.http.problems import documented
from efficientad.station.http.schemas import (
    Inspection,
    InspectionNumber,
    Line,
    Number,
    Strict,
    Text,
)
from efficientad.station.http.security import Engineer, Operator, TheStation, Viewer
from efficientad.station.reviewing.queue import Reason, missed_share, queue_reason
from efficientad.station.storage import reviews
from efficientad.station.storage.queries import Row

router = APIRouter(tags=["reviews"])


class NewReview(Strict):
    """A decision of a person on a part."""

    verdict: Literal["normal", "defect", "unsure", "withdrawn"]
    """`withdrawn` takes back the last verdict."""
    defect_type: Annotated[Line, StringConstraints(max_length=100)] | None = None
    note: Text | None = None


class Review(BaseModel):
    """A verdict of a person."""

    id: str
    inspection: str
    verdict: str
    defect_type: str | None
    note: str | None
    by: str
    at: datetime


class Reviews(BaseModel):
    """All reviews of an inspection; the last one that is not withdrawn counts."""

    items: list[Review]
    counts: Review | None
    is_golden: bool


class QueuedInspection(Inspection):
    """An inspection that waits for a review."""

    reason: Reason


class Missed(BaseModel):
    """An estimate from random normal parts of defects that are called normal."""

    n: int
    n_defects: int
    bound: float
    """Share of defects that is not exceeded, with 95 % confidence."""


class ReviewQueue(BaseModel):
    """Inspections that wait for a review, newest first."""

    items: list[QueuedInspection]
    total: int
    defect_types: list[str]
    missed: Missed


class NewGolden(Strict):
    """A part with a known verdict."""

    verdict: Literal["normal", "defect"]
    note: Text | None = None


class Golden(BaseModel):
    """A golden sample."""

    inspection: str
    verdict: str
    by: str
    note: str | None


@router.get("/review-queue")
def get_queue(
    _client: Viewer,
    station: TheStation,
    reason: Annotated[Reason | None, Query()] = None,
    before: Annotated[Number | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 30,
) -> ReviewQueue:
    """List what people shall look at."""
    share = station.config.review_share
    with station.database.connect() as connection:
        queued = (
            row | {"reason": _reason(row, share)}
            for row in reviews.queued(connection, before)
        )
        wanted = (row for row in queued if reason in {None, row["reason"]})
        items = [
            QueuedInspection.model_validate(each) for each in islice(wanted, limit)
        ]
        normal = reviews.verdicts(connection, "normal")
        return ReviewQueue(
            items=items,
            total=reviews.n_queued(connection),
            defect_types=reviews.defect_types(connection),
            missed=_missed(normal, share),
        )


@router.get("/inspections/{number}/reviews")
def get_reviews(
    _client: Viewer, station: TheStation, number: InspectionNumber
) -> Reviews:
    """Return the reviews of an inspection, oldest first."""
    with station.database.connect() as connection:
        found = reviews.reviews_of(connection, number)
        is_golden = reviews.is_golden(connection, number)
    counts = reviews.last_verdict(found)
    return Reviews.model_validate(
        {"items": found, "counts": counts, "is_golden": is_golden}
    )


@router.post(
    "/inspections/{number}/reviews",
    status_code=201,
    response_model=Review,
    responses=documented(409),
)
def post_review(
    client: Operator, station: TheStation, number: InspectionNumber, new: NewReview
) -> Any:
    """Write a verdict; those before it stay."""
    row = station.writer.run(reviews.add_review, number, new.model_dump(), client)
    station.tell("review", row)
    return row


@router.get("/golden", response_model=list[Golden])
def get_golden(_client: Viewer, station: TheStation) -> Any:
    """List the golden samples."""
    return station.database.read(reviews.list_golden)


@router.put("/golden/{number}", status_code=204)
def put_golden(
    client: Engineer, station: TheStation, number: InspectionNumber, new: NewGolden
) -> None:
    """Make a part a golden sample: every later model and rule must agree with it."""
    sample = new.model_dump() | {"active": True}
    station.writer.run(reviews.set_golden, number, sample, client)


@router.delete("/golden/{number}", status_code=204)
def delete_golden(
    client: Engineer, station: TheStation, number: InspectionNumber
) -> None:
    """Remove a part from the golden samples."""
    station.writer.run(reviews.unset_golden, number, client)


def _reason(row: Row, share: float) -> Reason:
    """Return why a part is in the queue; a withdrawn verdict put others there."""
    score = row["masked_score"] if row["image_score"] is not None else None
    found = queue_reason(row["id"], row["decision"], score, row["threshold"], share)
    return found or "again"


def _missed(normal: list[Row], share: float) -> Missed:
    """Return what the random ones among reviewed normal parts say."""
    found = [
        row["review"]["verdict"]
        for row in normal
        if _reason(row, share) == "random" and row["review"]["verdict"] != "unsure"
    ]
    n_defects = found.count("defect")
    bound = missed_share(len(found), n_defects)
    return Missed(n=len(found), n_defects=n_defects, bound=bound)
