"""What is measured now and then goes the whole way: journal, document, tables, trackers, page."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from made_runs import make_run, write_run

from hf_difflm.runs import Journal, load_run
from hf_difflm.runs.comparing.seeds import seed_groups
from hf_difflm.runs.derived.rebuild import DerivedWriter, write_derived
from hf_difflm.runs.journal.measurements import measurement_lines, measurement_series
from hf_difflm.runs.journal.schema import EventRecord, MeasurementRecord, StepRecord
from hf_difflm.runs.pages.curves import page_data
from hf_difflm.runs.showing.export import export_csv, export_markdown
from hf_difflm.runs.showing.export_trackers import export_tensorboard
from hf_difflm.runs.showing.overview import show_data, show_text


def gradients(step: int) -> MeasurementRecord:
    metrics = {"grad_norm/attention": step / 7, "grad_norm/mlp": 2.0 * step, "note": "words"}
    return MeasurementRecord(iter=step, source="gradients", metrics=metrics)


def statistics(step: int) -> MeasurementRecord:
    metrics = {f"param_norm/layer_{layer:02}": float(layer) for layer in range(9)}
    histograms = {"weight/embedding": {"low": -1.0, "high": 1.0, "counts": [1, 2, 3]}}
    return MeasurementRecord(iter=step, source="statistics", metrics=metrics, histograms=histograms)


@pytest.fixture
def folder(tmp_path):
    place = write_run(tmp_path / "measured", ending="")
    journal = Journal(place / "journal.jsonl")
    for record in (gradients(10), statistics(10), gradients(20), EventRecord(event="completed", iter=20)):
        journal.append(record)
    journal.close()
    return place


def test_the_document_holds_them_without_histograms_and_is_read_back_as_the_same_run(folder):
    run = load_run(folder)
    document_path = write_derived(folder / "journal.jsonl")[0]
    document = json.loads(document_path.read_text())
    assert [(row["iter"], row["source"]) for row in document["measurements"]] == [
        (10, "gradients"),
        (10, "statistics"),
        (20, "gradients"),
    ]
    again = load_run(document_path)
    assert [(m.iter, m.source, m.metrics) for m in again.measurements] == [
        (m.iter, m.source, m.metrics) for m in run.measurements
    ]
    assert run.measurements[1].histograms["weight/embedding"]["counts"] == [1, 2, 3]


def test_a_document_that_grows_with_its_journal_keeps_the_measurements_of_before(folder):
    writer = DerivedWriter(folder / "journal.jsonl")
    writer.write()
    journal = Journal(folder / "journal.jsonl")
    journal.append(gradients(21))
    journal.append(StepRecord(iter=21, loss=1.0))
    journal.close()
    writer.write()
    document = json.loads((folder / "measured.json").read_text())
    assert [row["iter"] for row in document["measurements"]] == [10, 10, 20, 21]


def test_what_a_resume_superseded_is_left_out(folder):
    journal = Journal(folder / "journal.jsonl")
    journal.append(EventRecord(event="resumed", iter=15, resumed_from_step=15))
    journal.close()
    assert [record.iter for record in load_run(folder).measurements] == [10, 10]


def test_show_prints_the_last_of_each_source_in_brief(folder):
    run = load_run(folder)
    text = show_text(run, 140)
    assert f"measured   gradients at step 20: grad_norm/attention {20 / 7:.4g}, grad_norm/mlp 40\n" in text
    assert "statistics at step 10: param_norm/layer_00 0, " in text
    assert "param_norm/layer_03 3, and 6 more\n" in text
    assert "param_norm/layer_08 8, histogram of weight/embedding" in measurement_lines(run, 1000)[1]
    for width in (80, 100, 200):
        assert all(len(line) <= width for line in measurement_lines(run, width))
    assert show_data(run)["measurements"]["gradients"]["metrics"]["grad_norm/mlp"] == 40.0
    assert "measured" not in show_text(make_run(), 140)


def test_show_says_what_a_full_disk_has_cost(tmp_path):
    place = write_run(tmp_path / "run", ending="")
    journal = Journal(place / "journal.jsonl")
    journal.append(EventRecord(event="records_lost", iter=12, message="3 records before this one could not be written"))
    journal.append(EventRecord(event="completed", iter=20))
    journal.close()
    text = show_text(load_run(place), 140)
    assert "status     completed\n" in text
    assert "lost       at step 12, 3 records before this one could not be written" in text


def test_the_table_has_one_row_a_number(folder):
    rows = list(csv.DictReader(io.StringIO("".join(export_csv([load_run(folder)], "measurements")))))
    assert len(rows) == 2 + 9 + 2
    assert list(rows[0]) == ["iter", "source", "name", "value", "timestamp"]
    assert rows[-1]["name"] == "grad_norm/mlp"
    assert float(rows[-1]["value"]) == 40.0
    assert "| 20 | gradients | grad_norm/mlp | 40.0000 |" in export_markdown([load_run(folder)], "measurements")
    several = list(csv.DictReader(io.StringIO("".join(export_csv([load_run(folder), make_run()], "measurements")))))
    assert {row["run"] for row in several} == {"measured"}
    assert "".join(export_csv([make_run()], "measurements")).split() == ["iter,source,name,value,timestamp"]


def test_tensorboard_gets_them_under_their_own_names_at_their_steps(folder, tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (place,) = export_tensorboard([load_run(folder)], tmp_path / "events")
    events = accumulators.EventAccumulator(str(place))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("grad_norm/mlp")]
    assert found == [(10, 20.0), (20, 40.0)]
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 21))
    assert [event.step for event in events.Scalars("eval/nll")] == [10, 20]


def test_the_page_draws_gradients_and_not_the_hundreds_of_statistics(folder):
    run = load_run(folder)
    names = ["measured", "other"]
    runs = [run, make_run("other")]
    charts = {chart["title"]: chart for chart in page_data(runs, names, seed_groups(runs, names))["charts"]}
    assert charts["grad_norm/mlp"]["curves"] == [{"x": [10, 20], "y": [20, 40]}, None]
    assert not any(title.startswith("param_norm") for title in charts)
    steps, values = measurement_series(run, "gradients", "grad_norm/attention")
    np.testing.assert_array_equal(steps, [10, 20])
    np.testing.assert_allclose(values, [10 / 7, 20 / 7])
