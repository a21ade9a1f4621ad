from __future__ import annotations

import dataclasses
import json
import os
import re
import time

import numpy as np
import pytest
from made_runs import make_run, write_run

from hf_difflm.errors import UserError
from hf_difflm.runs import load_run
from hf_difflm.runs.comparing.best import best_run, best_text
from hf_difflm.runs.journal.atomic_files import JOURNAL_NAME
from hf_difflm.runs.journal.schema import EventRecord
from hf_difflm.runs.journal.strict_json import dumps, plain
from hf_difflm.runs.showing.overview import list_rows, list_text, show_data, show_text, summary_text


def _at(run, start):
    return dataclasses.replace(run, headers=[dataclasses.replace(run.header, time=start)])


def test_the_list_has_the_newest_first_whatever_its_time_zone_and_fits_into_80_columns():
    runs = [
        _at(make_run("old"), "2026-01-01T10:00:00+00:00"),
        _at(make_run("new"), "2026-01-01T10:30:00+02:00"),
        _at(make_run("unknown"), "..."),
        _at(make_run("newest"), "2026-01-02T00:00:00"),
    ]
    assert [row["run_name"] for row in list_rows(runs)] == ["newest", "old", "new", "unknown"]
    lines = list_text(runs, 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[1] for line in lines[2:]] == ["completed"] * 4


def test_show_holds_the_summary_and_the_statistics_of_every_known_quantity():
    loss = np.array([4.0, 2.0, np.nan, 3.0])
    run = make_run(steps=4, columns={"loss": loss, "steps": np.array([1.0, 1.0, 1.0, 2.0])})
    data = show_data(run)
    assert data["statistics"]["loss"] == {"mean": 3.0, "min": 2.0, "max": 4.0, "last": 3.0}
    assert "grad_norm" not in data["statistics"]
    assert data["summary"]["best_val_iter"] == run.best_evaluation.iter
    assert json.loads(dumps(plain(data))) == plain(data)
    text = show_text(run, 80)
    assert "mdlm (nelbo)" in text
    assert "1,234 parameters, on cpu" in text
    assert "learning_rate" not in text
    assert "learning_rate: 0.001" in show_text(run, 80, settings=True)


def test_show_says_why_a_run_failed_and_cannot_be_made_to_drive_the_terminal():
    run = make_run("\x1b[2Jname")
    run.events.append(EventRecord(event="failed", iter=3, message="loss is\nnan\x07"))
    text = show_text(run, 80)
    assert "failed (loss is nan\\x07)" in text
    assert not {"\x1b", "\x07"} & set(text)


def test_a_run_that_has_only_begun_can_be_listed_and_shown():
    run = make_run("bare", steps=0, evaluations=0)
    assert "bare" in list_text([run], 80)
    assert "0 steps" in show_text(run, 80)
    assert "bare" in summary_text([run], None, 80)


def test_show_says_on_what_and_how_a_run_was_trained():
    run = make_run()
    run.header.metadata.update(
        world_size=2, engine="fsdp2", sharding="full_shard", dtype="bfloat16", compile=True, device="cuda"
    )
    assert "2 processes, fsdp2, sharding full_shard, bfloat16, compiled" in show_text(run, 100)


def test_the_best_run_has_the_lowest_nll_and_says_where():
    runs = [make_run("a", final=2.0), make_run("b", final=1.5, bound="exact"), make_run("none", evaluations=0)]
    best = best_run(runs)
    assert (best["run_name"], best["metric"], best["iter"], best["compared"]) == ("b", "eval_nll", 100, 2)
    assert best_text(best).startswith("somewhere/b: eval_nll 1.5")
    assert best_text(best).endswith(
        "± 0.0100 at step 100 (exact), lowest of 2 runs; upper bounds and exact numbers are among them, and the model "
        "behind a bound may be better"
    )
    assert best_run(runs, "val_loss") == best


@pytest.mark.parametrize(
    ("metric", "winner"),
    [("eval_bpb", "a"), ("eval_accuracy", "a"), ("tokens_per_sec", "b"), ("time_ms", "b"), ("final_train_loss", "b")],
)
def test_best_knows_metrics_of_evaluations_steps_and_summary_and_which_are_better_high(metric, winner):
    fast = {"tokens_per_sec": np.full(100, 9000.0), "time_ms": np.full(100, 10.0)}
    runs = [make_run("a", final=2.0), make_run("b", final=1.5, columns=fast)]
    for record in runs[1].evaluations:
        record.metrics.update(eval_bpb=4.0, eval_accuracy=0.4)
    assert best_run(runs, metric)["run_name"] == winner


@pytest.mark.borders
def test_of_a_metric_that_is_not_ours_the_user_says_which_way_is_better():
    runs = [make_run("a"), make_run("b")]
    for run, value in zip(runs, (0.2, 0.9), strict=True):
        run.evaluations[-1].metrics["eval_f1"] = value
    for metric, why in (("eval_f1", "is not one of ours"), ("lr", "is neither better lower nor higher")):
        with pytest.raises(UserError, match=f"'{metric}' {why}; .* --direction lower or --direction higher"):
            best_run(runs, metric)
    assert best_run(runs, "eval_f1", "higher")["run_name"] == "b"
    assert best_text(best_run(runs, "eval_f1", "lower")).endswith("eval_f1 0.2 at step 100, lowest of 2 runs")


@pytest.mark.borders
def test_accuracies_of_two_tasks_are_not_ranked_without_a_word():
    runs = [make_run("a"), make_run("b", objective="ar", bound="exact")]
    assert best_run(runs, "eval_accuracy")["caveats"] == ["masked-token accuracy and next-token accuracy are two tasks"]
    assert best_run(runs[:1], "eval_accuracy")["caveats"] == []


def test_an_unknown_metric_is_refused_with_the_nearest_one():
    with pytest.raises(UserError, match="no run has the metric 'eval_acuracy'; did you mean 'eval_accuracy'"):
        best_run([make_run()], "eval_acuracy")


def test_the_summary_has_first_last_and_lowest_loss_and_the_last_epoch():
    loss = np.array([4.0, 1.0, 2.0, 3.0])
    run = make_run(steps=4, columns={"loss": loss, "epoch": np.array([0.5, 1.0, 1.5, 2.0])})
    (line,) = [line.split() for line in summary_text([run], ["MDLM"], 200).splitlines() if line.split()[:1] == ["MDLM"]]
    assert line[3:9] == ["4", "4.0000", "3.0000", "1.0000", "2", "2.5000"]


def test_a_run_that_was_killed_is_listed_as_dead_and_one_that_has_just_written_as_running(tmp_path):
    an_hour_ago = time.time() - 3600
    os.utime(write_run(tmp_path / "gone", ending="") / JOURNAL_NAME, (an_hour_ago, an_hour_ago))
    write_run(tmp_path / "alive", ending="")
    os.utime(write_run(tmp_path / "done") / JOURNAL_NAME, (an_hour_ago, an_hour_ago))
    runs = {name: load_run(tmp_path / name) for name in ("gone", "alive", "done")}
    rows = {row["run_name"]: (row["status"], row["killed"]) for row in list_rows(list(runs.values()))}
    assert rows == {"gone": ("running", True), "alive": ("running", False), "done": ("completed", False)}
    for name, run in runs.items():
        for text in (list_text([run], 80), show_text(run, 80), summary_text([run], None, 80)):
            assert bool(re.search(r"\bdead\b", text)) == (name == "gone")
