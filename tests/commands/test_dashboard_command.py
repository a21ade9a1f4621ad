"""``dashboard``: any run afterwards, and a live one until it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from made_runs import write_run
from typer.main import get_command

from hf_difflm.commands.application import Application
from hf_difflm.commands.dashboard import dashboard
from hf_difflm.commands.spelling import Command, Commands
from hf_difflm.runs import Journal
from hf_difflm.runs.journal.schema import EventRecord, StepRecord

ROOT = Path(__file__).parents[2]
PATIENCE = 180.0
SCRIPT = "from hf_difflm.commands.dashboard import dashboard; import typer; typer.run(dashboard)"


@pytest.fixture
def app():
    made = Application(cls=Commands, add_completion=False, pretty_exceptions_enable=False)
    made.command("dashboard", cls=Command)(dashboard)
    made.callback()(lambda: None)  # so that it stays a subcommand
    assert isinstance(made, typer.Typer)
    assert get_command(made)
    return made


@pytest.fixture
def draw(app, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            app(["dashboard", *map(str, arguments)])
        return (int(stop.value.code or 0), *capsys.readouterr())

    return call


def test_a_run_is_drawn_beside_its_journal_and_the_path_is_printed(draw, tmp_path):
    write_run(tmp_path / "run")
    assert draw("run") == (0, "run/dashboard/training_latest.png\n", "")
    names = {path.name for path in (tmp_path / "run" / "dashboard").iterdir()}
    assert names == {"training_latest.png", "training_step_000020.png", "metrics_history.json", "text_samples.json"}


def test_logs_of_other_programs_are_drawn_into_the_folder_that_is_named(draw, tmp_path):
    losses = {"experiment_name": "theirs", "steps": [1, 2, 3], "step_losses": [3.0, 2.5, 2.25]}
    (tmp_path / "their_metrics.json").write_text(json.dumps(losses))
    assert draw("their_metrics.json", "--output-dir", "pictures")[:2] == (0, "pictures/training_latest.png\n")
    assert draw("their_metrics.json")[1] == "their_metrics_dashboard/training_latest.png\n"


def test_the_history_of_a_dashboard_can_be_drawn_again(draw, tmp_path):
    write_run(tmp_path / "run")
    draw("run")
    assert draw("run/dashboard/metrics_history.json", "--output-dir", "again")[0] == 0
    again, first = (json.loads(Path(f, "metrics_history.json").read_text()) for f in ("again", "run/dashboard"))
    assert again == first


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "there is no run at 'nowhere'"),
        (["run", "--interval", "0"], "--interval is 0"),
        (["run", "--output-dir", "run/journal.jsonl"], "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(draw, tmp_path, arguments, sentence):
    write_run(tmp_path / "run")
    code, out, err = draw(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


@pytest.fixture
def watching(tmp_path):
    started = []

    def start(*arguments):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
        command = [sys.executable, "-c", SCRIPT, *arguments, "--watch", "--interval", "0.05"]
        started.append(subprocess.Popen(command, env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_live_run_is_followed_until_it_ends(watching, tmp_path):
    journal = Journal(write_run(tmp_path / "run", ending="") / "journal.jsonl")
    process = watching("run")
    assert process.stdout.readline() == "step 20, running: run/dashboard/training_latest.png\n"
    journal.append(StepRecord(iter=21, loss=1.0))
    assert process.stdout.readline() == "step 21, running: run/dashboard/training_latest.png\n"
    journal.append(EventRecord(event="completed", iter=21))
    journal.close()
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (0, "step 21, completed: run/dashboard/training_latest.png\n", "")


def test_ctrl_c_ends_the_watching_without_a_complaint(watching, tmp_path):
    write_run(tmp_path / "run", ending="")
    process = watching("run")
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (0, "", "")
