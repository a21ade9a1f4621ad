"""FLOPs of the Newton-Schulz iteration with which Muon makes the update of a matrix orthogonal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def newton_schulz_flops(shapes: Iterable[Sequence[int]], steps: int) -> float:
    """Return the FLOPs of one optimiser step of Muon on some matrices, a multiplication and an addition as 2.

    A matrix of m rows and n >= m columns takes three products an iteration: X X^T (2 m m n), its square (2 m^3) and that
    times X (2 m m n). Momentum, norm and the update itself are no products.

    Args:
        shapes: of the matrices; of more than two dimensions the last two are one of a stack of matrices.
        steps: iterations.
    """
    total = 0.0
    for shape in shapes:
        m, n = sorted(shape[-2:])
        total += steps * math.prod(shape[:-2]) * (4.0 * m * m * n + 2.0 * m**3)
    return total
