"""A run of ``atat`` from the command line shows what its importance estimator says; no other run is asked."""

from __future__ import annotations

import pytest
from PIL import Image

from hf_difflm.runs import load_run
from hf_difflm.runs.dashboard.figure import draw_dashboard
from hf_difflm.runs.dashboard.importance_map import SOURCE, importance_maps


def train(hf, tiny, *more):
    result = hf("train", *tiny, "--max-steps", "6", "--output-dir", "run", *more)
    assert result.code == 0, result.err
    return load_run("run")


def test_the_dashboard_the_page_and_the_log_have_the_text(hf, tiny, tmp_path):
    run = train(
        hf, tiny, "--objective", "atat", "--curriculum", "thirds", "--viz-interval", "2", "--report-to", "tensorboard"
    )  # fmt: skip
    maps = importance_maps(run)
    assert [one.step for one in maps] == [2, 4, 6]
    assert len({one.tokens for one in maps}) == 1  # the same text each time
    assert maps[0].values != maps[-1].values
    assert "".join(maps[0].tokens)
    picture = tmp_path / "run" / "dashboard" / "training_step_000006.png"
    assert Image.open(picture).size[1] > 1080  # the strip below the panels
    assert picture.read_bytes() == draw_dashboard(run, tmp_path / "expected.png").read_bytes()
    assert hf("report", "run", "--output", "page.html").code == 0
    page = (tmp_path / "page.html").read_text()
    assert 'id="importance"' in page
    assert '"stages":[[1,"easy"],[3,"medium"],[5,"hard"]]' in page
    assert "importance_text/mean" in hf("runs", "show", "run").out


def test_without_dashboards_it_is_asked_when_texts_are_sampled(hf, tiny):
    run = train(hf, tiny, "--objective", "atat", "--generate-interval", "4")
    assert [one.step for one in importance_maps(run)] == [2, 4, 6]


@pytest.mark.parametrize(
    "more",
    [
        ("--objective", "mdlm"),
        ("--objective", "ar"),
        ("--objective", "atat", "--importance", "frequency_only"),
        ("--objective", "atat", "--generate-interval", "0"),
    ],
)
def test_a_run_without_an_estimator_or_an_interval_is_not_asked(hf, tiny, more):
    run = train(hf, tiny, *more)
    assert not [record for record in run.measurements if record.source == SOURCE]
