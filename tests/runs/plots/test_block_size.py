"""The picture of nll over the size of diffusion blocks."""

from __future__ import annotations

import pytest
from made_runs import make_run

from hf_difflm.errors import UserError
from hf_difflm.runs.comparing.seeds import seed_groups
from hf_difflm.runs.plots.block_size import draw_block_size
from hf_difflm.runs.plots.kinds import plot_runs
from hf_difflm.runs.plots.series import Drawing
from hf_difflm.runs.plots.size_points import block_size_of


def _sides():
    return [
        make_run("mdlm", objective="mdlm", final=2.5, block_size=64),
        make_run("ar", objective="ar", bound="exact", final=1.5, block_size=64),
        make_run("blocks-16", objective="bd3lm", final=2.2, block_size=64, diffusion_block_size=16),
        make_run("blocks-4", objective="bd3lm", final=1.9, block_size=64, diffusion_block_size=4),
    ]


def test_each_run_stands_at_its_size_and_bounds_are_hollow():
    runs = _sides()
    assert [block_size_of(run) for run in runs] == [64, 1, 16, 4]
    names = [run.name for run in runs]
    figure = draw_block_size(Drawing(runs, names, seed_groups(runs, names), "", "step"))
    (axes,) = figure.axes
    line, *points = axes.lines
    assert line.get_xdata().tolist() == [1, 4, 16, 64]
    assert line.get_ydata().tolist() == pytest.approx([1.5, 1.9, 2.2, 2.5], abs=0.01)
    marked = [point for point in points if point.get_markersize() == 8]  # and not the caps of its error
    filled = {float(point.get_xdata()[0]): point.get_markerfacecolor() for point in marked}
    assert {size for size, colour in filled.items() if colour == "white"} == {4.0, 16.0, 64.0}
    assert filled[1.0] != "white"


def test_it_is_drawn_where_it_is_asked_for_and_needs_two_sizes(tmp_path):
    assert [path.name for path in plot_runs(_sides(), tmp_path, ["block_size"]).paths] == ["block_size.png"]
    assert "block_size.png" not in {path.name for path in plot_runs(_sides(), tmp_path / "all").paths}
    with pytest.raises(UserError, match="two sizes"):
        plot_runs(_sides()[:1], tmp_path, ["block_size"])
