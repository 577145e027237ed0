"""The C interface of the native layers, called by ctypes."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np

from efficientad.kernels import cook_toom, layers, native

SOURCES = Path(layers.__file__).parent
OK, BAD_ARGUMENT, BAD_FILE, BAD_IMAGE = range(4)
RGB, BGR, RGBA, BGRA, GRAY = range(5)
COMBINED, LOCAL, GLOBAL = range(3)
DECISIONS = "normal", "unsure", "anomalous"


def build_library(path, *options):
    """Build the library for this processor at a path, with the cached layers."""
    headers = {"layers_matrices.h": cook_toom.matrices_header()}
    cached = native._built("layers", headers)
    flags = ("-O2", "-std=c++17", "-ffp-contract=off", "-fPIC", "-shared", "-pthread")
    warnings = ("-Wall", "-Wextra", "-Werror")
    subprocess.run(
        [
            *("g++", *flags, *warnings, *options, "-DEFFICIENTAD_NATIVE"),
            *(
                SOURCES / "detector.cpp",
                "-o",
                path,
                cached,
                f"-Wl,-rpath,{cached.parent}",
            ),
        ],
        check=True,
    )
    return path


class Region(ctypes.Structure):
    """As in efficientad.h."""

    _fields_ = [
        *((n, ctypes.c_int64) for n in ("x", "y", "width", "height")),
        *((n, ctypes.c_double) for n in ("area", "area_mm2")),
        *((n, ctypes.c_double) for n in ("centroid_x", "centroid_y", "peak", "mean")),
    ]


class Found(ctypes.Structure):
    """As `ead_prediction` in efficientad.h."""

    _fields_ = [
        *((n, ctypes.c_double) for n in ("score", "p_value", "threshold")),
        ("decision", ctypes.c_int),
        *((n, ctypes.c_int64) for n in ("height", "width")),
        ("regions", ctypes.POINTER(Region)),
        ("n_regions", ctypes.c_size_t),
    ]


class CError(Exception):
    """A code and a sentence of the library."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Interface:
    """The functions of efficientad.h."""

    def __init__(self, path):
        self.raw = ctypes.CDLL(str(path))
        self.raw.ead_message.restype = ctypes.c_char_p
        self.raw.ead_instruction_set.restype = ctypes.c_char_p

    def require(self, code):
        if code != OK:
            raise CError(code, self.raw.ead_message().decode())

    def open(self, path, n_threads=1):
        detector = ctypes.c_void_p()
        self.require(
            self.raw.ead_open(str(path).encode(), n_threads, ctypes.byref(detector))
        )
        return detector

    def predict(self, detector, pixels, channels=RGB, *, size=None, stride=None):
        """Return what is found, the regions and the three maps of an image."""
        height, width = size or pixels.shape[:2]
        stride = pixels.strides[0] if stride is None else stride
        found = ctypes.POINTER(Found)()
        self.require(
            self.raw.ead_predict(
                detector,
                ctypes.c_void_p(pixels.ctypes.data),
                *map(ctypes.c_int64, (height, width, stride)),
                channels,
                ctypes.byref(found),
            )
        )
        one = Found.from_buffer_copy(found.contents)
        regions = [
            {n: getattr(found.contents.regions[i], n) for n, *_ in Region._fields_}
            for i in range(one.n_regions)
        ]
        maps = [np.empty((height, width), np.float32) for _ in range(3)]
        for name, values in enumerate(maps):
            at = ctypes.c_void_p(values.ctypes.data)
            self.require(self.raw.ead_map(found, name, at))
        self.raw.ead_free(found)
        return one, regions, maps

    def close(self, detector):
        self.raw.ead_close(detector)
