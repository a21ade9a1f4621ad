"""The picture of block sizes on a page: each configuration at its size, bounds hollow, nothing where nothing is compared."""

from __future__ import annotations

import re

import pytest
from made_runs import make_run

from hf_difflm.runs.comparing.seeds import seed_groups
from hf_difflm.runs.pages.block_sizes import _ticks, block_sizes_section
from hf_difflm.runs.pages.html import write_html_report

SIDES = [
    make_run("mdlm", objective="mdlm", final=2.5, block_size=64),
    make_run("ar", objective="ar", bound="exact", final=1.5, block_size=64),
    make_run("blocks-16", objective="bd3lm", final=2.2, block_size=64, diffusion_block_size=16),
    make_run("blocks-4", objective="bd3lm", final=1.9, block_size=64, diffusion_block_size=4),
]


def test_points_stand_at_their_sizes_and_bounds_are_hollow(tmp_path):
    page = write_html_report(SIDES, tmp_path / "page.html").read_text()
    assert '<a href="#block-sizes">' in page
    picture = re.search(r'<svg class="sizes".*?</svg>', page, re.S)[0]
    circles = re.findall(r'<circle class="(\w+)" cx="([\d.]+)" cy="([\d.]+)"', picture)
    assert [kind for kind, *_ in circles] == ["exact", "hollow", "hollow", "hollow"]
    x = [float(at) for _, at, _ in circles]
    assert x == sorted(x)
    assert (x[1] - x[0]) / (x[3] - x[0]) == pytest.approx(2 / 6, abs=1e-3)  # log2 of 1, 4, 16, 64
    y = [float(at) for *_, at in circles]
    assert y == sorted(y, reverse=True)
    assert "block diffusion, upper bound, 16 tokens: 2.2" in picture
    assert "style=" not in picture  # which the page's own policy forbids


def test_where_no_sizes_are_compared_there_is_no_picture(tmp_path):
    for runs in (SIDES[:2], SIDES[2:3]):
        assert block_sizes_section(seed_groups(runs, [run.name for run in runs])) == ""
        assert "<svg" not in write_html_report(runs, tmp_path / "page.html").read_text().split("<main>")[1]


@pytest.mark.parametrize(("low", "high"), [(1.4, 2.6), (0.0, 0.001), (3.21, 3.25), (0.0, 11.0)])
def test_ticks_are_round_and_a_handful(low, high):
    ticks = _ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert all(low <= tick <= high for tick in ticks)
