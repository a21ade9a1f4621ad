"""Trackio: through transformers with our Trainer, and what we add to its run; offline, in its real database.

In processes of their own, for Trackio reads the place of its files when it is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tracker_files import STEP, read_trackio

pytest.importorskip("trackio")
HELPERS = Path(__file__).parents[1]

TRAINS = """
import sys
from any_trainer import build_trainer
from test_trackers import Publisher
from hf_difflm.callbacks.trackers import TrackerCallback
named = {"report_to": ["trackio"], "run_name": "one", "project": "ours"}
trainer = build_trainer("diffusion", sys.argv[1], Publisher(), TrackerCallback(), **named)
trainer.train()
"""
LOGS = """
from hf_difflm.callbacks.logger import Logger
from test_logger import write
write(Logger("trackio", project_name="tried", run_name="one", config={"lr": 0.1}))
"""


def run(tmp_path: Path, program: str) -> tuple[list, dict]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRACKIO")}
    environment |= {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(HELPERS), str(HELPERS.parents[1])])}
    command = [sys.executable, "-c", program, str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return read_trackio(tmp_path / "trackio")


@pytest.mark.slow
def test_trackio_has_the_trainers_scalars_and_what_is_published(tmp_path):
    rows, config = run(tmp_path, TRAINS)
    assert (tmp_path / "trackio" / "ours.db").exists()
    assert config["max_steps"] == 6
    assert [row[STEP] for row in rows if "train/loss" in row] == [2, 4, 6]
    assert [(row[STEP], row["grad_norm/head"]) for row in rows if "grad_norm/head" in row] == [
        (2, 2.5),
        (4, 4.5),
        (6, 6.5),
    ]
    tables = [row["samples"]["_value"] for row in rows if "samples" in row]
    assert [table[0]["text"] for table in tables] == ["    after 2: ", "    after 4: "]
    assert tables[0][1]["prompt"].startswith("    a $x_1$ <script>")  # a block of code: no markup is followed
    (event,) = (row["events/loss_spike"]["_value"] for row in rows if "events/loss_spike" in row)
    assert event.startswith("    loss a $x_1$")
    histograms = [row["weights/head"] for row in rows if "weights/head" in row]
    assert histograms[0]["_type"] == "trackio.histogram"
    assert len(histograms) == 3


def test_the_logger_writes_to_trackio(tmp_path):
    rows, config = run(tmp_path, LOGS)
    assert config["lr"] == 0.1
    assert [(row[STEP], row["train/loss"]) for row in rows if "train/loss" in row] == [(3, 2 / 3), (5, 0.4)]
    (text,) = (row["samples/first"]["_value"] for row in rows if "samples/first" in row)
    assert text.startswith("    a $x_1$ <script>")
    assert "\x1b" not in text
