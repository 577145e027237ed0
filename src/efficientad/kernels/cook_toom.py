"""The exact matrices of Winograd's convolution, for any tile and kernel size.

In one dimension, m outputs y of a correlation with r taps g over n = m + r - 1 inputs
d need n products instead of m * r,

    y = A' [(G g) * (B' d)]

by the Cook-Toom construction: polynomials are evaluated at n - 1 points and infinity,
multiplied there, and interpolated. The points decide how much rounding errors grow.
"""

from collections.abc import Sequence
from fractions import Fraction

Matrix = list[list[Fraction]]

# (outputs, taps) to points: 0, then pairs p and -p, then at most one more; infinity is
# implied. Small points and reciprocals keep small tiles well conditioned; for larger
# tiles these have the least error among all small fractions tried.
_POINTS: dict[tuple[int, int], tuple[str, ...]] = {
    (4, 3): ("0", "1", "-1", "2", "-2"),
    (4, 4): ("0", "1", "-1", "2", "-2", "1/2"),
    (6, 3): ("0", "2/5", "-2/5", "1", "-1", "7/4", "-7/4"),
    (6, 4): ("0", "3/4", "-3/4", "5/4", "-5/4", "3", "-3", "1/2"),
    (7, 4): ("0", "2/5", "-2/5", "4/5", "-4/5", "4/3", "-4/3", "5/2", "-5/2"),
    (8, 4): ("0", "1/3", "-1/3", "2/3", "-2/3", "1", "-1", "5/2", "-5/2", "3/2"),
}
FORMS = ((6, 3), (6, 4), (7, 4), (8, 4))
"""The (outputs, taps) in one dimension of the tiles of inference."""


def transforms(n_outputs: int, n_taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """Return the exact matrices (A', G, B') of a form in one dimension.

    Rows of G and B' are balanced by powers of two, which changes no product.
    """
    points = [Fraction(p) for p in _POINTS[n_outputs, n_taps]]
    n_inputs = len(points) + 1
    zero, one = Fraction(0), Fraction(1)
    output = [[p**i for p in points] + [zero] for i in range(n_outputs)]
    output[-1][-1] = one
    taps: Matrix = []
    inputs: Matrix = []
    for j, point in enumerate(points):
        others = points[:j] + points[j + 1 :]
        norm = one
        for other in others:
            norm *= point - other
        taps.append([point**k / norm for k in range(n_taps)])
        row = _polynomial(others)
        inputs.append(row + [zero] * (n_inputs - len(row)))
    taps.append([zero] * (n_taps - 1) + [one])
    inputs.append(_polynomial(points))
    for j in range(n_inputs):
        _balance(inputs, taps, j)
    return output, taps, inputs


def cpp_constant(name: str, matrix: Matrix) -> str:
    """Return the definition of a matrix in C++, rounded to single precision."""
    rows = (", ".join(f"{float(v)!r}f" for v in row) for row in matrix)
    values = ", ".join(f"{{{row}}}" for row in rows)
    return f"constexpr float {name}[{len(matrix)}][{len(matrix[0])}] = {{{values}}};"


def halved(output: Matrix, inputs: Matrix) -> tuple[Matrix, Matrix]:
    """Split A' and B' so that the two points of a pair share their work.

    The columns (A') and rows (B') a, b of a pair become (a + b) / 2 and (a - b) / 2,
    where half of the entries vanish. B' is then these rows followed by sum and
    difference of each pair; A' is sum and difference of each pair followed by these.
    """
    output = [list(row) for row in output]
    inputs = [list(row) for row in inputs]
    for a in range(1, len(inputs) - 2, 2):
        b = a + 1
        plus, minus = inputs[a], inputs[b]
        inputs[a] = [(x + y) / 2 for x, y in zip(plus, minus, strict=True)]
        inputs[b] = [(x - y) / 2 for x, y in zip(plus, minus, strict=True)]
        for row in output:
            row[a], row[b] = (row[a] + row[b]) / 2, (row[a] - row[b]) / 2
    return output, inputs


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of the product of (x - root), lowest power first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        scaled = [-root * c for c in coefficients] + [Fraction(0)]
        coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


def _balance(inputs: Matrix, taps: Matrix, j: int) -> None:
    """Bring row j of both to about the same size, by a power of two."""
    ratio = max(map(abs, inputs[j])) / max(map(abs, taps[j]))
    scale = Fraction(1)
    while ratio > 2:  # noqa: PLR2004 - a factor of two is the step
        ratio, scale = ratio / 4, scale * 2
    while ratio < Fraction(1, 2):
        ratio, scale = ratio * 4, scale / 2
    inputs[j] = [v / scale for v in inputs[j]]
    taps[j] = [v * scale for v in taps[j]]
