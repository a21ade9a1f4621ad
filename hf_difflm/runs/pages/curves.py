"""The curves of a page: few enough points for a browser, as plain JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..comparing.seeds import SeedGroup
from ..dashboard.curriculum_stages import stage_starts
from ..journal.measurements import measured_names, measurement_series
from ..journal.quantities import EVALUATION, STEP, Quantity, quantity_in
from ..journal.run import Run, common_loss_unit
from ..plots.axes import AXES, evaluation_series, row_positions, step_series
from ..plots.decimation import bucket_means, decimate, smoothing_window
from ..plots.scalars import other_scalars, scalar_series

# The first is the one the page is about and gets the most points.
_QUANTITIES = (
    "loss",
    "accuracy",
    "grad_norm",
    "lr",
    "tokens_per_sec",
    "time_ms",
    "mfu",
    "noise_level",
    "masking_rate",
)
_METRICS = ("accuracy", "bpb")
# Of what is measured now and then: a chart for each number, but statistics have hundreds of them.
_SOURCES = ("gradients", "samples")
_MEASURED_CHARTS = 8
_TELLING = ("unigram_entropy", "distinct_2", "repeated_4", "top_share", "reference_perplexity")
_LOSS_POINTS, _OTHER_POINTS = 2000, 800
_KNOTS = 400


def page_data(runs: Sequence[Run], names: Sequence[str], groups: Sequence[SeedGroup]) -> dict[str, Any]:
    """Return what the script of the page draws.

    ``axes``: ``{axis: label}``. ``runs``: name, colour (place of its group), dash (place in the group), ``knots``: where a
    few hundred steps lie on each axis, and ``stages``: step and name of each stage of its curriculum, which are marked in
    the chart that has ``stages``. ``charts``: title, unit, whether it can be smoothed, and one curve a run
    (null where the run does not know the quantity): ``x`` in steps and ``y``, the extremes of each stretch kept;
    ``mean_x`` and ``mean_y``, the means of stretches, where the curve is long; ``error`` where one is known.
    """
    member = {place: (number, inner) for number, group in enumerate(groups) for inner, place in enumerate(group.places)}
    unit = common_loss_unit(runs)
    charts = [_training_chart(runs, STEP[name], unit) for name in _QUANTITIES]
    charts[1:1] = [
        _evaluation_chart(runs, None, "Evaluation nll" if unit else "Evaluation loss", unit),
        *(
            _evaluation_chart(runs, f"eval_{name}", f"Evaluation {EVALUATION[name].title}", _unit(runs, f"eval_{name}"))
            for name in _METRICS
        ),
    ]
    charts += [
        _measurement_chart(runs, source, name)
        for source in _SOURCES
        for name in _charted(measured_names(runs, source), source)
    ]
    others = dict.fromkeys(name for run in runs for name in other_scalars(run))
    # An evaluation of the same name is a chart of its own here: its points are too few to be smoothed.
    charts += [_other_chart(runs, each) for name in others for each in dict.fromkeys((name, f"eval_{name}"))]
    steps_per_row = [float(np.median(run.column("steps"))) if len(run.steps) else 1.0 for run in runs]
    windows = [smoothing_window(len(run.steps)) * each for run, each in zip(runs, steps_per_row, strict=True)]
    return {
        "axes": {
            name: _step_label(runs) if name == "step" else axis.label
            for name, axis in AXES.items()
            if any(_knots(run, name) for run in runs)
        },
        "smoothing": round(min(windows)),
        "longest": max((float(run.column("iter")[-1]) for run in runs if len(run.steps)), default=1.0),
        "runs": [
            {
                "name": name,
                "colour": member[place][0],
                "dash": member[place][1],
                "knots": {axis: found for axis in AXES if (found := _knots(run, axis))},
                "stages": [[stage.step, stage.name] for stage in stage_starts(run)],
            }
            for place, (run, name) in enumerate(zip(runs, names, strict=True))
        ],
        "charts": [chart for chart in charts if any(curve and len(curve["x"]) > 1 for curve in chart["curves"])],
    }


def _step_label(runs: Sequence[Run]) -> str:
    counting = [run.name for run in runs if run.step_word == "epoch"]
    if len(counting) == len(runs):
        return AXES["epoch"].label
    return AXES["step"].label + (f", of {', '.join(counting)} epoch" if counting else "")


def not_drawn(runs: Sequence[Run]) -> list[str]:
    """Return the names of what callbacks have measured and the page has no chart of: there are hundreds of them."""
    found: list[str] = []
    for source in dict.fromkeys(record.source for run in runs for record in run.measurements):
        names = measured_names(runs, source)
        drawn = _charted(names, source) if source in _SOURCES else []
        found += [name for name in names if name not in drawn]
    return found


def _charted(names: Sequence[str], source: str) -> list[str]:
    """Return the numbers of a source that get a chart: the telling ones of the samples, the first of all others."""
    if source == "samples":
        return [name for name in names if name.rpartition("/")[2] in _TELLING]
    return list(names[:_MEASURED_CHARTS])


def _training_chart(runs: Sequence[Run], quantity: Quantity, unit: str) -> dict[str, Any]:
    """``unit`` is that of the losses."""
    is_loss, name = quantity.name == "loss", quantity.name
    points = _LOSS_POINTS if is_loss else _OTHER_POINTS
    curves = []
    for run in runs:
        x, y = step_series(run, name, "step")
        curve = _curve(*decimate(x, y, points))
        if curve is not None and len(y) > points:
            means = bucket_means(x, y, points // 2)
            curve["mean_x"], curve["mean_y"] = _rounded(means[0]), _rounded(means[1])
        curves.append(curve)
    title = f"Training {quantity.title}" if name in EVALUATION else quantity.title[:1].upper() + quantity.title[1:]
    return {
        "title": title,
        "unit": unit if is_loss else _unit(runs, name),
        "smooth": name != "lr",
        "points": False,
        "stages": is_loss,
        "curves": curves,
    }


def _unit(runs: Sequence[Run], name: str) -> str:
    """The unit that a quantity has in all of the runs; nothing where one of them has another, or none that is known."""
    units = {known.unit if (known := quantity_in(name, run.objective)) else "" for run in runs}
    return units.pop() if len(units) == 1 else ""


def _evaluation_chart(runs: Sequence[Run], metric: str | None, title: str, unit: str) -> dict[str, Any]:
    curves = []
    for run in runs:
        x, y, error = evaluation_series(run, "step", metric)
        curve = _curve(x, y)
        if curve is not None and error.any():
            curve["error"] = _rounded(error)
        curves.append(curve)
    return {"title": title, "unit": unit, "smooth": False, "points": True, "curves": curves}


def _measurement_chart(runs: Sequence[Run], source: str, name: str) -> dict[str, Any]:
    curves = [_curve(*decimate(*measurement_series(run, source, name), _OTHER_POINTS)) for run in runs]
    return {"title": name, "unit": "", "smooth": True, "points": False, "curves": curves}


def _other_chart(runs: Sequence[Run], name: str) -> dict[str, Any]:
    """What another Trainer logs under a name of its own: no unit is known of it."""
    curves = [_curve(*decimate(*scalar_series(run, name, "step"), _OTHER_POINTS)) for run in runs]
    steps = any(name in run.steps.quantities for run in runs)
    return {"title": name, "unit": "", "smooth": steps, "points": not steps, "curves": curves}


def _curve(x: np.ndarray, y: np.ndarray) -> dict[str, Any] | None:
    return {"x": _rounded(x), "y": _rounded(y)} if len(y) else None


def _knots(run: Run, axis: str) -> list[float] | None:
    """Where evenly chosen rows lie on an axis, beginning at 0; None where the run does not know."""
    if not len(run.steps):
        return (
            [0.0, float(max(record.iter for record in run.evaluations))] if axis == "step" and run.evaluations else None
        )
    x = row_positions(run, axis)
    if x is None:
        return None
    places = np.unique(np.linspace(0, len(x) - 1, min(len(x), _KNOTS)).astype(int))
    rows = np.arange(len(x))
    known = np.isfinite(x)
    return [0.0, *_rounded(np.interp(places, rows[known], x[known]), 9)]


def _rounded(values: np.ndarray, digits: int = 6) -> list[float]:
    """Six digits are more than a screen shows, and a third of the bytes."""
    return [int(value) if value.is_integer() and abs(value) < 1e15 else value for value in _digits(values, digits)]


def _digits(values: np.ndarray, digits: int) -> list[float]:
    whole = np.abs(values) >= 1e5  # steps and tokens stay exact
    return [float(value) if exact else float(f"{value:.{digits}g}") for value, exact in zip(values, whole, strict=True)]
