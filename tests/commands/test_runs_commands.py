"""``runs ...``: every recipe people had for their logs is one command, readable at 80 columns and by programs."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from made_runs import write_run

from hf_difflm.runs import Journal
from hf_difflm.runs.journal.schema import EventRecord, StepRecord


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def two(tmp_path):
    """``runs/mdlm`` and ``runs/ar``, the default place."""
    write_run(tmp_path / "runs" / "mdlm", "demo-mdlm", objective="mdlm", bound="nelbo")
    write_run(tmp_path / "runs" / "ar", "demo-ar", objective="ar", bound="exact", final=1.5)
    return tmp_path / "runs"


def _json(result):
    assert result.code == 0, result.err
    return json.loads(result.out)


@pytest.mark.parametrize(
    "where", [[], ["runs"], ["runs/*"], ["runs/mdlm", "runs/ar/journal.jsonl"], ["runs", "runs/ar"]]
)
def test_list_takes_folders_files_and_globs_mixed_and_each_run_once(hf, two, where):
    assert {row["run_name"] for row in _json(hf("runs", "list", *where, "--json"))} == {"demo-mdlm", "demo-ar"}
    text = hf("runs", "list", *where)
    assert (text.code, text.err) == (0, "")
    assert max(map(len, text.out.splitlines())) <= 80
    assert len([line for line in text.out.splitlines() if "completed" in line]) == 2


def test_show_prints_the_summary_for_people_and_programs(hf, two):
    data = _json(hf("runs", "show", "runs/mdlm", "--json"))
    assert data["summary"]["total_iterations"] == 20
    assert data["summary"]["final_train_loss"] == data["statistics"]["loss"]["last"]
    text = hf("runs", "show", "runs/mdlm").out
    assert "demo-mdlm" in text
    assert "learning_rate" in hf("runs", "show", "runs/mdlm", "--settings").out


def test_compare_names_the_setting_that_differs_and_best_names_the_best(hf, two, tmp_path):
    write_run(tmp_path / "runs" / "other", objective="ar", config={"learning_rate": 5e-3, "seed": 1})
    text = hf("runs", "compare", "runs")
    assert text.code == 0
    assert "learning_rate: 0.001 / 0.001 / 0.005" in text.out
    assert all(len(line) <= 80 for line in text.out.splitlines() if "─" in line or "±" in line)
    data = _json(hf("runs", "compare", "runs/mdlm", "runs/other", "--json"))
    assert data["differences"] == {"learning_rate": [0.001, 0.005]}
    assert hf("runs", "best").out.startswith("runs/ar: eval_nll 1.9")
    assert _json(hf("runs", "best", "runs", "--metric", "eval_accuracy", "--json"))["path"] == "runs/ar"


def test_tail_prints_the_last_records_and_as_json_the_lines_of_the_journal(hf, two):
    lines = hf("runs", "tail", "runs/mdlm", "-n", "3").out.splitlines()
    assert [line.split()[0] for line in lines] == ["eval", "text", "completed"]
    raw = hf("runs", "tail", "runs/mdlm", "--json", "--lines", "2").out
    assert raw == "".join((two / "mdlm" / "journal.jsonl").read_text().splitlines(keepends=True)[-2:])
    assert hf("runs", "tail", "runs/mdlm", "-f", "-n", "0").out == ""  # it has ended, so there is nothing to wait for


def test_tail_follows_a_run_to_its_end(hf, tmp_path):
    folder = write_run(tmp_path / "live", steps=2, ending="")
    journal = Journal(folder / "journal.jsonl")

    def go_on() -> None:
        journal.append(StepRecord(iter=3, loss=1.0))
        journal.append(EventRecord(event="completed", iter=3))

    writer = threading.Timer(0.3, go_on)
    writer.start()
    result = hf("runs", "tail", folder, "--follow", "--lines", "1")
    writer.join()
    assert result.out.splitlines() == [
        "step       2  loss 4.4562  2,000 tok/s",
        "step       3  loss 1.0000",
        "completed at step 3",
    ]


def test_ctrl_c_ends_following_without_a_traceback(tmp_path, start):
    folder = write_run(tmp_path / "live", steps=2, ending="")
    process = start("runs", "tail", folder, "-f")
    assert "run live" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, "interrupted\n")


def test_export_to_stdout_and_to_a_file_is_the_same(hf, two, tmp_path):
    for table, rows in (("steps", 20), ("evaluations", 2), ("summary", 1)):
        shown = hf("runs", "export", "runs/mdlm", "--format", "csv", "--table", table)
        assert len(list(csv.DictReader(io.StringIO(shown.out)))) == rows
        kept = hf("runs", "export", "runs/mdlm", "--format", "csv", "--table", table, "--output", "out/table.csv")
        assert kept.out == "out/table.csv\n"
        assert (tmp_path / "out" / "table.csv").read_text() == shown.out
    assert hf("runs", "export", "runs", "--format", "markdown").out.startswith("| Run | Status |")
    assert len(_json(hf("runs", "export", "runs", "--format", "json"))) == 2


def test_the_table_of_a_paper_is_alone_on_stdout_and_what_differs_is_said_beside_it(hf, two):
    latex = hf("runs", "export", "runs", "--format", "latex")
    assert latex.code == 0
    assert latex.out.startswith("% \\usepackage{booktabs}\n")
    assert "demo-mdlm & mdlm & 2,000 & $\\le 2." in latex.out
    assert "Fairness:" in latex.err
    markdown = hf("runs", "export", "runs", "--format", "markdown", "--table", "results")
    assert "| demo-mdlm | mdlm |" in markdown.out
    assert "Fairness:" not in markdown.out
    assert markdown.err == latex.err


def test_the_list_marks_bounds_and_has_errors_where_there_is_room(hf, two, monkeypatch):
    assert "± se" not in hf("runs", "list").out
    monkeypatch.setenv("COLUMNS", "120")
    lines = hf("runs", "list").out.splitlines()
    assert "best eval ± se" in lines[0]
    (bound,) = [line for line in lines if "runs/mdlm" in line]
    (row,) = [row for row in _json(hf("runs", "list", "--json")) if row["run_name"] == "demo-mdlm"]
    assert f"≤ {row['best_val_loss']:.4f} ± {row['best_val_loss_stderr']:.4f}" in bound
    assert row["bound"] == "nelbo"
    assert sum("≤" in line for line in lines) == 1


def test_export_to_tensorboard_writes_a_folder_a_run_and_says_how_to_look_at_it(hf, two, tmp_path):
    result = hf("runs", "export", "runs", "--format", "tensorboard", "--output", "tb")
    assert result.out.splitlines() == ["tb/demo-ar", "tb/demo-mdlm"]
    assert "tensorboard --logdir tb" in result.err
    assert len(list(tmp_path.glob("tb/*/*tfevents*"))) == 2


def test_recover_rebuilds_the_document_of_a_run_that_was_killed(hf, tmp_path):
    folder = write_run(tmp_path / "killed", ending="")
    with (folder / "journal.jsonl").open("a") as journal:
        journal.write('{"type": "step", "it')
    paths = hf("runs", "recover", folder).out.splitlines()
    documents = [json.loads((tmp_path / path).read_text()) for path in paths]
    assert documents[0]["status"] == "running"
    assert len(documents[0]["training_iterations"]) == 20


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["list"], "there is no folder 'runs' here"),
        (["list", "nowhere"], "there is no run at 'nowhere'"),
        (["list", "empty"], "holds no run (found an empty folder)"),
        (["show", "other.json"], "is not the log of a run"),
        (["show", "broken.json"], "broken.json"),
        (["tail", "empty"], "there is no journal at 'empty'"),
        (["recover", "empty"], "there is no journal at 'empty'"),
        (["export", "good", "--format", "xml"], "--format 'xml' is unknown"),
        (["export", "good", "--format", "wandb"], "name it with --output"),
        (["export", "good", "--format", "json", "--table", "steps"], "--table has no use with --format json"),
        (["export", "good", "--format", "latex", "--table", "steps"], "--table steps has no LaTeX form"),
        (["export", "good", "--format", "csv", "--table", "step"], "did you mean 'steps'"),
        (["best", "good", "--metric", "eval_nnl"], "did you mean 'eval_nll'"),
        (["lst"], "command 'lst' is unknown; did you mean 'list'?"),
        (["list", "good", "--jsn"], "flag --jsn is unknown; did you mean '--json'?"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(hf, tmp_path, line, sentence):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.json").write_text('{"compilerOptions": {}}')
    (tmp_path / "broken.json").write_bytes(b"\x00\xff not json")
    write_run(tmp_path / "good")
    result = hf("runs", *line)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")
    assert sentence in result.err
    assert result.err.count("\n") == 1


def test_what_cannot_be_read_is_a_warning_and_the_other_runs_still_load(hf, two, tmp_path):
    (tmp_path / "other.json").write_text('{"compilerOptions": {}}')
    write_run(tmp_path / "again", "demo-ar", objective="ar")
    result = hf("runs", "list", "runs", "other.json", "nowhere", "again", "--json")
    assert len(_json(result)) == 3
    warnings = result.err.splitlines()
    assert [line.startswith("warning: ") for line in warnings] == [True] * 3
    assert "other.json" in warnings[0]
    assert "nowhere" in warnings[1]
    assert "2 runs are named 'demo-ar'; they are shown as demo-ar (ar), demo-ar (again)" in warnings[2]


def test_reading_logs_imports_neither_torch_nor_pictures_nor_trackers(two, tmp_path):
    program = (
        "import sys\nfrom hf_difflm.commands import app\n"
        "try:\n    app(['runs', *sys.argv[1:]])\n"
        "finally:\n    print(sorted({'torch', 'transformers', 'matplotlib', 'tensorboard', 'wandb'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    for line in (["list"], ["compare", "runs"], ["export", "runs", "--format", "csv"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *line], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "[]"
