"""Draw long series with few points, without losing their spikes."""

from __future__ import annotations

import numpy as np


def decimate(x: np.ndarray, y: np.ndarray, points: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Return at most ``points`` of the points (x, y), the lowest and highest of each bucket among them.

    Args:
        x: float array of shape (n,), rising.
        y: float array of shape (n,), finite.
        points: how many to keep, at least 2.
    """
    if len(y) <= points:
        return x, y
    starts = np.linspace(0, len(y), points // 2, endpoint=False).astype(int)
    stops = np.append(starts[1:], len(y))
    kept = [
        place
        for start, stop in zip(starts, stops, strict=True)
        for place in (start + int(np.argmin(y[start:stop])), start + int(np.argmax(y[start:stop])))
    ]
    places = np.unique(kept)
    return x[places], y[places]


def moving_mean(y: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of the ``window`` values around each value, of fewer at the ends; shapes (n,) to (n,).

    Centred: a mean of past values alone would lag behind a falling curve.
    """
    sums = np.cumsum(np.concatenate([[0.0], y]))
    places = np.arange(len(y))
    begins = np.maximum(places - (window - 1) // 2, 0)
    ends = np.minimum(places + window // 2 + 1, len(y))
    return (sums[ends] - sums[begins]) / (ends - begins)
