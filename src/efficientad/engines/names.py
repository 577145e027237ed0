"""Names of engines and devices for options; importing it loads no engine."""

from typing import Literal

EngineName = Literal["native", "native_bf16", "pytorch", "onnxruntime", "openvino"]
"""`native` and `pytorch` run detector files, the others exported ones. `native_bf16`
computes the 1 x 1 convolutions of the medium size in bf16."""

EngineChoice = Literal["auto", EngineName]

DetectorEngine = Literal["auto", "native", "native_bf16", "pytorch"]

Device = Literal["auto", "cpu", "cuda"]
TileChoice = Literal["auto", "never", 256] | None
"""Side of the tiles in pixels, `auto` as the images need it, or None for no tiles."""

AlignChoice = Literal["always", "never"]
