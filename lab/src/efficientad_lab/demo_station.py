"""The demo of the station: parts drawn by code come along, some of them defective.

python -m efficientad_lab.demo_station demo
"""

import argparse
import os
import threading
import time
import urllib.request
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Final

from PIL import Image

from efficientad.demo_parts.category import draw_part
from efficientad.demo_parts.parts import DEFECT_TYPES
from efficientad.station.config import StationConfig
from efficientad.station.serve import serve

_DEFECT_EVERY: Final = 8
_FIRST_SEED: Final = 2**40
"""Beyond the seeds of the training images, with other parts."""


def part_file(number: int) -> tuple[bytes, bool]:
    """Return the PNG of a part of the feed, and whether it is defective."""
    round_, place = divmod(number, _DEFECT_EVERY)
    is_defective = place == _DEFECT_EVERY - 1
    kind = DEFECT_TYPES[round_ % len(DEFECT_TYPES)] if is_defective else None
    image, _ = draw_part(_FIRST_SEED + number, kind)
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue(), is_defective


def feed(port: int, seconds: float) -> None:
    """Send a part every few seconds, for ever; one that is refused is left out."""
    for number in count():
        content, _ = part_file(number)
        address = f"http://127.0.0.1:{port}/api/v1/inspections?source=demo"
        place = f"{address}&part=part%20{number}"
        request = urllib.request.Request(place, content, method="POST")  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                answer.read()
        except OSError:
            time.sleep(1)  # it starts, or it is busy
        time.sleep(seconds)


def main() -> None:
    """Run a station with a feed of parts until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of the demo, with part.ead")
    parser.add_argument("--port", type=int, default=8420)
    parser.add_argument("--seconds", type=float, default=1.0, help="between two parts")
    given = parser.parse_args()
    config = StationConfig(
        model=given.folder / "part.ead",
        data=given.folder / "station",
        port=given.port,
        name="demo",
        review_share=0.05,
    )
    line = (given.port, given.seconds)
    threading.Thread(target=feed, args=line, name="feed", daemon=True).start()
    serve(config)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the page needs a core as well
    main()
