"""The lines of steps say what the records of the same rows say."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from hf_difflm.callbacks.recording.step_lines import StepLines
from hf_difflm.callbacks.recording.step_records import step_records
from hf_difflm.runs import load_run
from hf_difflm.runs.derived.document import build_document
from hf_difflm.runs.journal.schema import RunRecord, decode, encode
from hf_difflm.runs.showing.export import export_csv

USUAL = ("loss", "grad_norm", "lr", "time_ms", "tokens_per_sec", "accuracy", "mfu", "epoch", "masking_rate")
TOTALS = ("steps", "tokens_seen", "total_flops")
numbers = st.none() | st.floats(width=64) | st.integers(-(10**9), 10**9) | st.floats(-1.0, 1.0) | st.booleans()
names = st.sampled_from(
    [
        *USUAL,
        "masking_rate_max",
        'a"b%s\n',
        "é",
        "learning_rate",
        "steps",
        "tokens_seen",
        "total_flops",
        "type",
        "extra",
    ]
)
rows = st.lists(
    st.builds(
        # A total that a row brings is known; how many steps it is about, too.
        lambda values, tokens, flops: (
            {name: value for name, value in values.items() if value is not None or name not in TOTALS} | tokens | flops
        ),
        st.dictionaries(names, numbers, max_size=12),
        st.sampled_from([{}, {"tokens": 7}, {"tokens": 0}, {"tokens": None}]),
        st.sampled_from([{}, {"flops": 1.5e15}, {"flops": None}]),
    ),
    min_size=1,
    max_size=4,
)


def plainly(lines: list[str]) -> list[dict]:
    """What the lines say, but when; 1.0 and 1 are one number."""
    found = [json.loads(line) for line in lines]
    for line in found:
        del line["time"]
    return found


@given(st.lists(rows, min_size=1, max_size=3))
def test_lines_are_those_of_the_records(windows):
    lines = StepLines()  # one for all windows: it remembers the forms
    for number, window in enumerate(windows):
        given_rows = [{"iter": 10 * number + place, **row} for place, row in enumerate(window, 1)]
        got = lines.of(given_rows, 10_000, 1e18)
        expected = [encode(record) for record in step_records(given_rows, 10_000, 1e18)]
        assert plainly(got) == plainly(expected)


def test_a_usual_row_is_written_in_one_formatting_and_read_back(monkeypatch):
    monkeypatch.setattr(
        "hf_difflm.callbacks.recording.step_lines.step_records", None
    )  # it would be called for another row
    row = {
        "iter": 3,
        "loss": 2.0,
        "lr": 1 / 3e4,
        "time_ms": 12.34567,
        "tokens": 5,
        "flops": 2.5e9,
        "mfu": None,
        "x": 1 / 3,
    }
    (line,) = StepLines().of([row], 15, 7.5e9)
    record = decode(json.loads(line))
    assert (record.iter, record.loss, record.lr, record.time_ms) == (3, 2.0, 3.33333333e-05, 12.346)
    assert (record.tokens_seen, record.total_flops, record.mfu, record.extra) == (15, 7.5e9, None, {"x": 0.3333333})


def test_a_whole_number_without_a_point_is_read_and_exported_as_one_with_it(tmp_path):
    rows = [
        {"iter": step, "loss": 2.0, "lr": 1.0, "grad_norm": 3.0, "epoch": 1.0, "masking_rate": 1.0} for step in (1, 2)
    ]
    head = encode(RunRecord(time="2026-11-21T10:00:00.000+00:00", run_name="whole", run_id="1"))
    lines = StepLines().of(rows, 0, 0.0)
    assert '"loss":2,' in lines[0]
    pointed = [encode(replace(record, time=json.loads(lines[0])["time"])) for record in step_records(rows, 0, 0.0)]
    assert '"loss":2.0,' in pointed[0]
    documents, tables = [], []
    for place, written in enumerate((lines, pointed)):
        folder = tmp_path / str(place) / "whole"
        folder.mkdir(parents=True)
        (folder / "journal.jsonl").write_text("\n".join([head, *written]) + "\n")
        run = load_run(folder)
        documents.append(json.dumps(build_document(run)))
        tables.append("".join(export_csv([run])))
    assert documents[0] == documents[1]
    assert tables[0] == tables[1]
