"""A journal that another process writes is read while it grows: nothing is missed and nothing is there twice."""

from __future__ import annotations

import threading

import pytest
from made_runs import write_run

from hf_difflm.runs import Journal
from hf_difflm.runs.journal.reading import GrowingRun
from hf_difflm.runs.journal.schema import MeasurementRecord, StepRecord, encode


@pytest.mark.parametrize("at_first", [True, False])
def test_a_line_in_the_making_is_read_when_it_is_whole(tmp_path, at_first):
    journal = write_run(tmp_path / "run", ending="") / "journal.jsonl"
    growing = GrowingRun(journal)
    if not at_first:
        growing.read()
    line = encode(StepRecord(iter=21, loss=1.0)) + "\n"
    with journal.open("a") as file:
        file.write(line[:25])
        file.flush()
        assert growing.read()[0].steps[-1].iter == 20
        file.write(line[25:])
    run, _ = growing.read()
    assert (run.steps[-1].iter, len(run.steps), run.damaged_lines) == (21, 21, 0)


@pytest.mark.parametrize("tries", [3, 0], ids=["whole", "line by line"])
def test_what_is_written_while_it_is_read_is_there_once(tmp_path, monkeypatch, tries):
    path = write_run(tmp_path / "run", ending="") / "journal.jsonl"

    reads = []

    def size(growing):
        reads.append(None)
        return path.stat().st_size + (len(reads) if tries == 0 else 0)  # it seems to grow whenever one looks

    monkeypatch.setattr(GrowingRun, "_size", size)

    def write():
        journal = Journal(path)
        for step in range(21, 3021):
            journal.append(StepRecord(iter=step, loss=1.0))
            if step % 100 == 0:
                journal.append(MeasurementRecord(iter=step, source="throughput"))
        journal.close()

    writer = threading.Thread(target=write)
    writer.start()
    growing = GrowingRun(path)
    while writer.is_alive():
        growing.read()
    run, _ = growing.read()
    assert run.column("iter").tolist() == list(range(1, 3021))
    assert [record.iter for record in run.measurements] == list(range(100, 3001, 100))
