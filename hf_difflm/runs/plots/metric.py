"""The picture of any one scalar of a log."""

from __future__ import annotations

from matplotlib.figure import Figure

from ..journal.quantities import quantity_in
from .scalars import scalar_series
from .series import Drawing, draw_line, group_curve, group_handles, group_names, titled, x_axis
from .style import Style, finish, label_text, legend, log_y_if_wide, new_figure


def draw_metric(drawing: Drawing, name: str) -> Figure:
    """One scalar of every run as it was logged, several seeds as mean and band; a unit only where it is one of ours."""
    figure, (axes,) = new_figure(width=drawing.width)
    curves = [group_curve([scalar_series(run, name, drawing.x) for run in group.runs]) for group in drawing.groups]
    drawing.need(any(len(curve.y) for curve in curves), f"no run has logged {name!r}")
    for place, curve in enumerate(curves):
        draw_line(axes, curve, Style.of(place))
    log_y_if_wide(axes)
    meanings = {quantity_in(name, run.objective) for run in drawing.runs}
    known = meanings.pop() if len(meanings) == 1 else None
    label = label_text(name) if known is None else drawing.loss_label if known.name == "loss" else known.label
    finish(axes, label_text(name), x_axis(axes, drawing), label)
    silent = [group for group, curve in zip(drawing.groups, curves, strict=True) if not len(curve.y)]
    names = group_names(drawing, lambda group: "not logged" if group in silent else "")
    legend(figure, group_handles(drawing), names)
    return titled(figure, drawing)
