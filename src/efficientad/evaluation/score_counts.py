"""How often each score occurs among more pixels than memory can hold.

A ranking metric asks one thing of the normal pixels: how many of them score higher than
a given defect pixel, and how many the same. A count for each distinct score answers
that exactly, and distinct scores are far fewer than pixels: floats with the same sign
and exponent, a binade, have only 2^23 values in float32. A binade keeps its distinct
scores while these are few, and then one count for each of its values, at most 32 MiB.

The module knows nothing of images, defects or metrics.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
"""Scores, finite, float32 or float64."""

Bits = NDArray[np.unsignedinteger[Any]]
"""Scores as unsigned integers in the same order."""

Counts = NDArray[np.int64]

# So that no count overflows.
_MAX_SCORES = 2**32 - 1

# Scores that wait to be sorted together: 64 MiB of float32.
_BATCH_SCORES = 2**24

# A binade lists its distinct scores up to this share of the possible ones. Beyond, a
# count for each possible one takes at most four times the memory and is far quicker.
_LISTED_SHARE = 1 / 8


class ScoreCounts:
    """The number of times each score was added; scores are told apart exactly.

    Args:
        dtype: float32 or float64. With float64 nearly every score is distinct, so
            memory grows by twelve bytes a score.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.n_scores = 0
        self._bits_dtype = np.dtype(f"u{dtype.itemsize}")
        self._n_mantissa_bits = int(np.finfo(dtype).nmant)
        self._n_binades = 2 ** (8 * dtype.itemsize - self._n_mantissa_bits)
        self._binades: dict[int, _Binade] = {}
        self._waiting: list[Bits] = []
        self._n_waiting = 0

    def has_room_for(self, n_scores: int) -> bool:
        """Tell whether so many more can be counted; if not, use another table."""
        return self.n_scores + n_scores <= _MAX_SCORES

    def add(self, scores: Floats) -> None:
        """Count some more scores, one axis, finite, of this table's type."""
        self._waiting.append(_ordered_bits(scores))
        self._n_waiting += scores.size
        self.n_scores += scores.size
        if self._n_waiting >= _BATCH_SCORES:
            self._settle()

    def above_and_tied(self, scores: Floats) -> tuple[Counts, Counts]:
        """Count for each of the given scores what was added above it and equal to it.

        Args:
            scores: One axis, finite, float32 or float64, whatever this table's type is.
        """
        if self.dtype in (np.float64, scores.dtype):
            return self._above_and_tied(scores.astype(self.dtype, copy=False))
        # A float64 score between two float32 values ties with neither.
        with np.errstate(over="ignore"):
            rounded = scores.astype(self.dtype)
        above, tied = self._above_and_tied(rounded)
        above += np.where(rounded > scores, tied, 0)
        return above, np.where(rounded == scores, tied, 0)

    def _above_and_tied(self, scores: Floats) -> tuple[Counts, Counts]:
        self._settle()
        bits = _ordered_bits(scores)
        number, mantissas = self._split(bits)
        sizes = np.zeros(self._n_binades, np.int64)
        for index, binade in self._binades.items():
            sizes[index] = binade.n_scores()
        above = (sizes[::-1].cumsum()[::-1] - sizes)[number]
        tied = np.zeros(scores.size, np.int64)
        for index, binade in self._binades.items():
            inside = np.flatnonzero(number == index)
            if inside.size:
                in_binade, tied[inside] = binade.above_and_tied(mantissas[inside])
                above[inside] += in_binade
        return above, tied

    def _settle(self) -> None:
        """Move the waiting scores into their binades."""
        if not self._n_waiting:
            return
        bits = np.concatenate(self._waiting)
        self._waiting.clear()
        self._n_waiting = 0
        bits.sort()
        for index, mantissas in self._by_binade(bits):
            binade = self._binades.get(index)
            if binade is None:
                binade = _Binade(self._bits_dtype, 2**self._n_mantissa_bits)
                self._binades[index] = binade
            binade.add(mantissas)

    def _by_binade(self, sorted_bits: Bits) -> Iterator[tuple[int, Bits]]:
        firsts = np.arange(self._n_binades, dtype=self._bits_dtype)
        firsts <<= self._bits_dtype.type(self._n_mantissa_bits)
        edges = np.append(np.searchsorted(sorted_bits, firsts), sorted_bits.size)
        for index in np.flatnonzero(np.diff(edges)):
            yield (
                int(index),
                self._split(sorted_bits[edges[index] : edges[index + 1]])[1],
            )

    def _split(self, bits: Bits) -> tuple[NDArray[np.uint16], Bits]:
        n_bits = self._bits_dtype.type(self._n_mantissa_bits)
        mantissa_mask = self._bits_dtype.type(2**self._n_mantissa_bits - 1)
        return (bits >> n_bits).astype(np.uint16), bits & mantissa_mask


class _Binade:
    """How often each mantissa occurs among scores of one sign and exponent.

    `_counts` has one entry for each of `_mantissas`, ascending, or, once these would be
    many, for every possible mantissa; and a last one that is always 0, so that a count
    can be asked for what lies above the highest. While `_is_summed`, an entry holds the
    number of scores at or above its mantissa instead.
    """

    def __init__(self, dtype: np.dtype[Any], n_mantissas: int) -> None:
        self._n_mantissas = n_mantissas
        self._mantissas: Bits | None = np.empty(0, dtype)
        self._counts = np.zeros(1, np.uint32)
        self._is_summed = False

    def add(self, mantissas: Bits) -> None:
        """Count mantissas, ascending."""
        self._sum(wanted=False)
        if self._mantissas is not None:
            starts = np.flatnonzero(np.append(True, mantissas[1:] != mantissas[:-1]))
            n_listed = self._mantissas.size + starts.size
            if n_listed <= _LISTED_SHARE * self._n_mantissas:
                counts = np.diff(starts, append=mantissas.size).astype(np.uint32)
                self._merge(self._mantissas, mantissas[starts], counts)
                return
            self._spread_out(self._mantissas)
        np.add.at(self._counts, mantissas, np.uint32(1))

    def n_scores(self) -> int:
        self._sum(wanted=True)
        return int(self._counts[0])

    def above_and_tied(self, mantissas: Bits) -> tuple[NDArray[np.uint32], Counts]:
        """Count for each mantissa the scores above it and equal to it."""
        self._sum(wanted=True)
        if self._mantissas is None:
            first = mantissas.astype(np.intp)
            last = first + 1
        else:
            first = np.searchsorted(self._mantissas, mantissas, side="left")
            last = np.searchsorted(self._mantissas, mantissas, side="right")
        above = self._counts[last]
        return above, (self._counts[first] - above).astype(np.int64)

    def _merge(self, listed: Bits, mantissas: Bits, counts: NDArray[np.uint32]) -> None:
        """Take distinct mantissas, ascending, into the list."""
        both = np.concatenate([listed, mantissas])
        order = np.argsort(both, kind="stable")  # two sorted runs: linear
        both = both[order]
        counts = np.concatenate([self._counts[:-1], counts])[order]
        is_repeated = np.append(False, both[1:] == both[:-1])
        repeated = np.flatnonzero(is_repeated)  # each once: both parts are distinct
        counts[repeated - 1] += counts[repeated]
        self._mantissas = both[~is_repeated]
        self._counts = np.append(counts[~is_repeated], np.uint32(0))

    def _spread_out(self, listed: Bits) -> None:
        """Give every possible mantissa a count."""
        counts = np.zeros(self._n_mantissas + 1, np.uint32)
        counts[listed] = self._counts[:-1]
        self._mantissas, self._counts = None, counts

    def _sum(self, *, wanted: bool) -> None:
        """Turn counts into counts at or above, or back, without a second array."""
        if self._is_summed == wanted:
            return
        descending = self._counts[::-1]
        if wanted:
            np.cumsum(descending, out=descending)
        else:
            np.subtract(self._counts[:-1], self._counts[1:], out=self._counts[:-1])
        self._is_summed = wanted


def _ordered_bits(scores: Floats) -> Bits:
    """The scores' bit patterns, changed so that integers compare as the floats do."""
    positive_zero = scores + scores.dtype.type(0)  # -0.0 and 0.0 are one score
    bits: Bits = positive_zero.view(f"u{scores.itemsize}")
    sign_bit = bits.dtype.type(2 ** (8 * scores.itemsize - 1))
    # All bits of a negative number change, and the sign of a positive one.
    changes: Bits = (
        positive_zero.view(f"i{scores.itemsize}") >> (8 * scores.itemsize - 1)
    ).view(bits.dtype)
    changes |= sign_bit
    bits ^= changes
    return bits
