"""``plot`` and ``report`` on logs, as people who kept metrics files are used to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from made_runs import write_run

from hf_difflm.runs import Journal
from hf_difflm.runs.journal.schema import MeasurementRecord
from hf_difflm.runs.plots.kinds import KINDS, MEASURED_KINDS

FOREIGN_LOGS = Path(__file__).parents[1] / "fixtures" / "foreign_logs"
METRICS = {
    "model_type": "MDLM",
    "experiment_name": "mdlm_wikitext",
    "start_time": "2024-12-22T12:00:00",
    "end_time": "2024-12-22T16:30:00",
    "epochs": [1, 2, 3],
    "epoch_losses": [3.45, 2.89, 2.34],
    "steps": list(range(1, 301)),
    "step_losses": [3.5 - step / 250 for step in range(1, 301)],
}


@pytest.fixture
def metrics(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "a_metrics.json").write_text(json.dumps(METRICS))
    (folder / "b_metrics.json").write_text(
        json.dumps({**METRICS, "model_type": "AR", "experiment_name": "ar_wikitext"})
    )
    return folder


def _drawn(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    "runs", [["checkpoints/a_metrics.json", "checkpoints/b_metrics.json"], ["checkpoints"], ["checkpoints/*.json"]]
)
def test_two_metrics_files_of_another_program_are_compared_as_their_users_are_used_to(hf, metrics, tmp_path, runs):
    result = hf(
        "plot", *runs, "--names", "MDLM", "AR", "--title", " - WikiText-103-v1", "--output_dir", "./comparison_plots"
    )
    assert result.code == 0, result.err
    assert _drawn(tmp_path / "comparison_plots") >= {"loss_per_step.png", "loss_smoothed.png", "comparison.png"}
    assert "validation was left out: no evaluation was logged" in result.err


def test_the_epoch_losses_of_a_metrics_file_are_drawn_and_summed_up(hf, metrics, tmp_path):
    assert hf("plot", "checkpoints", "--kind", "loss_per_epoch").code == 0
    assert "2.3400" in hf("plot", "checkpoints", "--summary").out


def test_summary_prints_and_draws_nothing(hf, metrics, tmp_path):
    result = hf("plot", "checkpoints", "--summary")
    assert (result.code, result.err) == (0, "")
    for text in ("ar_wikitext", "mdlm_wikitext", "2.3000", "300"):
        assert text in result.out
    assert not (tmp_path / "plots").exists()


def test_kinds_axis_and_format_are_chosen(hf, tmp_path):
    write_run(tmp_path / "run")
    result = hf("plot", "run", "--kind", "validation", "loss_per_step", "--format", "svg", "--x", "tokens")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == ["plots/validation.svg", "plots/loss_per_step.svg"]
    assert "scored tokens" not in (tmp_path / "plots" / "validation.svg").read_text()[:200]


def test_a_picture_for_a_paper(hf, tmp_path):
    write_run(tmp_path / "run")
    line = ["plot", "run", "--kind", "validation", "--format", "pdf", "--width", "3.25", "--no-title"]
    assert hf(*line).out.splitlines() == ["plots/validation.pdf"]
    assert b"/MediaBox [ 0 0 234 " in (tmp_path / "plots" / "validation.pdf").read_bytes()


def test_what_callbacks_have_measured_is_drawn_where_it_is_asked_for(hf, tmp_path):
    journal = Journal(write_run(tmp_path / "run") / "journal.jsonl")
    journal.append(MeasurementRecord(iter=20, source="gradients", metrics={"grad_norm/global": 1.0}))
    journal.close()
    result = hf("plot", "run", "--kind", *MEASURED_KINDS)
    assert (result.code, result.out) == (0, "plots/gradients.png\n")
    assert result.err.splitlines() == [
        f"{kind} was left out: no run has measured {kind}" for kind in ("statistics", "throughput")
    ]


def test_the_help_names_every_kind(hf):
    text = "".join(hf("plot", "--help").out.split()).replace("│", "")
    assert all(kind in text for kind in [*KINDS, *MEASURED_KINDS])


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--kind", "los_per_step"], "did you mean 'loss_per_step'"),
        (["--names", "a", "b"], "there are 2 names (a, b) for 1 run"),
        (["--names"], "--names needs a value"),
        (["--format", "gif"], "format 'gif' is unknown"),
        (["--width", "0.5"], "a picture cannot be 0.5 inches wide; give 1.5 to 40"),
        (["--width", "nan"], "a picture cannot be nan inches wide"),
        (["--title", "mine", "--no-title"], "a title ('mine') and no titles exclude each other"),
        (["--kind", "mfu"], "there is nothing to plot: mfu was left out"),
    ],
)
def test_bad_input_is_one_sentence(hf, tmp_path, flags, sentence):
    write_run(tmp_path / "run")
    result = hf("plot", "run", *flags)
    assert (result.code, result.out) == (2, "")
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "plots").exists()


def test_a_report_is_a_page_of_the_kind_its_name_says(hf, tmp_path):
    write_run(tmp_path / "run")
    assert hf("report", "run", "--output", "page.html", "--title", "My page").out == "page.html\n"
    assert "<title>My page</title>" in (tmp_path / "page.html").read_text()
    assert hf("report", "run", "--output", "page.md", "--names", "Mine").out.split() == ["page.md", "page-curves.png"]
    assert "| Mine |" in (tmp_path / "page.md").read_text()
    assert "ends neither in .html nor in .md" in hf("report", "run", "--output", "page.txt").err
    (tmp_path / "folder").mkdir()
    assert "is a folder; give a file" in hf("report", "run", "--output", "folder").err


@pytest.mark.borders
def test_every_reading_command_takes_another_programs_log(hf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in FOREIGN_LOGS.iterdir():
        if path.is_file() and path.suffix != ".py":
            shutil.copy(path, tmp_path)
    logs = sorted(path.name for path in tmp_path.iterdir())
    for name in logs:
        assert hf("runs", "show", name).code == 0
        assert hf("plot", name, "--metric", "loss,lr", "eval_loss", "--output-dir", f"plots-{name}").code == 0
        assert len(list((tmp_path / f"plots-{name}").iterdir())) == 3
    listed = json.loads(hf("runs", "list", ".", "--json").out)
    assert sorted(row["path"] for row in listed) == logs
    assert hf("runs", "compare", *logs).code == 0
    assert "of 8 runs" in hf("runs", "best", *logs, "--metric", "eval_loss").out
    steps = hf("runs", "export", "loop.wandb", "--format", "csv").out.splitlines()
    assert steps[:2] == ["iter,steps,loss,lr,reward.mean,reward.std", "0,1,4.0,0.003,0.0,0.5"]
    assert hf("dashboard", "trl_sft_trainer_state.json", "--output-dir", "board").code == 0
    assert hf("report", *logs, "--output", "page.html").code == 0
    assert "rewards/margins" in (tmp_path / "page.html").read_text()
    result = hf("plot", "loop.wandb", "--metric", "reward.meen")
    assert (result.code, "did you mean 'reward.mean'" in result.err) == (2, True)
