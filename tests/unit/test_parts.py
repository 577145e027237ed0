"""Prediction in parts: the plain command's results, each once, also after failures."""

import errno
import shutil
import sys
import tarfile
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from pyarrow import parquet
from tests.fake_engines import brightness_predictor

from efficientad.cli.main import main
from efficientad.errors import (
    ConfigError,
    DatasetError,
    MissingDependencyError,
    ModelFileError,
    StorageError,
)
from efficientad.executors.config import PartsConfig
from efficientad.inspection import files
from efficientad.shards import parts
from efficientad.shards.parts import predict_parts
from efficientad.shards.sources import find_shards

TWO = PartsConfig(part_size=2)


def rows_of(output):
    tables = [parquet.read_table(path) for path in sorted(Path(output).glob("*"))]
    rows = [row for table in tables for row in table.to_pylist()]
    return sorted(rows, key=lambda row: row["path"])


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(5):
        Image.new("L", (16 + n, 12), 40 * n).save(folder / f"{n}.png")
    (folder / "3.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def model(tmp_path, monkeypatch):
    path = tmp_path / "part.ead"
    path.write_bytes(b"a model")
    monkeypatch.setattr(parts, "load", lambda *_, **__: brightness_predictor())
    parts._predictor.cache_clear()
    yield path
    parts._predictor.cache_clear()


@pytest.fixture
def shards(images):
    """Two tar files of the images beside each other."""
    folder = images.with_name("shards")
    folder.mkdir()
    with (
        tarfile.open(folder / "a.tar", "w") as plain,
        tarfile.open(folder / "b.tar.gz", "w:gz") as packed,
    ):
        for archive, members in ((plain, "01"), (packed, "234")):
            for member in members:
                archive.add(images / f"{member}.png", f"set/{member}.png")
            archive.addfile(tarfile.TarInfo("set/notes.json"))
    return folder


def test_parts_hold_what_the_plain_command_gives(images, model, tmp_path):
    summary, failures = predict_parts(model, [images], tmp_path / "out", TWO)

    files.predict(brightness_predictor(), [images], tmp_path / "plain")
    plain = [
        line.split(",")
        for line in (tmp_path / "plain" / "predictions.csv").read_text().splitlines()
    ][1:]
    rows = rows_of(tmp_path / "out")
    assert (summary.n_images, summary.n_anomalous, summary.n_failed) == (4, 1, 1)
    assert failures == []
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert [row["path"] for row in rows] == [row[0] for row in plain]
    assert [row["image_score"] for row in rows if not row["error"]] == [
        float(row[1]) for row in plain if row[1]
    ]
    assert "3.png is no PNG" in rows[3]["error"]
    assert [row["is_anomalous"] for row in rows] == [False, False, False, None, True]
    assert [row["decision"] for row in rows][3:] == [None, "anomalous"]
    (region,) = rows[4]["regions"]
    assert (region["width"], region["height"]) == (20, 12)


def test_a_second_call_does_what_is_missing(images, model, tmp_path, monkeypatch):
    predict_parts(model, [images], tmp_path / "out", TWO)
    first, *others = sorted((tmp_path / "out").iterdir())
    before = {path: path.stat().st_mtime_ns for path in others}
    first.unlink()
    ended = []

    summary, _ = predict_parts(
        model, [images], tmp_path / "out", TWO, on_part=lambda *n: ended.append(n)
    )

    assert ended == [(3, 3)]
    assert summary.n_images == 4
    assert {path: path.stat().st_mtime_ns for path in others} == before
    monkeypatch.setattr(parts, "load", None)
    parts._predictor.cache_clear()
    assert predict_parts(model, [images], tmp_path / "out", TWO) == (summary, [])


def test_tar_files_and_lists_give_the_same_scores(images, shards, model, tmp_path):
    (tmp_path / "list.txt").write_text("images/0.png\nimages/1.png\n\nshards/b.tar.gz")

    predict_parts(model, [images], tmp_path / "out")
    predict_parts(model, [shards], tmp_path / "tars")
    predict_parts(model, [tmp_path / "list.txt"], tmp_path / "listed")

    scores = [row["image_score"] for row in rows_of(tmp_path / "out")]
    assert [row["image_score"] for row in rows_of(tmp_path / "tars")] == scores
    assert [row["image_score"] for row in rows_of(tmp_path / "listed")] == scores
    assert rows_of(tmp_path / "tars")[0]["path"] == f"{shards}/a.tar/set/0.png"


def test_an_object_store_is_read_and_written(images, shards, model):
    store = fsspec.filesystem("memory")
    store.put(f"{images}/*", "/pictures/")
    store.put(str(shards / "a.tar"), "/pictures/a.tar")

    for _ in range(2):
        summary, _ = predict_parts(model, ["memory://pictures"], "memory://parts", TWO)

    assert (summary.n_images, summary.n_failed) == (6, 1)
    assert len(store.ls("/parts")) == 4
    store.rm("/pictures/1.png")
    with pytest.raises(ConfigError, match="are of others"):
        predict_parts(model, ["memory://pictures"], "memory://parts", TWO)


class Cached(MemoryFileSystem):  # type: ignore[misc]
    """An object store whose listings are kept until they are declared invalid."""

    protocol = "cached"
    listings: ClassVar[dict[str, list[str]]] = {}

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("cached://", "memory://"))

    def ls(self, path, *options, **more):
        if more != {"detail": False}:
            return super().ls(path, *options, **more)
        if path not in self.listings:
            self.listings[path] = super().ls(path, **more)
        return self.listings[path]

    def invalidate_cache(self, *_):
        self.listings.clear()


def test_parts_that_others_have_written_meanwhile_are_counted(images, model):
    fsspec.register_implementation("cached", Cached)
    fsspec.filesystem("cached").makedirs("/seen")

    summary, _ = predict_parts(model, [str(images)], "cached://seen", TWO)

    assert (summary.n_images, summary.n_failed) == (4, 1)


def test_a_list_at_a_url_names_images_beside_it(images):
    store = fsspec.filesystem("memory")
    store.put(f"{images}/*", "/listed/")
    store.pipe_file("/listed/names.txt", "\ufeff0.png\r\n\n1.png\n".encode())

    (shard,) = find_shards(["memory://listed/names.txt"], 3)

    assert shard.paths == ("memory://listed/0.png", "memory://listed/1.png")


def test_every_url_must_have_images(images):
    store = fsspec.filesystem("memory")
    store.put(f"{images}/*", "/some/")
    store.pipe_file("/some/camera-7", (images / "0.png").read_bytes())

    (shard,) = find_shards(["memory://some/0.png", "memory://some/camera-7"], 3)
    assert len(shard.paths) == 2
    with pytest.raises(DatasetError, match=r"found none in memory://some/9\.png"):
        find_shards(["memory://some/0.png", "memory://some/9.png"], 3)


def test_names_of_other_bytes_are_different_parts(shards, model, tmp_path):
    folder = tmp_path / "umlauts"
    folder.mkdir()
    for name in ("T\udce4.tar", "T\udcf6.tar"):
        shutil.copy(shards / "a.tar", folder / name)

    summary, _ = predict_parts(model, [folder], tmp_path / "out")

    assert summary.n_images == 4


def test_a_tar_file_with_links_to_images_is_refused(shards, images, model, tmp_path):
    with tarfile.open(shards / "links.tar", "w") as archive:
        archive.add(images / "0.png", "0.png")
        link = tarfile.TarInfo("1.png")
        link.type, link.linkname = tarfile.LNKTYPE, "0.png"
        archive.addfile(link)

    _, (failure,) = predict_parts(model, [shards / "links.tar"], tmp_path / "out")

    assert "1.png is a link there; pack the files" in str(failure)


def test_maps_are_a_column(images, model, tmp_path):
    predict_parts(model, [images / "2.png"], tmp_path / "out", has_maps=True)

    (row,) = rows_of(tmp_path / "out")
    assert len(row["combined_grid"]) == 56
    assert max(map(max, row["combined_grid"])) == row["image_score"]


@pytest.mark.parametrize("n_bytes", [1024, 1700])
def test_a_damaged_tar_file_fails_alone(shards, model, tmp_path, n_bytes):
    whole = (shards / "a.tar").read_bytes()
    (shards / "a.tar").rename(shards / "A.TAR").write_bytes(whole[:n_bytes])

    summary, (failure,) = predict_parts(model, [shards], tmp_path / "out")

    assert str(failure).startswith(
        f"a whole tar file of images was needed, {shards / 'A.TAR'} cannot be read"
    )
    assert summary.n_images == 2
    (shards / "A.TAR").write_bytes(whole)
    summary, failures = predict_parts(model, [shards], tmp_path / "out")
    assert (summary.n_images, failures) == (4, [])


def test_a_full_disk_ends_all_and_leaves_finished_parts(
    images, model, tmp_path, monkeypatch
):
    write_table = parquet.write_table

    def write(table, place):
        if any((tmp_path / "out").glob("*.parquet")):
            raise OSError(errno.ENOSPC, "No space left on device")
        write_table(table, place)

    monkeypatch.setattr(parquet, "write_table", write)

    with pytest.raises(StorageError, match="No space left on device"):
        predict_parts(model, [images], tmp_path / "out", TWO)

    assert len(list((tmp_path / "out").iterdir())) == 1
    assert len(rows_of(tmp_path / "out")) == 2


def test_parts_of_another_model_are_not_taken_for_this_one(images, model, tmp_path):
    predict_parts(model, [images], tmp_path / "out")
    model.write_bytes(b"another model")

    with pytest.raises(ConfigError, match="must be of these images, this model"):
        predict_parts(model, [images], tmp_path / "out")


def test_a_worker_with_another_model_is_refused(model):
    with pytest.raises(ModelFileError, match="needed the model that the driver has"):
        parts._predictor(model, "another hash", "cpu", "native")


def test_a_file_named_twice_is_in_one_shard(images, shards):
    sources = [str(images / "0.png"), str(images), str(shards), str(shards / "a.tar")]
    sources += [f"{images}/../{images.name}", f"{images}/*.png"]

    paths = [path for shard in find_shards(sources, 3) for path in shard.paths]

    assert len(paths) == len(set(paths)) == 5 + 2


def test_a_pattern_names_the_images_that_match(images):
    (shard,) = find_shards([f"{images}/[01].png"], 3)

    assert [Path(path).name for path in shard.paths] == ["0.png", "1.png"]


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("nothing", DatasetError, "images were needed at nothing, there is none"),
        ("nosuch://place", DatasetError, "a path or a URL that fsspec reads"),
        ("s3://bucket/place", MissingDependencyError, "pip install"),
        ("memory://empty", DatasetError, "found none in memory://empty"),
        ("zip://gone.zip", DatasetError, "a path or a URL that fsspec reads"),
        ("zip://a.png::gone.zip", DatasetError, "a path or a URL that fsspec reads"),
        (f"zip://a.png::{__file__}", DatasetError, "File is not a zip file"),
        ("dir://gone", DatasetError, "a path or a URL that fsspec reads"),
        ("reference://gone", DatasetError, "missing 1 required"),
        ("data://gone", DatasetError, "which cannot be listed"),
    ],
)
def test_a_source_without_images_is_one_sentence(source, error, words):
    with pytest.raises(error, match=words):
        find_shards([source], 3)


def test_without_pyarrow_a_sentence_names_the_extra(model, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(MissingDependencyError, match=r"efficientad\[ray\]"):
        predict_parts(model, [images], "out")


def test_the_command_line_writes_parts(images, model, tmp_path, capsys):
    arguments = ["predict", str(model), str(images), "--output", str(tmp_path / "out")]

    code = main([*arguments, "--format", "parquet", "--part-size", "2"])

    assert code == 1  # an image could not be read
    told = capsys.readouterr()
    assert "4 images predicted, 1 anomalous, 1 failed; see " in told.out
    assert main([*arguments, "--format", "csv", "--n-workers", "2"]) == 2
    assert "format csv is written by one process" in capsys.readouterr().err
