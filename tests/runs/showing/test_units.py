"""A log of another Trainer - a classifier, DPO - says what it measured, and not what we would have."""

from __future__ import annotations

import pytest
from made_runs import make_run

from hf_difflm.runs import compare_runs, write_html_report, write_report
from hf_difflm.runs.comparing.best import best_run, best_text
from hf_difflm.runs.comparing.seeds import seed_groups
from hf_difflm.runs.dashboard.figure import header_facts
from hf_difflm.runs.journal.following import describe
from hf_difflm.runs.plots.kinds import KINDS
from hf_difflm.runs.plots.series import Drawing
from hf_difflm.runs.showing.overview import show_text


@pytest.mark.borders
@pytest.mark.parametrize("objective", [None, "dpo", "classification"])
def test_the_loss_of_another_trainer_has_no_unit_anywhere(objective, tmp_path):
    run = make_run("other", objective=objective, bound=None)
    for record in run.evaluations:
        record.metrics = {"eval_loss": record.metrics["eval_nll"]}
    two = [run, make_run("another", objective=objective, bound=None, evaluations=0)]
    page, *_ = write_report(two, tmp_path / "page.md")
    interactive = write_html_report(two, tmp_path / "page.html")
    texts = [show_text(run, 100), compare_runs(two).to_text(100), page.read_text(), interactive.read_text()]
    texts += [best_text(best_run([run])), *map(describe, run.evaluations), *header_facts(run)]
    assert [text for text in texts if "nats" in text.replace('"nats', "")] == []
    assert [text for text in texts if "eval_nll" in text] == []
    for kind in ("loss_per_step", "validation", "comparison"):
        drawing = Drawing(two, ["x", "y"], seed_groups(two, ["x", "y"]), "", "step")
        labels = [axes.get_ylabel() for axes in KINDS[kind](drawing).axes]
        assert any(label.startswith("loss") for label in labels)
        assert not any("nats" in label for label in labels)
    assert "nats/token" in show_text(make_run(), 100)
