from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_difflm.runs import Journal, load_run
from hf_difflm.runs.journal.append_only import read_records
from hf_difflm.runs.journal.schema import (
    CheckpointRecord,
    EvaluationRecord,
    EventRecord,
    RunRecord,
    SampleRecord,
    StepRecord,
    decode,
    encode,
)

numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
records = st.one_of(
    st.builds(StepRecord, time=st.just("t"), iter=st.integers(0, 10**9), loss=numbers, lr=numbers, mfu=numbers),
    st.builds(
        EvaluationRecord,
        time=st.just("t"),
        iter=st.integers(0, 10**9),
        metrics=st.dictionaries(st.text(), numbers, max_size=4),
    ),
    st.builds(SampleRecord, time=st.just("t"), iter=st.integers(0, 9), text=st.text(), prompt=st.text()),
    st.builds(CheckpointRecord, time=st.just("t"), iter=st.integers(0, 9), path=st.text(), val_loss=numbers),
    st.builds(EventRecord, time=st.just("t"), event=st.text(), iter=st.none() | st.integers(0, 9)),
)


def strict_loads(text: str | bytes) -> object:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@given(records)
def test_a_record_survives_writing_and_reading(record):
    assert decode(strict_loads(encode(record))) == record


@given(st.sampled_from([math.nan, math.inf, -math.inf]))
def test_non_finite_numbers_become_null_with_a_flag(value):
    record = StepRecord(iter=3, loss=value, lr=1.0, extra={"entropy": value})
    line = strict_loads(encode(record))
    assert line["loss"] is None
    assert line["entropy"] is None
    assert line["lr"] == 1.0
    assert line["nonfinite"] == ["loss", "entropy"]
    nested = strict_loads(encode(EvaluationRecord(iter=3, metrics={"eval_nll": value, "by_bin": [1.0, value]})))
    assert nested["nonfinite"] == ["metrics.eval_nll", "metrics.by_bin.1"]


def test_numpy_values_paths_and_other_objects_become_plain_json(tmp_path):
    import numpy as np

    config = {"a": np.float32(0.5), "b": Path("x/y"), "c": {3, 1}, "d": (1, 2), 5: np.int64(7), "e": np.bool_(True)}
    line = strict_loads(encode(RunRecord(config=config)))
    assert line["config"] == {"a": 0.5, "b": "x/y", "c": ["1", "3"], "d": [1, 2], "5": 7, "e": True}


def test_each_record_has_its_type_and_a_time_with_zone():
    from datetime import datetime

    line = strict_loads(encode(EventRecord(event="started")))
    assert line["type"] == "event"
    assert datetime.fromisoformat(line["time"]).tzinfo is not None


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(min_value=1, max_value=200))
def test_a_torn_last_line_is_ignored_and_repaired_before_the_next_append(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("torn") / "journal.jsonl"
    journal = Journal(path)
    for step in range(1, 4):
        journal.append(StepRecord(iter=step, loss=1.0))
    journal.close()
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(whole[: -min(cut, len(lines[-1]))])
    found, damaged = read_records(path)
    complete = cut == 1  # only the line break is missing
    assert [record.iter for record in found] == ([1, 2, 3] if complete else [1, 2])
    assert damaged == 0
    journal.append(StepRecord(iter=9))
    journal.close()
    found, damaged = read_records(path)
    assert [record.iter for record in found] == ([1, 2, 3, 9] if complete else [1, 2, 9])
    assert damaged == 0
    for line in path.read_bytes().splitlines():
        strict_loads(line)


def test_a_torn_line_longer_than_the_repair_buffer_is_cut_whole(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"type": "step", "iter": 1}\n{"type": "sample", "text": "' + b"x" * 300_000)
    journal = Journal(path)
    journal.append(StepRecord(iter=2))
    journal.close()
    assert [record.iter for record in read_records(path)[0]] == [1, 2]


def test_damaged_lines_in_the_middle_are_skipped_counted_and_warned_of(tmp_path, caplog):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append(RunRecord(run_name="a"))
    journal.append(StepRecord(iter=1))
    journal.close()
    with path.open("ab") as file:
        file.write(
            b'\x00\x00\x00\n[1]\n{"type": "step"}\n{"type": "step", "iter": "x"}\n{"type": "later", "iter": 1}\n'
        )
    journal.append(StepRecord(iter=2))
    journal.close()
    run = load_run(path)
    assert [step.iter for step in run.steps] == [1, 2]
    assert run.damaged_lines == 4
    assert "4 damaged lines" in caplog.text


def test_every_record_is_in_the_file_when_append_returns(tmp_path):
    journal = Journal(tmp_path / "deep" / "journal.jsonl")
    for step in range(1, 4):
        journal.append(StepRecord(iter=step))
        assert len(journal.path.read_bytes().splitlines()) == step
    journal.close()


def test_a_record_that_does_not_fit_is_taken_back_whole(tmp_path):
    """Under a file-size limit the write is cut short; the journal must stay readable and the writer must be told."""
    program = """
import resource, signal, sys
from hf_difflm.runs import Journal
from hf_difflm.runs.journal.schema import SampleRecord, StepRecord
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
journal = Journal(sys.argv[1])
journal.append(StepRecord(iter=1))
try:
    journal.append(SampleRecord(iter=1, text="x" * 2000))
except OSError:
    journal.append(StepRecord(iter=2))
"""
    path = tmp_path / "journal.jsonl"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=60)
    assert [record.iter for record in read_records(path)[0]] == [1, 2]
    assert path.read_bytes().endswith(b"\n")


def test_a_killed_writer_leaves_every_record_but_at_most_one(tmp_path):
    program = """
import sys
from hf_difflm.runs import Journal
from hf_difflm.runs.journal.schema import RunRecord, StepRecord
journal = Journal(sys.argv[1])
journal.append(RunRecord(run_name="killed"))
for step in range(1, 10_000_000):
    journal.append(StepRecord(iter=step, loss=1.0))
    if step % 50 == 0:
        print(step, flush=True)
"""
    for attempt in range(3):
        path = tmp_path / str(attempt) / "journal.jsonl"
        with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.02 * attempt)
            os.kill(process.pid, signal.SIGKILL)
            told = [int(line) for line in process.stdout.read().split()]
        run = load_run(path)
        assert [step.iter for step in run.steps] == list(range(1, len(run.steps) + 1))
        assert len(run.steps) >= max([50, *told])
        assert run.status == "running"


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_the_package_runs_does_not_import(package):
    modules = "comparing.table derived.document html journal.append_only journal.run pages.markdown plots.kinds"
    modules += " reading.load schema"
    program = (
        "import importlib, sys\n"
        f"for name in {modules.split()!r}: importlib.import_module('hf_difflm.runs.' + name)\n"
        f"sys.exit({package!r} in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_reading_and_writing_runs_does_not_import_matplotlib(tmp_path):
    program = (
        "import sys, hf_difflm.callbacks\n"
        "from hf_difflm.runs import Journal, Run, compare_runs, differences, load_run\n"
        "sys.exit(any(name in sys.modules for name in ('matplotlib', 'torch', 'transformers')))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
