"""What lies in the folder of a dashboard: valid at every instant, and no more than a run needs."""

from __future__ import annotations

import json
import os
import threading
from datetime import datetime

import numpy as np
import pytest
from made_runs import TIME, make_run, write_run

from hf_difflm.runs import load_run
from hf_difflm.runs.dashboard.files import (
    HistoryWriter,
    clean,
    default_folder,
    metrics_history,
    pictures,
    thin_pictures,
    write_dashboard,
    write_picture,
)
from hf_difflm.runs.journal.atomic_files import write_text
from hf_difflm.runs.journal.schema import MeasurementRecord
from hf_difflm.runs.journal.steps import Steps


def test_the_newest_picture_is_the_one_of_its_step(tmp_path):
    for step in (10, 20):
        latest = write_picture(make_run("run", step), tmp_path, step)
        assert latest.read_bytes() == (tmp_path / f"training_step_{step:06d}.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "training_latest.png",
        "training_step_000010.png",
        "training_step_000020.png",
    ]


def test_without_links_the_newest_picture_is_a_copy(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError("this file system has no links")

    monkeypatch.setattr(os, "link", no_links)
    latest = write_picture(make_run("run", 5), tmp_path, 5)
    assert latest.read_bytes() == (tmp_path / "training_step_000005.png").read_bytes()


def test_the_history_has_the_seed_layout_and_is_read_back_as_a_run(tmp_path):
    accuracy = np.linspace(0.1, 0.5, 30)
    accuracy[4] = np.nan
    run = make_run("run", 30, columns={"accuracy": accuracy})
    run.steps = Steps({name: run.column(name) for name in run.steps.quantities}, times=np.full(30, TIME.encode()))
    run.measurements = [
        MeasurementRecord(iter=10, source="throughput", metrics={"throughput/peak_memory_mb": 123.5}),
        MeasurementRecord(iter=20, source="gradients", metrics={"grad_norm/head": 1.0}),
    ]
    write_dashboard(run, tmp_path)
    rows = json.loads((tmp_path / "metrics_history.json").read_text())
    keys = ["step", "loss", "accuracy", "tokens_per_sec", "gpu_memory_mb", "learning_rate", "timestamp"]
    assert [list(row) for row in rows] == [keys] * 30
    assert [row["gpu_memory_mb"] for row in rows] == [123.5 if step == 10 else None for step in range(1, 31)]
    assert rows[4]["accuracy"] is None
    assert rows[0]["timestamp"] == datetime.fromisoformat(TIME).timestamp()
    back = load_run(tmp_path)
    for name in ("iter", "loss", "accuracy", "tokens_per_sec", "lr"):
        assert back.column(name) == pytest.approx(run.column(name), nan_ok=True)
    assert back.column("gpu_memory_mb")[9] == 123.5


def test_samples_are_kept_whole_with_what_is_known_of_them(tmp_path):
    run = make_run("run", 10)
    run.samples[0].text = "\ud800 $ \x1b[31m" * 1000
    run.samples[0].extra = {"distinct_2": 0.5, "bad": float("nan")}
    write_dashboard(run, tmp_path)
    samples = json.loads((tmp_path / "text_samples.json").read_text())
    assert len(samples) == len(run.samples)
    expected = {"step": 2, "input": "The", "output": run.samples[0].text, "distinct_2": 0.5, "bad": None}
    assert expected.items() <= samples[0].items()


def test_an_empty_run_has_all_files(tmp_path):
    write_dashboard(make_run("empty", 0, evaluations=0), tmp_path)
    assert json.loads((tmp_path / "metrics_history.json").read_text()) == []
    assert json.loads((tmp_path / "text_samples.json").read_text()) == []
    assert (tmp_path / "training_latest.png").exists()


def test_the_files_are_valid_at_every_instant(tmp_path):
    runs = [make_run("run", steps) for steps in (3, 4000)]
    writer = HistoryWriter(tmp_path)
    writer.write(runs[0])
    stop, sizes = threading.Event(), set()

    def read():
        while not stop.is_set():
            sizes.add(len(json.loads((tmp_path / "metrics_history.json").read_bytes())))
            json.loads((tmp_path / "text_samples.json").read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(12):
        writer.write(runs[turn % 2])
    stop.set()
    reader.join()
    assert sizes <= {3, 4000}
    assert sizes


def test_the_history_is_not_written_again_before_its_rest(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("hf_difflm.runs.dashboard.files.time.monotonic", lambda: clock[0])
    written = []

    def write_rows(path, rows):
        clock[0] += 2.0  # seconds of writing
        written.append(clock[0])
        write_text(path, "[]")

    monkeypatch.setattr("hf_difflm.runs.dashboard.files.write_rows", write_rows)
    writer, run = HistoryWriter(tmp_path), make_run("run", 3)
    for _ in range(1000):
        writer.write_if_due(run)
        clock[0] += 1.0
    assert np.diff(written) == pytest.approx(202.0, abs=1.1)  # 100 times as long as it took


def test_of_many_pictures_about_evenly_spaced_ones_are_kept(tmp_path):
    for place in range(1, 401):
        (tmp_path / f"training_step_{50 * place:06d}.png").touch()
        thin_pictures(tmp_path, 40)
    steps = sorted(pictures(tmp_path))
    assert (len(steps), steps[0], steps[-1]) == (40, 50, 20_000)
    gaps = np.diff(steps)
    assert gaps.max() <= 4 * 20_000 / 40


def test_only_pictures_of_this_name_are_ever_deleted(tmp_path):
    for name in ("training_step_000100.png", "training_step_000200.png", "training_step_x.png", "mine.png"):
        (tmp_path / name).touch()
    (tmp_path / ".training_step_000100-abcd1234.png").touch()  # of a drawing that was killed
    (tmp_path / ".metrics_history-abcd1234.json").touch()
    clean(tmp_path, 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mine.png",
        "training_step_000100.png",
        "training_step_x.png",
    ]


def test_the_folder_is_named_after_the_run_or_its_log(tmp_path):
    write_run(tmp_path / "run")
    assert default_folder(tmp_path / "run" / "journal.jsonl") == tmp_path / "run" / "dashboard"
    assert default_folder(tmp_path / "a_metrics.json") == tmp_path / "a_metrics_dashboard"


def test_rows_are_those_of_the_run_whatever_its_length():
    run = make_run("run", 25_000)
    history = metrics_history(run)
    assert [row["step"] for row in history] == list(range(1, 25_001))
    assert [row["loss"] for row in history] == pytest.approx(run.column("loss").tolist())
