"""Frames of a camera or a video as PPM on standard output: a process of its own.

    python -m efficientad.station.sources.capture /dev/video0

A camera can hang in its driver, so that whoever reads this may kill it.
"""

import sys
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

LAVFI: Final = "lavfi:"
_DEVICES: Final = "/dev/"


def frames(address: str) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of an address, (height, width, 3), RGB.

    Args:
        address: Device of Video4Linux such as `/dev/video0`, stream such as
            `rtsp://HOST/PATH`, video file, or a test picture of FFmpeg such as
            `lavfi:testsrc`.
    """
    import av  # noqa: PLC0415 - of the extra `camera`

    options: dict[str, Any] = {}
    if address.startswith(_DEVICES):
        options["format"] = "v4l2"
    elif address.startswith(LAVFI):
        options["format"] = "lavfi"
    with av.open(address.removeprefix(LAVFI), **options) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def main() -> None:
    """Write the frames of the address in the first argument."""
    for frame in frames(sys.argv[1]):
        height, width = frame.shape[:2]
        sys.stdout.buffer.write(b"P6 %d %d 255\n" % (width, height))
        sys.stdout.buffer.write(np.ascontiguousarray(frame).data)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
