"""A large journal, which pyarrow parses by columns, is the same run as a small one that is read line by line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_difflm.runs import Run, load_run
from hf_difflm.runs.derived.document import build_document
from hf_difflm.runs.journal import arrow as arrow
from hf_difflm.runs.journal import reading as reading
from hf_difflm.runs.journal.append_only import read_records
from hf_difflm.runs.journal.schema import EvaluationRecord, EventRecord, RunRecord, SampleRecord, StepRecord, encode

wide = st.floats(width=64) | st.integers(-(2**53), 2**53)
extras = st.dictionaries(
    st.sampled_from(["masking_rate_min", "count", "odd.name", "ä"]),
    wide | st.none() | st.booleans() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    max_size=3,
)
steps = st.builds(
    StepRecord,
    time=st.sampled_from(["2026-11-21T10:01:37.166+00:00", "t", "später"]),
    iter=st.integers(0, 40),
    steps=st.integers(1, 5),
    loss=st.none() | st.sampled_from([float("nan"), float("inf")]) | st.floats(-1e300, 1e300),
    lr=st.none() | st.floats(-1e300, 1e300),
    tokens_seen=st.none() | st.integers(0, 2**53),
    epoch=st.none() | st.floats(0, 9),
    extra=st.just({}) | extras,
)
others = st.one_of(
    st.builds(
        EvaluationRecord,
        time=st.just("t"),
        iter=st.integers(0, 40),
        metrics=st.just({"eval_nll": 1.0}),
        train_loss=st.none() | st.just(2.0),
    ),
    st.builds(EventRecord, time=st.just("t"), event=st.just("resumed"), resumed_from_step=st.integers(0, 40)),
    st.builds(SampleRecord, time=st.just("t"), iter=st.integers(0, 40), text=st.text(max_size=9)),
    st.just(RunRecord(time="t", run_name="x", run_id="1")),
)
DAMAGE = [
    "",
    "no json",
    "[1]",
    '{"type":"step",',
    '{"type":"step","iter":1.5}',
    '{"type":"step","iter":"7"}',
    '{"type":"step","iter":7,"loss":"high"}',
    '{"type":"step","iter":7,"loss":true}',
    '{"type":"step","iter":true}',
    '{"type":"step","loss":1.0}',
    '{"type":"step","iter":null}',
    '{"type":"step","iter":7,"loss":NaN}',
    '{"type":"step","iter":7,"loss":1e999,"x":-1e999}',
    '{"type":"step","iter":7,"steps":null,"time":null}',
    '{"type":"step","iter":7,"time":5}',
    '{"type":"step","iter":7,"nonfinite":["loss"],"loss":null}',
    '{"type":"step","iter":7,"nonfinite":"loss"}',
    '{"type":"step","iter":7,"nonfinite":[1]}',
    '{"type":"step","iter":7}{"type":"step","iter":8}',
    '{"type":"step","iter":99999999999999999999}',
    '{"type": "step", "iter": 9, "loss": 0.5}',
    '{"type":"step","iter":7,"x":"2026-11-21T10:01:37"}',
    '{"type":"step","iter":7,"x":{"y":1}}',
    '{"type":"step2","iter":7}',
    '{"type":"later"}',
    '\x7f\x00{"type":"step","iter":7}',
    '{"type":"step","iter":7,"loss":1}\r',
]
lines = st.lists(
    st.one_of(steps.map(encode), steps.map(encode), others.map(encode), st.sampled_from(DAMAGE)), max_size=30
)


def both(path: Path) -> tuple[Run | None, Run | None]:
    plain = Run.from_records(path, *read_records(path))
    reader = arrow.ArrowReader(path)
    large = Run.from_records(path, reader)
    if large is not None:
        large.damaged_lines = reader.damaged
    return plain, large


@settings(max_examples=200, deadline=None)
@given(body=lines, block=st.integers(20, 2000), torn=st.integers(0, 40))
def test_both_readers_give_the_same_run(tmp_path_factory, body, block, torn):
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    text = "".join(line + "\n" for line in [encode(RunRecord(time="t", run_name="x")), *body]).encode()
    path.write_bytes(text[: len(text) - torn] if torn < len(text) else text)
    previous, arrow._BLOCK = arrow._BLOCK, block
    try:
        plain, large = both(path)
    finally:
        arrow._BLOCK = previous
    assert (plain is None) == (large is None)
    if plain is None or large is None:
        return
    assert list(plain.steps) == list(large.steps)
    assert plain == large
    assert json.dumps(build_document(plain), allow_nan=False) == json.dumps(build_document(large), allow_nan=False)
    for name in plain.steps.quantities:
        assert np.array_equal(plain.column(name), large.column(name), equal_nan=True)


def set_limit(monkeypatch, size: int) -> None:
    for name in ("_LARGE", "_WORTH_IT"):
        monkeypatch.setattr(reading, name, size)


def test_a_journal_above_the_limit_takes_the_way_of_columns(write_run, monkeypatch):
    run = write_run(steps=300)
    opened = []
    whole = arrow.ArrowReader.__iter__
    monkeypatch.setattr(arrow.ArrowReader, "__iter__", lambda self: (opened.append(1), whole(self))[1])
    set_limit(monkeypatch, run.path.stat().st_size)
    again = load_run(run.path)
    assert opened
    assert again == run
    assert build_document(again) == build_document(run)
    set_limit(monkeypatch, run.path.stat().st_size + 1)
    assert load_run(run.path) == run
    assert len(opened) == 1


def test_damaged_lines_of_a_large_journal_are_counted_and_warned_of(write_run, monkeypatch, caplog):
    run = write_run(steps=50)
    with run.path.open("ab") as file:
        file.write(b'\x00\n{"type":"step","iter":"x"}\n')
    set_limit(monkeypatch, 0)
    again = load_run(run.path)
    assert (len(again.steps), again.damaged_lines) == (50, 2)
    assert "2 damaged lines" in caplog.text


def test_a_hundred_thousand_steps_open_fast_and_keep_their_spike(tmp_path):
    """A tenth of the promised size in a fifth of its time: a machine that is busy must not fail this."""
    import time

    path = tmp_path / "journal.jsonl"
    with path.open("w") as file:
        file.write(encode(RunRecord(run_name="large")) + "\n")
        for step in range(1, 100_001):
            loss = 1e6 if step == 77_777 else 2 + math.sin(step)
            values = {"time_ms": 50.125, "lr": 1e-3 / step, "grad_norm": 1 / step, "tokens_per_sec": 12345.6}
            file.write(encode(StepRecord(time="2026-11-21T10:01:37.166+00:00", iter=step, loss=loss, **values)) + "\n")
    assert path.stat().st_size > reading._LARGE
    start = time.process_time()
    run = load_run(path)
    seconds = time.process_time() - start
    assert run.column("loss").argmax() == 77_776
    assert run.steps[77_776].loss == 1e6
    assert seconds < 0.6 * 3 / 2  # CPU seconds, the import of pyarrow among them


@pytest.mark.parametrize("rows", [0, 1])
def test_a_large_journal_with_hardly_a_step_is_a_run(tmp_path, monkeypatch, rows):
    path = tmp_path / "journal.jsonl"
    text = [encode(RunRecord(run_name="x")), *(encode(StepRecord(iter=n + 1)) for n in range(rows))]
    path.write_text("\n".join(text) + "\n")
    set_limit(monkeypatch, 0)
    assert len(load_run(path).steps) == rows
