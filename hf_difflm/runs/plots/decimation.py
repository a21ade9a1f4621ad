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
    starts, stops = _buckets(len(y), points // 2)
    kept = [
        place
        for start, stop in zip(starts, stops, strict=True)
        for place in (start + int(np.argmin(y[start:stop])), start + int(np.argmax(y[start:stop])))
    ]
    places = np.unique(kept)
    return x[places], y[places]


def bucket_means(x: np.ndarray, y: np.ndarray, points: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Return at most ``points`` points, each the mean of x and of y over one of equally many neighbours.

    What a moving mean over the result shows is what one over all points would show; over the extremes that
    :func:`decimate` keeps, it would not.
    """
    if len(y) <= points:
        return x, y
    starts, stops = _buckets(len(y), points)
    sizes = stops - starts
    return np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes


def moving_mean(y: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of the ``window`` values around each value, of fewer at the ends; shapes (n,) to (n,).

    Centred: a mean of past values alone would lag behind a falling curve.
    """
    sums = np.cumsum(np.concatenate([[0.0], y]))
    places = np.arange(len(y))
    begins = np.maximum(places - (window - 1) // 2, 0)
    ends = np.minimum(places + window // 2 + 1, len(y))
    return (sums[ends] - sums[begins]) / (ends - begins)


def smoothing_window(rows: int) -> int:
    """Rows in the moving mean: 100, fewer in a short run, 1 (none) below 20 rows."""
    return max(1, min(100, rows // 10)) if rows >= 20 else 1


def _buckets(size: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    starts = np.linspace(0, size, number, endpoint=False).astype(int)
    return starts, np.append(starts[1:], size)
