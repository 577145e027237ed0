"""Prediction of very many images, in parts: by several processes, or on a Ray cluster.

    OUTPUT/NAME-HASH.parquet   one row an image: path, image_score, p_value, ...

A part has the results of one shard of the images. It is written whole or not at all,
and its name follows from its images, the model and the settings. So a second call does
what is missing, and two workers that do the same part write the same file.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from efficientad.decisions.rule import Region
from efficientad.engines.names import Device, EngineChoice
from efficientad.errors import (
    ConfigError,
    DatasetError,
    ImageError,
    ModelFileError,
    ResultError,
    StorageError,
    needs_extra,
)
from efficientad.executors.config import PartsConfig
from efficientad.images.preparation import Preparation
from efficientad.images.rgb import RGBImage
from efficientad.inspection.files import PredictionSummary
from efficientad.inspection.opening import load, require_model_file
from efficientad.inspection.predictor import Predictor
from efficientad.names import as_text
from efficientad.settings import checks_arguments
from efficientad.shards.sources import (
    Shard,
    file_system,
    find_shards,
    image_of,
    is_url,
    unused_of,
)
from efficientad.storage import atomic_write, file_hash, require_writable
from efficientad.threads import in_order

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PartTask:
    """The prediction of one shard."""

    shard: Shard
    name: str
    """File name of the part, without its folder."""
    output: str
    """Folder or URL of the parts."""
    model: Path
    model_hash: str
    device: Device
    engine: EngineChoice
    has_maps: bool

    @property
    def place(self) -> str:
        """Path or URL of the part."""
        return f"{self.output.rstrip('/')}/{self.name}"

    def run(self) -> DatasetError | None:
        """Predict the images and write the part, if it is not there.

        Returns:
            The error of a shard that cannot be read.

        Raises:
            ModelFileError: If the model cannot be used.
            StorageError: If the part cannot be written.
        """
        files, place = file_system(self.place)
        if files.exists(place):
            return None
        predictor = _predictor(self.model, self.model_hash, self.device, self.engine)
        read, rows = partial(_read, predictor.preparation), []
        try:
            # One image is read while another one is predicted.
            for path, image in in_order(read, self.shard.contents(), n_streams=1):
                rows.append(_row(predictor, path, image, has_maps=self.has_maps))
        except DatasetError as error:
            return error
        _write(rows, self.place)
        return None


@checks_arguments
def predict_parts(
    model: Path | str,
    sources: Sequence[str],
    output: str,
    config: PartsConfig | None = None,
    *,
    device: Device = "auto",
    engine: EngineChoice = "auto",
    has_maps: bool = False,
    on_part: Callable[[int, int], None] = lambda _n_done, _n_parts: None,
) -> tuple[PredictionSummary, list[Exception]]:
    """Predict the parts that are not there yet.

    Args:
        model: Detector file or exported file, where every worker finds it.
        sources: As for `sources.find_shards`.
        output: Folder or URL of the parts.
        config: Executor and size of parts.
        device: As for `load`.
        engine: As for `load`.
        has_maps: Whether rows have the combined map, one value for each descriptor.
        on_part: Called with the number of parts that have ended, and that of all.

    Returns:
        Counts of all parts that are there, with what the folders hold beside images,
        and the errors of shards that cannot be read. The next call tries these again.

    Raises:
        ConfigError: If the output has other parts, or the executor cannot be used.
        DatasetError: If there is no image, or a source cannot be listed.
        MissingDependencyError: If PyArrow, Ray or what reads a URL is not installed.
        ModelFileError: If the model cannot be used.
        ResultError: If a part that is there is damaged.
        StorageError: If a part cannot be written.
    """
    _arrow()
    model, config = Path(model), config or PartsConfig()
    require_model_file(model)
    model_hash = file_hash(model)
    salt = json.dumps([model_hash, engine, has_maps])
    shards = find_shards(sources, config.part_size)
    if not is_url(output):
        require_writable(Path(output) / "part.parquet")
    tasks = [
        PartTask(
            shard=shard,
            name=shard.part_name(salt),
            output=output,
            model=model,
            model_hash=model_hash,
            device=device,
            engine=engine,
            has_maps=has_maps,
        )
        for shard in shards
    ]
    done = _parts_in(output)
    _require_own(done, tasks, output)
    left = [task for task in tasks if task.name not in done]
    failures: list[Exception] = []
    ended = config.run(left, keeps_processes=True)
    for n, (_, error) in enumerate(ended, len(tasks) - len(left) + 1):
        if error is not None:
            failures.append(error)
            logger.warning(error)
        on_part(n, len(tasks))
    unused = unused_of(sources, shards, apart=() if is_url(output) else (Path(output),))
    return _summary(output, unused), failures


@lru_cache(maxsize=1)
def _predictor(
    model: Path, model_hash: str, device: Device, engine: EngineChoice
) -> Predictor:
    """Open a model, once in each process."""
    if file_hash(model) != model_hash:
        raise ModelFileError(
            f"needed the model that the driver has, {model} is another one; copy it "
            "to every machine"
        )
    return load(model, device=device, engine=engine)


def _read(
    preparation: Preparation, item: tuple[str, bytes | None]
) -> tuple[str, RGBImage | ImageError]:
    path, content = item
    try:
        return path, image_of(path, content, preparation)
    except ImageError as error:
        return path, error


def _row(
    predictor: Predictor, path: str, image: RGBImage | ImageError, *, has_maps: bool
) -> dict[str, Any]:
    try:
        if isinstance(image, ImageError):
            raise image
        prediction = predictor.predict(image)
    except ImageError as error:
        return {"path": as_text(path), "error": as_text(str(error))}
    row = prediction.to_dict() | {"path": as_text(path)}
    if has_maps:
        row["combined_grid"] = prediction.combined_grid.tolist()
    return row


def _arrow() -> tuple[ModuleType, ModuleType]:
    """Return PyArrow and its Parquet module, or raise `MissingDependencyError`."""
    with needs_extra("format parquet", "ray"):
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415
    return pa, parquet


def _schema() -> Any:
    arrow, _ = _arrow()
    text, whole, number = arrow.string(), arrow.int32(), arrow.float64()
    region = {
        each.name: whole if each.type is int else number for each in fields(Region)
    }
    columns = {
        "path": text,
        **dict.fromkeys(("image_score", "p_value", "threshold"), number),
        "is_anomalous": arrow.bool_(),
        **dict.fromkeys(("decision", "flagged_for"), text),
        "regions": arrow.list_(arrow.struct([*region.items()])),
        **dict.fromkeys(("height", "width"), whole),
        "combined_grid": arrow.list_(arrow.list_(arrow.float32())),
        "error": text,
    }
    return arrow.schema(columns.items())


def _write(rows: list[dict[str, Any]], place: str) -> None:
    arrow, parquet = _arrow()
    table = arrow.Table.from_pylist(rows, _schema())
    if not is_url(place):
        with atomic_write(Path(place)) as temporary:
            parquet.write_table(table, temporary)
        return
    content = BytesIO()
    parquet.write_table(table, content)
    files, name = file_system(place)
    try:
        files.pipe_file(name, content.getvalue())  # a store has an object whole or not
    except OSError as error:
        raise StorageError(
            f"cannot write {place} ({error}); check the address, the permissions and "
            "free space"
        ) from error


def _parts_in(output: str) -> set[str]:
    """Return the names of the parts in a folder or below a URL."""
    files, place = file_system(output)
    files.invalidate_cache()  # workers have written meanwhile
    found = files.ls(place, detail=False) if files.exists(place) else []
    return {PurePosixPath(path).name for path in found if path.endswith(".parquet")}


def _require_own(done: set[str], tasks: Sequence[PartTask], output: str) -> None:
    others = sorted(done - {task.name for task in tasks})
    if others:
        raise ConfigError(
            f"the parts in {output} must be of these images, this model and these "
            f"settings, {len(others)} are of others, such as {others[0]}; give another "
            "output, or remove them"
        )


def _summary(output: str, unused: tuple[str, ...]) -> PredictionSummary:
    from pyarrow import compute, dataset  # noqa: PLC0415

    files, place = file_system(output)
    names = [f"{place}/{name}" for name in sorted(_parts_in(output))]
    parts = dataset.dataset(names, _schema(), format="parquet", filesystem=files)
    columns, n = ["error", "is_anomalous", "decision"], Counter[str]()
    for part in parts.get_fragments():
        try:
            rows = part.to_table(parts.schema, columns)
        except (ValueError, OSError) as error:  # PyArrow's own errors are such
            raise ResultError(
                f"a whole part was needed, {part.path} cannot be read ({error}); "
                "remove it, and give the same command again"
            ) from error
        n["failed"] += len(rows) - rows["error"].null_count
        n["images"] += rows["error"].null_count
        n["anomalous"] += compute.sum(rows["is_anomalous"]).as_py() or 0
        n["unsure"] += (
            compute.sum(compute.equal(rows["decision"], "unsure")).as_py() or 0
        )
    return PredictionSummary(
        n["images"], n["anomalous"], n["unsure"], n["failed"], unused
    )
