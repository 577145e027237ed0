"""Both raw maps of a detector by native layers: the same numbers, several times sooner.

Exact algebra first. The images' normalization is folded into the first convolutions,
the teacher's channel statistics into its last. Teacher and student lie side by side in
one grid of channels, with the autoencoder's last features next to them:

    T - S   = one convolution over the features of teacher and student
    A - S'  = one convolution over the features of student and autoencoder

so that of 3 x 384 channels only the mean of squares is ever written. The convolutions
themselves are those of `kernels.layers`.
"""

import threading
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from efficientad.images import INPUT_SIZE
from efficientad.kernels.layers import Call, Convolution, convolution, resize, run
from efficientad.kernels.layers import to_float
from efficientad.method.inputs import IMAGENET_MEAN, IMAGENET_STD, Pixels
from efficientad.method.maps import RawMaps
from efficientad.method.networks import (
    DECODER_SIZES,
    DESCRIPTOR_CHANNELS,
    Autoencoder,
    PatchDescriptionNetwork,
)
