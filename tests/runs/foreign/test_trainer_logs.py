"""What every owner of a Trainer has: its state, dumps of its log, and what TRL and LLaMA-Factory write, number by number."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest

from hf_difflm.callbacks import RunLogCallback
from hf_difflm.errors import UserError
from hf_difflm.runs import compare_runs, load_run, load_runs
from hf_difflm.runs.comparing.best import best_run
from hf_difflm.runs.comparing.seeds import seed_groups
from hf_difflm.runs.derived.document import build_document, summarize
from hf_difflm.runs.journal.following import describe
from hf_difflm.runs.journal.reading import GrowingRun
from hf_difflm.runs.journal.schema import EvaluationRecord
from hf_difflm.runs.pages.html import write_html_report
from hf_difflm.runs.pages.markdown import write_report
from hf_difflm.runs.plots.evaluation import _best_note
from hf_difflm.runs.showing.overview import show_text

pytestmark = pytest.mark.borders


def losses(log):
    return [(row["step"], row["loss"]) for row in log if "loss" in row]


def evaluations(log):
    return [(row["step"], row["eval_loss"]) for row in log if "eval_loss" in row]


def assert_same(run, log):
    """The run says what the log says, number by number."""
    assert list(zip(run.column("iter").astype(int).tolist(), run.column("loss").tolist(), strict=True)) == losses(log)
    assert [(record.iter, record.metrics["eval_loss"]) for record in run.evaluations] == evaluations(log)
    training = [row for row in log if "loss" in row]
    for ours, theirs in (("lr", "learning_rate"), ("grad_norm", "grad_norm"), ("epoch", "epoch")):
        assert run.column(ours).tolist() == [row[theirs] for row in training]
    assert not np.isin(run.column("loss"), [row["train_loss"] for row in log if "train_loss" in row]).any()


def test_a_dump_of_log_history_keeps_its_evaluations_and_its_mean_is_no_last_loss(trained):
    out, log = trained
    run = load_run(out / "dump.json")
    assert_same(run, log)
    summary = summarize(run)
    assert summary["final_train_loss"] == losses(log)[-1][1]
    assert summary["best_val_loss"] == min(value for _, value in evaluations(log))
    (training,) = run.measurements
    assert training.metrics["train_loss"] == log[-1]["train_loss"]
    assert (run.status, run.loss_unit) == ("completed", "")


def test_a_dump_of_evaluations_alone_and_of_a_last_row_alone_are_read(trained, tmp_path):
    _, log = trained
    (tmp_path / "evaluations.json").write_text(json.dumps([row for row in log if "eval_loss" in row]))
    run = load_run(tmp_path / "evaluations.json")
    assert len(run.steps) == 0
    assert [record.nll for record in run.evaluations] == [value for _, value in evaluations(log)]
    (tmp_path / "last.json").write_text(json.dumps(log[-1:]))
    run = load_run(tmp_path / "last.json")
    assert len(run.steps) == 0
    assert run.measurements[0].metrics["train_loss"] == log[-1]["train_loss"]


def test_state_checkpoint_and_output_folder_are_one_run_named_after_the_folder(trained):
    out, log = trained
    upto = [row for row in log if "train_loss" not in row]
    for path in (out / "checkpoint-12" / "trainer_state.json", out / "checkpoint-12"):
        run = load_run(path)
        assert_same(run, upto)
        assert (run.name, run.status, run.config["max_steps"]) == ("my-output", "completed", 12)
    earlier = load_run(out / "checkpoint-8")
    assert_same(earlier, [row for row in upto if row["step"] <= 8])
    assert earlier.shown_status == "not said"


def test_of_an_output_folder_the_last_checkpoint_is_read_and_its_event_file_is_not_a_second_run(trained, tmp_path):
    out, log = trained
    shutil.copytree(out, tmp_path / "one", ignore=shutil.ignore_patterns("dump.json"))
    assert_same(load_run(tmp_path / "one"), [row for row in log if "train_loss" not in row])
    runs, problems = load_runs([tmp_path])
    assert ([run.path for run in runs], problems) == ([tmp_path / "one" / "checkpoint-12" / "trainer_state.json"], [])
    shutil.rmtree(tmp_path / "one" / "checkpoint-12")
    assert_same(load_run(tmp_path / "one"), [row for row in log if row["step"] <= 8])
    shutil.copy(out / "dump.json", tmp_path / "one" / "log_history.json")
    assert load_run(tmp_path / "one").path.name == "trainer_state.json"


def test_trl_keeps_the_names_of_its_own_quantities(foreign_logs):
    path = foreign_logs / "trl_sft_trainer_state.json"
    log = json.loads(path.read_text())["log_history"]
    run = load_run(path)
    assert_same(run, log)
    for name in ("entropy", "mean_token_accuracy", "num_tokens"):
        assert run.column(name).tolist() == [row[name] for row in log if "loss" in row]
    name = "eval_entropy"
    assert [record.metrics[name] for record in run.evaluations] == [row[name] for row in log if name in row]
    with pytest.raises(UserError, match="is not one of ours; say which run is the best by it"):
        best_run([run], name)
    assert best_run([run], name, "higher")["value"] == max(row.get(name, 0) for row in log)


def test_llama_factory_says_the_same_as_the_state_of_its_trainer(foreign_logs, tmp_path):
    run = load_run(foreign_logs / "trainer_log.jsonl")
    log = json.loads((foreign_logs / "llama_factory_trainer_state.json").read_text())["log_history"]
    assert list(zip(run.column("iter").tolist(), run.column("loss").tolist(), strict=True)) == losses(log)
    assert [(record.iter, record.nll) for record in run.evaluations] == evaluations(log)
    assert run.column("lr").tolist() == [row["learning_rate"] for row in log if "loss" in row]
    lines = [json.loads(line) for line in (foreign_logs / "trainer_log.jsonl").read_text().splitlines()]
    for name in ("throughput", "total_tokens"):
        assert run.column(name).tolist() == [line[name] for line in lines if "loss" in line]
    assert (run.status, run.config) == ("completed", {"max_steps": 12})
    assert np.isnan(run.column("accuracy")).all()
    preferences = tmp_path / "trainer_log.jsonl"
    preferences.write_text('{"current_steps": 2, "total_steps": 9, "loss": 0.7, "accuracy": 0.75, "epoch": 1.0}\n')
    run = load_run(preferences)
    assert run.column("rewards/accuracies").tolist() == [0.75]
    assert (run.name, run.shown_status) == (tmp_path.name, "not said")


def test_a_loss_that_was_nan_is_told_from_one_that_was_not_logged(tmp_path):
    log = [
        {"step": 1, "loss": math.nan, "grad_norm": math.inf},
        {"step": 2, "loss": 1.0},
        {"step": 2, "eval_loss": math.nan},
    ]
    for content in (json.dumps(log), json.dumps({"log_history": log, "global_step": 2})):
        (tmp_path / "a.json").write_text(content)
        run = load_run(tmp_path / "a.json")
        assert [(row.loss, row.nonfinite) for row in run.steps] == [(None, ["loss", "grad_norm"]), (1.0, [])]
        assert (run.evaluations[0].nll, run.evaluations[0].nonfinite) == (None, ["metrics.eval_loss"])
        assert json.dumps(build_document(run), allow_nan=False)


def test_several_evaluation_sets_and_text_in_an_evaluation_are_kept(tmp_path):
    log = [
        {"step": 4, "loss": 2.0},
        {"step": 4, "eval_wiki_loss": 1.5, "eval_bound": "nelbo"},
        {"step": 4, "eval_code_loss": 1.0},
        {"step": 4, "my_own": 3.0},
    ]
    (tmp_path / "a.json").write_text(json.dumps(log))
    run = load_run(tmp_path / "a.json")
    (record,) = run.evaluations
    kept = {"eval_wiki_loss": 1.5, "eval_bound": "nelbo", "eval_code_loss": 1.0}
    assert record.metrics == {**kept, "eval_loss": 1.5}, "the first set stands for the run"
    assert list(run.steps.rows()) == [{"iter": 4, "steps": 4, "loss": 2.0, "my_own": 3.0}]


def test_a_training_that_was_taken_up_again_supersedes_what_it_had_logged(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    steps = [2, 4, 6, 8, 6, 8, 10]
    path.write_text("".join(json.dumps({"step": step, "loss": 9.0 - place}) + "\n" for place, step in enumerate(steps)))
    run = load_run(path)
    assert run.column("iter").tolist() == [2, 4, 6, 8, 10]
    assert run.column("loss").tolist() == [9.0, 8.0, 5.0, 4.0, 3.0]
    assert "2 rows that it had logged before are left out" in caplog.text


def test_runs_of_a_trainer_and_ours_are_compared_without_a_unit(trained, write_run):
    state = load_run(trained[0] / "checkpoint-12")
    table = compare_runs([state, write_run(objective="ar", bound="exact")])
    assert table.unit == ""
    words = "objective, data and size may differ: the log of a, b does not tell them"
    assert words in compare_runs([state, state], ["a", "b"]).to_text(200)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", '{"log_history": [], "global_step": 3}', "its log_history is empty at step 3"),
        ("a.json", '[{"batch": 1, "loss": 2.0}]', "trainer_state.json, a dump of log_history"),
        ("a.jsonl", '{"messages": []}\n{"messages": []}\n', "none of iter, step, global_step, iteration"),
        ("a.jsonl", '{"step": 1}\n', "no scalar was logged"),
        ("a.jsonl", '{"step": 1, "loss": "low"}\n', "loss must be a number, not 'low'"),
        ("a.jsonl", '{"step": 1, "loss": 1}\n{"loss": 1}\n', "a step must be an integer, not None"),
        ("a.bin", "\x00\x01\x02", "found neither text nor a file of TensorBoard or W&B"),
        ("notes.txt", "hello\nthere\n", "TensorBoard event files, *.wandb files, and JSON or CSV of rows with a step"),
    ],
)
def test_another_shape_is_refused_in_one_sentence_that_says_which_are_known(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as error:
        load_run(tmp_path / name)
    assert words in str(error.value)
    assert "trainer_log.jsonl" in str(error.value) or "run folder" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def two_sets(make, tmp_path_factory):
    """The output folder of a stock Trainer with two evaluation sets, TensorBoard and our run log."""
    from transformers import Trainer, TrainingArguments

    out = tmp_path_factory.mktemp("stock") / "two-sets"
    arguments = make.arguments(TrainingArguments, output_dir=str(out), report_to=["tensorboard"])
    sets = {"b": make.rows(8), "a": make.rows(4)}
    trainer = Trainer(
        make.tiny_model(),
        arguments,
        train_dataset=make.rows(32),
        eval_dataset=sets,
        callbacks=[RunLogCallback(log_dir=out / "ours")],
    )
    trainer.train()
    return out, [row["eval_b_loss"] for row in trainer.state.log_history if "eval_b_loss" in row]


def test_of_several_evaluation_sets_the_first_stands_for_the_run_and_is_named(two_sets, tmp_path):
    out, losses = two_sets
    for path in (out, out / "runs", out / "ours"):
        run = load_run(path)
        assert [record.nll for record in run.evaluations] == pytest.approx(losses)
        assert run.best_evaluation.nll == pytest.approx(min(losses))
        note = "its evaluations are of b, the first of the sets b, a"
        assert f"eval_loss {min(losses):.4f} at step" in show_text(run, 120)
        assert note in show_text(run, 120)
        assert f"Of {run.name}: {note}." in compare_runs([run]).notes()
        page = write_report([run], tmp_path / "page.md")[0].read_text()
        assert "No evaluation was logged" not in page
        assert f"\n\n{note.capitalize()}.\n\n" in page
        assert note in write_html_report([run], tmp_path / "page.html").read_text()
        assert best_run([run], "eval_a_loss", "lower")["value"] != best_run([run])["value"] == run.best_evaluation.nll
        assert "eval_accuracy" not in run.evaluations[0].metrics
    path = tmp_path / "journal.jsonl"
    lines = (out / "ours" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]))
    growing = GrowingRun(path)
    growing.read()
    path.write_bytes(b"".join(lines))
    assert growing.read()[0].headline_note == note
    lines = [describe(record) for record in load_run(out).evaluations]
    assert len(lines) == len(losses)
    alone = EvaluationRecord(iter=4, metrics={"eval_a_loss": 1.5, "eval_a_runtime": 1.0})
    assert describe(alone) == "eval       4  eval_a_loss 1.5000"


def test_the_picture_of_milestones_names_the_set_and_evaluations_without_a_loss(two_sets):
    run = load_run(two_sets[0])
    (group,) = seed_groups([run], ["x"])
    assert _best_note(group) == f"best {min(two_sets[1]):.4f} of b"
    for record in run.evaluations:
        record.metrics = {"eval_f1": 0.5}
    assert _best_note(group) == "no evaluation has a loss"
