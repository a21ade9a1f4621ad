from __future__ import annotations

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_difflm.runs import Journal, load_run
from hf_difflm.runs.derived.document import build_document, summarize
from hf_difflm.runs.derived.rebuild import DerivedWriter, write_derived
from hf_difflm.runs.journal.atomic_files import document_name, replacing
from hf_difflm.runs.journal.schema import EvaluationRecord, EventRecord, RunRecord, StepRecord

SUMMARY = set(
    [
        "total_iterations",
        "final_iter",
        "final_train_loss",
        "best_val_loss",
        "best_val_iter",
        "final_val_loss",
        "avg_time_ms",
        "avg_mfu",
        "total_eval_steps",
        "total_checkpoints",
        "tokens_seen",
        "train_seconds",
    ]
)


def test_the_document_has_every_key_of_the_schema_and_its_numbers_follow_from_the_journal(write_run):
    run = write_run(steps=20, evaluate_every=10, config={"learning_rate": 1e-3})
    document = build_document(run)
    for key in [
        "run_name",
        "start_time",
        "end_time",
        "status",
        "config",
        "training_iterations",
        "eval_steps",
        "checkpoints",
        "metadata",
        "summary",
    ]:
        assert key in document
    assert document["status"] == "completed"
    assert list(document["training_iterations"][0])[:1] == ["iter"]
    keys = [
        "iter",
        "loss",
        "time_ms",
        "mfu",
        "lr",
        "grad_norm",
        "tokens_per_sec",
        "accuracy",
        "noise_level",
        "masking_rate",
    ]
    assert all(set(keys) <= set(row) for row in document["training_iterations"])
    first, second = document["eval_steps"]
    losses = [row["loss"] for row in document["training_iterations"]]
    assert first["train_loss"] == pytest.approx(sum(losses[:10]) / 10)
    assert second["train_loss"] == pytest.approx(sum(losses[10:]) / 10)
    assert second["val_loss"] == second["eval_nll"]
    assert second["val_loss_stderr"] == 0.01
    assert second["lr"] == 1e-3
    summary = document["summary"]
    assert set(summary) == SUMMARY
    assert summary["total_iterations"] == summary["final_iter"] == 20
    assert summary["final_train_loss"] == losses[-1]
    assert summary["best_val_iter"] == 20
    assert summary["avg_time_ms"] == pytest.approx(50.0)
    assert summary["train_seconds"] == pytest.approx(1.0)
    assert summary["tokens_seen"] == 1000
    assert summary["avg_mfu"] is None


def test_the_best_evaluation_is_the_lowest_with_its_step_and_not_the_last(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(RunRecord(run_name="a"))
    for step, nll in enumerate([3.0, 1.0, float("nan"), 2.0], start=1):
        journal.append(EvaluationRecord(iter=step, metrics={"eval_nll": nll}))
    run = load_run(tmp_path)
    summary = summarize(run)
    assert (summary["best_val_loss"], summary["best_val_iter"], summary["final_val_loss"]) == (1.0, 2, 2.0)
    assert run.final_evaluation is not None
    assert run.final_evaluation.iter == 4


def test_rows_of_several_steps_count_as_many_in_means_and_sums(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(RunRecord(run_name="a"))
    journal.append(StepRecord(iter=10, steps=10, loss=2.0, time_ms=100.0, mfu=10.0))
    journal.append(StepRecord(iter=12, steps=2, loss=8.0, time_ms=400.0, mfu=40.0))
    journal.append(EvaluationRecord(iter=12, metrics={"eval_nll": 1.0}))
    document = build_document(load_run(tmp_path))
    assert document["eval_steps"][0]["train_loss"] == pytest.approx(3.0)
    assert document["summary"]["total_iterations"] == 12
    assert document["summary"]["avg_time_ms"] == pytest.approx(150.0)
    assert document["summary"]["avg_mfu"] == pytest.approx(15.0)
    assert document["summary"]["train_seconds"] == pytest.approx(1.8)


def test_a_run_that_has_only_begun_has_a_whole_document(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(RunRecord(run_name="a"))
    document = build_document(load_run(tmp_path))
    assert document["status"] == "running"
    assert document["end_time"] is None
    assert set(document["summary"]) == SUMMARY
    assert document["summary"]["best_val_loss"] is None


@given(
    first=st.integers(1, 30),
    resumed_from=st.integers(0, 30),
    second=st.integers(0, 30),
    every=st.integers(1, 7),
)
def test_a_resumed_run_has_each_step_once_and_the_later_attempt_wins(
    tmp_path_factory, first, resumed_from, second, every
):
    resumed_from = min(resumed_from, first)
    folder = tmp_path_factory.mktemp("resumed")
    journal = Journal(folder / "journal.jsonl")

    def attempt(number: int, begin: int, end: int) -> None:
        journal.append(RunRecord(run_name="a", run_id="same", config={"attempt": number}))
        event = EventRecord(event="resumed", resumed_from_step=begin) if number else EventRecord(event="started")
        journal.append(event)
        for step in range(begin + 1, end + 1):
            journal.append(StepRecord(iter=step, loss=float(number)))
            if step % every == 0:
                journal.append(EvaluationRecord(iter=step, metrics={"eval_nll": float(number)}))

    attempt(0, 0, first)
    attempt(1, resumed_from, resumed_from + second)
    journal.close()
    run = load_run(folder)
    assert [step.iter for step in run.steps] == list(range(1, resumed_from + second + 1))
    assert all(step.loss == (0.0 if step.iter <= resumed_from else 1.0) for step in run.steps)
    assert [e.iter for e in run.evaluations] == [s for s in range(1, resumed_from + second + 1) if s % every == 0]
    assert run.config == {"attempt": 1}
    assert run.status == "running"


@pytest.mark.parametrize("ending", ["completed", "interrupted", "failed"])
def test_the_status_is_what_the_last_event_says(write_run, ending):
    run = write_run(ending=ending)
    assert run.status == ending
    assert run.end_time is not None


def test_the_document_file_reads_back_as_the_same_run(write_run):
    run = write_run(bound="nelbo", objective="mdlm", data={"source_nll": 1.5}, model={"parameters": 7})
    path, _ = write_derived(run.path)
    assert path.name == "demo.json"
    again = load_run(path)
    assert build_document(again) == build_document(run)
    assert again.source_nll == 1.5


def test_readers_never_see_a_partial_document(write_run):
    run = write_run(steps=200)
    path, _ = write_derived(run.path)
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            write_derived(run.path)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(100):
            assert json.loads(path.read_bytes())["summary"]["final_iter"] == 200
    finally:
        stop.set()
        writer.join()
    assert sorted(file.name for file in path.parent.iterdir()) == ["demo.json", "demo_metrics.json", "journal.jsonl"]


def test_a_failed_replacement_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_document_is_rebuilt_on_request_but_rests_after_a_slow_rebuild(write_run):
    run = write_run(ending="")
    path = run.path.with_name("demo.json")
    writer = DerivedWriter(run.path)
    assert writer.write_if_due()
    path.unlink()
    assert not writer.write_if_due()  # the last rebuild was just now
    assert not path.exists()
    writer._not_before = 0.0  # a rested writer
    assert writer.write_if_due()
    assert path.exists()


@given(st.text(max_size=300))
def test_any_run_name_gives_one_plain_file_name(name):
    found = document_name(name)
    assert found.endswith(".json")
    assert found.isascii()
    assert not set(found) & set('/\\:*?"<>|\0\n')
    assert not found.startswith(".")
    assert len(found) <= 130


def test_a_document_never_takes_the_name_of_a_file_of_transformers():
    assert document_name("config") == "config_run.json"
    assert document_name("demo-mdlm") == "demo-mdlm.json"


def test_a_document_that_grows_with_its_journal_is_the_one_built_from_the_whole(tmp_path):
    """Only what is new is read and rendered; a resume, which takes steps back, is read whole."""
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(RunRecord(run_name="grows", run_id="1"))
    writer = DerivedWriter(journal.path)
    for step in range(1, 30):
        journal.append(StepRecord(iter=step if step < 20 else step - 10, loss=1 / step, extra={"x": step}))
        if step % 4 == 0:
            journal.append(EvaluationRecord(iter=step, metrics={"eval_nll": 2.0}))
        if step == 19:
            journal.append(RunRecord(run_name="grows", run_id="1", config={"attempt": 2}))
            journal.append(EventRecord(event="resumed", resumed_from_step=9))
        if step % 3 == 0:
            writer.write()
            grown = [path.read_text() for path in tmp_path.glob("grows*.json")]
            write_derived(journal.path)
            assert [path.read_text() for path in tmp_path.glob("grows*.json")] == grown
            assert json.loads(grown[0])
    journal.clear()
    journal.append(RunRecord(run_name="grows", run_id="2"))
    writer.write()
    assert json.loads((tmp_path / "grows.json").read_text())["training_iterations"] == []
