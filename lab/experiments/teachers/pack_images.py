"""Pack natural images into shards that are easy to move: uncompressed tars of JPEGs.

    python lab/experiments/teachers/pack_images.py PHOTOGRAPHS --output out/shards

An image with a side longer than 512 is resized to 512 x 512, which is what a source
network sees of it; smaller ones stay as they are. Unreadable images are left out. A
shard has at most 40 MiB. `efficientad distill` reads the folder of shards.
"""

import argparse
import io
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from efficientad.errors import DatasetError, EfficientADError, ImageError
from efficientad.images.rgb import resize_image
from efficientad.natural_images.pictures import (
    ImageFiles,
    open_images,
)
from efficientad.storage import atomic_write

_BLOCK = 512  # of a tar; a member is a header and whole blocks
_END = 20 * _BLOCK  # a tar is filled up to a record


def encoded(images: ImageFiles, side: int, quality: int) -> Iterator[tuple[str, bytes]]:
    """Return name and JPEG of each image."""
    for index in range(len(images)):
        try:
            pixels = images.read(index)
        except ImageError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        if max(pixels.shape[:2]) > side:
            pixels = resize_image(pixels, side, side)
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "JPEG", quality=quality)
        yield f"{index:07}.jpg", content.getvalue()


def shards(
    members: Iterator[tuple[str, bytes]], n_bytes: int
) -> Iterator[list[tuple[str, bytes]]]:
    """Split the members into lists whose tars have at most `n_bytes` bytes."""
    shard: list[tuple[str, bytes]] = []
    size = _END
    for name, content in members:
        added = _BLOCK + -(-len(content) // _BLOCK) * _BLOCK
        if shard and size + added > n_bytes:
            yield shard
            shard, size = [], _END
        shard.append((name, content))
        size += added
    if shard:
        yield shard


def write_shard(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    """Write one tar; equal members give equal bytes."""
    with atomic_write(path) as partial, tarfile.open(partial, "w") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack the images and print the shards."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", type=Path, nargs="+", help="folders and tars")
    parser.add_argument("--output", type=Path, required=True, help="folder of shards")
    parser.add_argument("--mib", type=float, default=40, help="largest shard")
    parser.add_argument(
        "--side", type=int, default=512, help="longest side of an image"
    )
    parser.add_argument("--quality", type=int, default=90, help="JPEG quality")
    options = parser.parse_args(arguments)
    path = None
    try:
        if any(options.output.glob("shard-*.tar")):
            raise DatasetError(
                f"shards need a folder of their own, {options.output} has earlier "
                "ones; remove them, or choose another --output"
            )
        images = open_images(options.images)
        members = encoded(images, options.side, options.quality)
        for number, shard in enumerate(shards(members, int(options.mib * 2**20))):
            path = options.output / f"shard-{number:03}.tar"
            write_shard(path, shard)
            print(f"{path}: {len(shard)} images, {path.stat().st_size} bytes")
        if path is None:
            raise DatasetError(
                "needed images that can be read, found none; choose other images"
            )
    except EfficientADError as error:
        print(f"pack_images: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
