"""Jobs that take a while: data sets of reviewed parts, and trials of models."""

from collections.abc import Callable, Iterator
from datetime import datetime
from threading import Thread
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from efficientad.errors import EfficientADError
from efficientad.station.audit_chain import Actor
from efficientad.station.http.schemas import InspectionNumber, Number, Sha256, Strict
from efficientad.station.http.security import Engineer, Operator, TheStation, Viewer
from efficientad.station.prediction.pipeline import Station
from efficientad.station.prediction.trials import try_model
from efficientad.station.reviewing.dataset import ReviewedPart, export_dataset
from efficientad.station.storage import jobs, registry, reviews, tables
from efficientad.station.storage.queries import Row, newest

router = APIRouter()
_FOLDER: Final = "exports"
_N_LISTED: Final = 50
_ModelHash = Annotated[Sha256, Path(description="SHA-256 of a model file.")]


class Trial(BaseModel):
    """Decisions of a model on stored parts, beside those that were made."""

    rule: str
    n: int
    n_flagged: int
    n_flagged_before: int
    n_reviewed: int
    """Parts that people have called normal or defective."""
    n_agreeing: int
    """Those on which the model agrees with them."""
    n_agreeing_before: int
    changed: dict[str, str]
    """Numbers of parts that it decides in another way, with the decision."""


class Job(BaseModel):
    """Something that takes a while."""

    id: str
    kind: Literal["export", "trial"]
    subject: str
    """SHA-256 of the model on trial; empty for an export."""
    at: datetime
    by: str
    state: Literal["running", "done", "failed"]
    detail: str | None
    result: Trial | None


class NewTrial(Strict):
    """A trial on the last parts."""

    rule: Number | None = None
    """Number of the rule. None: the newest one of the model."""
    n: Annotated[int, Field(ge=1, le=1000)] = 200


@router.get("/jobs/{number}", response_model=Job)
def get_job(_client: Viewer, station: TheStation, number: InspectionNumber) -> Any:
    """Return how far an export or a trial is."""
    return station.database.read(jobs.job_of, number)


@router.post("/exports", status_code=202, response_model=Job, tags=["reviews"])
def post_export(client: Operator, station: TheStation) -> Any:
    """Write all reviewed parts as a data set for `efficientad train`.

    It appears in the folder `exports/NUMBER` of the station's data.
    """

    def work(job: Row) -> tuple[str, None]:
        found = station.database.read(reviews.verdicts)
        folder = station.config.data / _FOLDER / job["id"]
        made = export_dataset(_reviewed_parts(station, found), folder)
        return (
            f"{made.n_train} normal parts for the training, {made.n_test_good} for the "
            f"test, {made.n_defects} defective ones, in {folder}"
        ), None

    return _begin(station, client, "export", "", work)


@router.get("/models/{sha256}/trials", response_model=list[Job], tags=["models"])
def get_trials(_client: Viewer, station: TheStation, sha256: _ModelHash) -> Any:
    """List the trials of a model, newest first."""
    return station.database.read(
        newest, tables.jobs, _N_LISTED, kind="trial", subject=sha256
    )


@router.post(
    "/models/{sha256}/trials",
    status_code=202,
    response_model=Job,
    tags=["models"],
)
def post_trial(
    client: Engineer, station: TheStation, sha256: _ModelHash, new: NewTrial
) -> Any:
    """Predict the last stored parts by a model, when the line has no image."""
    with station.database.connect() as connection:
        registry.model_of(connection, sha256)
        parts = reviews.last_images(connection, new.n)

    def work(_job: Row) -> tuple[str, dict[str, Any]]:
        result = try_model(station, sha256, new.rule, parts)
        return (
            f"{result['n']} parts, {len(result['changed'])} decided otherwise",
            result,
        )

    return _begin(station, client, "trial", sha256, work)


def _begin(
    station: Station,
    client: Actor,
    kind: str,
    subject: str,
    work: Callable[[Row], tuple[str, Any]],
) -> Row:
    """Begin a job in a thread of its own, and return it."""
    job = station.writer.run(jobs.add_job, kind, subject, client, station.replica)

    def run() -> None:
        try:
            detail, result = work(job)
        except EfficientADError as error:
            state, detail, result = "failed", str(error), None
            station.report(f"{kind}_failed", detail)
        else:
            state = "done"
        station.writer.submit(jobs.end_job, job["id"], state, detail, result)

    Thread(target=run, name=kind, daemon=True).start()
    return job


def _reviewed_parts(station: Station, found: list[Row]) -> Iterator[ReviewedPart]:
    """Yield reviewed parts; the image of each is there until the next one."""
    for row in found:
        review = row["review"]
        with station.media.file(row["media_path"] or "removed") as path:
            yield ReviewedPart(
                id=row["id"],
                path=path,
                color=row["color"],
                verdict=review["verdict"],
                defect_type=review["defect_type"],
                note=review["note"],
                by=review["by"],
                at=review["at"].isoformat(),
                source=row["source"],
            )
