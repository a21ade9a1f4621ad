from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_difflm.errors import UserError
from hf_difflm.runs import (
    Run,
    compare_runs,
    load_run,
    plot_comparison,
    plot_runs,
    write_html_report,
    write_report,
)
from hf_difflm.runs.derived.document import build_document
from hf_difflm.runs.derived.rebuild import write_derived


def test_folder_journal_and_document_give_the_same_run(write_run):
    run = write_run(objective="ar", bound="exact", config={"a": 1})
    document, _ = write_derived(run.path)
    alone = run.path.parent / "alone"
    alone.mkdir()
    shutil.copy(document, alone)
    expected = build_document(run)
    for path in (run.path.parent, run.path, document, alone, str(alone)):
        assert build_document(load_run(path)) == expected


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.0, 1.0))
def test_a_journal_cut_anywhere_after_its_header_is_a_run(write_run, share):
    run = write_run()
    whole = run.path.read_bytes()
    header = whole.index(b"\n")
    cut = header + round(share * (len(whole) - header))
    run.path.write_bytes(whole[:cut])
    partial = load_run(run.path)
    assert partial.name == "demo"
    assert [step.iter for step in partial.steps] == list(range(1, len(partial.steps) + 1))
    assert json.dumps(build_document(partial), allow_nan=False)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=300)
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(lambda x: json.dumps(x).encode())
)
@pytest.mark.parametrize("name", ["journal.jsonl", "other.json"])
def test_whatever_is_not_a_run_is_refused_with_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        load_run(tmp_path / name)
    assert name in str(error.value)
    assert str(error.value).count("\n") == 0


@pytest.mark.parametrize(
    "document",
    [
        {"run_name": "a", "training_iterations": 5},
        {"run_name": "a", "training_iterations": [3]},
        {"run_name": "a", "training_iterations": [{"loss": 1.0}]},
        {"run_name": "a", "training_iterations": [], "eval_steps": [{"iter": "x"}]},
    ],
)
def test_a_document_with_rows_of_another_kind_is_refused(tmp_path, document):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match="is not the log of a run"):
        load_run(path)


def test_a_missing_path_an_empty_folder_and_a_folder_of_runs_say_what_was_found(tmp_path, write_run):
    with pytest.raises(UserError, match="there is no run at"):
        load_run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="found an empty folder"):
        load_run(tmp_path / "empty")
    write_run("one"), write_run("two")
    with pytest.raises(UserError, match="holds the runs one, two"):
        load_run(tmp_path)


def test_a_partial_log_of_the_same_layout_by_another_program_loads(tmp_path):
    path = tmp_path / "run_20231031_162345.json"
    document = {
        "run_name": "run_20231031_162345",
        "start_time": "2023-10-31T16:23:45.123456",
        "end_time": None,
        "config": {"learning_rate": 0.0006},
        "training_iterations": [
            {"iter": 0, "loss": 11.0049, "time_ms": 19130.8, "mfu": -100.0},
            {"iter": 1, "loss": 10.9733, "time_ms": 3978.64, "mfu": 32.0},
        ],
        "eval_steps": [{"iter": 0, "train_loss": 11.004, "val_loss": 10.9977, "lr": 0.0006, "timestamp": "..."}],
        "metadata": {"world_size": 1},
    }
    path.write_text(json.dumps(document))
    run = load_run(tmp_path)
    assert run.status == "running"
    assert [step.mfu for step in run.steps] == [None, 32.0]
    assert run.best_evaluation is not None
    assert run.best_evaluation.nll == 10.9977
    path.write_text(json.dumps({**document, "end_time": "2023-10-31T16:45:12.789012"}))
    assert load_run(path).status == "completed"


def test_columns_hold_nan_where_a_value_is_unknown(write_run):
    run: Run = write_run(steps=3)
    assert np.array_equal(run.column("iter"), [1.0, 2.0, 3.0])
    assert np.isnan(run.column("mfu")).all()
    assert run.tokens_per_sec == pytest.approx(1000.0)
    assert run.tokens_seen == 150


@pytest.mark.borders
def test_from_python_paths_stand_for_the_runs_that_are_there(write_run, tmp_path):
    runs = [write_run("a"), write_run("b", config={"seed": 2})]
    paths = [str(runs[0].path), runs[1].path.parent]
    assert compare_runs(paths).to_markdown() == compare_runs(runs).to_markdown()
    assert plot_runs(paths, tmp_path / "plots", ["validation"]).paths
    assert plot_comparison(paths, tmp_path / "both.png").exists()
    assert write_report(paths, tmp_path / "page.md")[0].read_text().count("| a |") == 1
    assert write_html_report(paths, tmp_path / "page.html").exists()
    assert compare_runs(str(runs[0].path)).rows[0].run == "a"
    with pytest.raises(UserError, match="there is no run at 'nowhere'"):
        compare_runs([runs[0], "nowhere"])
