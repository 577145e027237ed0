"""Exports of reviewed parts, as data sets for retraining."""

from functools import partial
from threading import Thread
from typing import Final, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from efficientad.errors import EfficientADError
from efficientad.station.http.problems import ProblemError, documented
from efficientad.station.http.reviews import action_of
from efficientad.station.http.schemas import InspectionNumber
from efficientad.station.http.security import Operator, TheStation, Viewer
from efficientad.station.prediction.pipeline import Station
from efficientad.station.reviewing.dataset import ReviewedPart, export_dataset
from efficientad.station.storage import audit, reviews
from efficientad.station.storage.queries import Row, new_id

router = APIRouter(tags=["reviews"])
_FOLDER: Final = "exports"


class Job(BaseModel):
    """Something that takes a while."""

    id: str
    state: Literal["running", "done", "failed"]
    folder: str
    detail: str | None = None


@router.post("/exports", status_code=202, responses=documented())
def post_export(client: Operator, station: TheStation, request: Request) -> Job:
    """Write all reviewed parts as a data set for `efficientad train`.

    It appears in the folder `exports` of the station's data.
    """
    job = Job(id=new_id(), state="running", folder="")
    folder = station.config.data / _FOLDER / job.id
    job.folder = str(folder)
    request.app.state.jobs[job.id] = job
    action = action_of(client, "export", job.id)
    station.writer.run(partial(audit.append, action=action))
    Thread(target=_export, args=(station, job), name="export").start()
    return job


@router.get("/jobs/{number}", responses=documented())
def get_job(_client: Viewer, request: Request, number: InspectionNumber) -> Job:
    """Return how far an export is."""
    job: Job | None = request.app.state.jobs.get(number)
    if job is None:
        raise ProblemError(404, "there is no job of this number since the last start")
    return job


def _export(station: Station, job: Job) -> None:
    with station.database.connect() as connection:
        found = reviews.verdicts(connection)
    try:
        made = export_dataset(
            (_reviewed_part(station, row) for row in found),
            station.config.data / _FOLDER / job.id,
        )
    except EfficientADError as error:
        job.detail, job.state = str(error), "failed"
        station.report("export_failed", str(error))
    else:
        job.detail = (
            f"{made.n_train} normal parts for the training, {made.n_test_good} for the "
            f"test, {made.n_defects} defective ones"
        )
        job.state = "done"


def _reviewed_part(station: Station, row: Row) -> ReviewedPart:
    review = row["review"]
    return ReviewedPart(
        id=row["id"],
        path=station.media.path(row["media_path"] or "removed"),
        verdict=review["verdict"],
        defect_type=review["defect_type"],
        note=review["note"],
        by=review["by"],
        at=review["at"].isoformat(),
        source=row["source"],
    )
