"""Logs of other programs load into the same runs: flat losses, lists of metrics, documents; whole or cut off."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_difflm.errors import UserError
from hf_difflm.runs import compare_runs, load_run, load_runs
from hf_difflm.runs.derived.document import build_document
from hf_difflm.runs.derived.metrics import build_metrics
from hf_difflm.runs.foreign.partial_json import salvage

LOSSES = {
    "model_type": "MDLM",
    "experiment_name": "mdlm_wikitext_20241222_120000",
    "start_time": "2024-12-22T12:00:00",
    "end_time": "2024-12-22T16:30:00",
    "epochs": [1, 2, 3, 4, 5],
    "epoch_losses": [3.45, 2.89, 2.34, 2.01, 1.87],
    "steps": [1, 2, 3],
    "step_losses": [3.52, 3.48, 3.45],
}
STEP_LOSSES = {name: value for name, value in LOSSES.items() if "epoch" not in name}  # cut off, it would be the epochs
HISTORY = [
    {
        "step": step,
        "loss": 4.0 / step,
        "accuracy": 0.1 * step,
        "tokens_per_sec": 1000.0,
        "gpu_memory_mb": 0.0,
        "learning_rate": 3e-4,
        "timestamp": 1700000000.0 + step,
    }
    for step in (1, 2, 3)
]
DOCUMENT = {
    "run_name": "run_20231031_162345",
    "start_time": "2023-10-31T16:23:45.123456",
    "end_time": "2023-10-31T16:45:12.789012",
    "config": {"learning_rate": 0.0006, "batch_size": 12},
    "training_iterations": [
        {"iter": 0, "loss": 11.0049, "time_ms": 19130.8, "mfu": -100.0},
        {"iter": 1, "loss": 10.9733, "time_ms": 3978.64, "mfu": 32.87},
    ],
    "eval_steps": [
        {"iter": 0, "train_loss": 11.004, "val_loss": 10.9977, "lr": 0.0006, "timestamp": "..."},
        {"iter": 50, "train_loss": 8.358, "val_loss": 8.2892, "lr": 0.0005, "timestamp": "..."},
    ],
    "checkpoints": [{"iter": 50, "val_loss": 8.2892, "path": "out/ckpt.pt", "timestamp": "..."}],
    "metadata": {"world_size": 1, "device": "cuda", "dtype": "bfloat16", "compile": False, "use_zero1": False},
    "summary": {"total_iterations": 101, "best_val_loss": 7.1189},
}


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value, indent=2))
    return path


def test_a_file_of_losses_is_a_run_with_its_name_kind_and_steps(tmp_path):
    run = load_run(write(tmp_path / "mdlm_wikitext_metrics.json", LOSSES))
    assert (run.name, run.objective, run.status) == ("mdlm_wikitext_20241222_120000", "mdlm", "completed")
    assert (run.start_time, run.end_time) == (LOSSES["start_time"], LOSSES["end_time"])
    assert run.column("iter").tolist() == [1, 2, 3]
    assert run.column("loss").tolist() == [3.52, 3.48, 3.45]
    metrics = build_metrics(run)
    assert {name: metrics[name] for name in LOSSES} == LOSSES


def test_a_file_of_epoch_losses_alone_has_a_row_an_epoch(tmp_path):
    run = load_run(write(tmp_path / "a.json", {**LOSSES, "steps": [], "step_losses": []}))
    assert run.column("epoch").tolist() == [1, 2, 3, 4, 5]
    assert run.column("loss").tolist() == LOSSES["epoch_losses"]


@pytest.mark.parametrize(
    "value",
    [
        HISTORY,
        {"metrics": HISTORY},
        {"metrics_history": HISTORY, "other": 1},
        {name: [row[name] for row in HISTORY] for name in HISTORY[0]},
        [{"global_step": row["step"], "train_loss": row["loss"], **row, "step": row["step"]} for row in HISTORY],
    ],
)
def test_a_history_of_metrics_loads_in_each_of_its_shapes(tmp_path, value):
    run = load_run(write(tmp_path / "metrics_history.json", value))
    assert run.name == "metrics_history"
    assert run.column("iter").tolist() == [1, 2, 3]
    assert run.column("loss").tolist() == [4.0, 2.0, pytest.approx(4 / 3)]
    assert run.column("lr").tolist() == [3e-4] * 3
    assert run.column("gpu_memory_mb").tolist() == [0.0] * 3
    assert run.start_time == "2023-11-14T22:13:21.000+00:00"


def test_a_document_of_another_program_keeps_its_numbers_and_loses_its_sentinel(tmp_path):
    run = load_run(write(tmp_path / "run.json", DOCUMENT))
    assert np.isnan(run.column("mfu")).tolist() == [True, False]
    document = build_document(run)
    assert document["summary"]["best_val_loss"] == 8.2892
    assert document["summary"]["best_val_iter"] == 50
    assert [(row["train_loss"], row["lr"]) for row in document["eval_steps"]] == [(11.004, 0.0006), (8.358, 0.0005)]
    assert document["checkpoints"][0]["path"] == "out/ckpt.pt"
    assert run.status == "completed"


def test_nan_in_a_document_is_unknown(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(DOCUMENT).replace("10.9733", "NaN").replace("3978.64", "-Infinity"))
    run = load_run(path)
    assert [step.loss for step in run.steps] == [11.0049, None]
    assert json.dumps(build_document(run), allow_nan=False)


@settings(deadline=None, max_examples=60)
@given(share=st.floats(0, 1), value=st.sampled_from([DOCUMENT, STEP_LOSSES, HISTORY]))
def test_a_file_cut_off_anywhere_is_a_sentence_or_the_rows_before_the_cut(tmp_path_factory, share, value):
    path = tmp_path_factory.mktemp("cut") / "log.json"
    whole = json.dumps(value)
    path.write_text(whole[: int(share * len(whole))])
    runs, problems = load_runs([path])
    assert len(runs) + len(problems) == 1
    assert all("log.json" in problem for problem in problems)
    if not runs:
        return
    (run,) = runs
    expected = load_run(write(path, value))
    assert list(run.steps) == list(expected.steps)[: len(run.steps)]
    assert compare_runs([run]).to_text()
    assert json.dumps(build_document(run), allow_nan=False)


def test_a_document_cut_off_in_its_rows_keeps_those_that_are_whole_and_warns(tmp_path, caplog):
    whole = json.dumps(DOCUMENT)
    path = tmp_path / "run.json"
    path.write_text(whole[: whole.index('"mfu": 32.87')])
    run = load_run(path)
    assert [step.loss for step in run.steps] == [11.0049]
    assert run.status == "completed"
    assert "is cut off" in caplog.text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
        max_leaves=12,
    ),
    st.floats(0, 1),
)
def test_what_is_salvaged_is_a_part_of_the_whole(value, share):
    text = json.dumps(value)
    assert salvage(text + " ") == value
    assert part_of(salvage(text[: int(share * len(text))]), value)


def part_of(part: object, whole: object) -> bool:
    if part is None:
        return True
    if isinstance(part, list) and isinstance(whole, list):
        return part == whole[: len(part)]
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and part_of(value, whole[key]) for key, value in part.items())
    return part == whole


def test_a_number_at_the_cut_is_not_taken_for_whole():
    assert salvage('{"a": [1, 23') == {"a": [1]}
    assert salvage('{"a": 12') == {}


def test_nesting_without_end_is_refused_with_a_sentence(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="is not valid JSON"):
        load_run(path)


@pytest.mark.parametrize(
    "value",
    [
        {"steps": [1, "x"], "step_losses": [1.0, 2.0]},
        {"steps": 5, "step_losses": [1.0]},
        [{"step": 1, "loss": "high"}],
        [{"step": 1.5, "loss": 1.0}],
        [{"loss": 1.0}],
        {"log_history": 3},
        {"run_name": "x", "training_iterations": [], "samples": [3]},
    ],
)
def test_another_programs_json_is_refused_with_a_sentence(tmp_path, value):
    path = write(tmp_path / "other.json", value)
    with pytest.raises(UserError, match="is not the log of a run") as error:
        load_run(path)
    assert "\n" not in str(error.value)
