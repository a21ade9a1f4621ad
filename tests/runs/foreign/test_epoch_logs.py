"""Logs that count epochs and no steps, as Keras' CSVLogger writes them: read, drawn over epochs, or refused in a sentence."""

from __future__ import annotations

import csv
import io
import json

import pytest

from hf_difflm.errors import UserError
from hf_difflm.runs import load_run, plot_runs
from hf_difflm.runs.comparing.seeds import seed_groups
from hf_difflm.runs.pages.curves import page_data
from hf_difflm.runs.plots.kinds import KINDS, _drawing
from hf_difflm.runs.showing.overview import show_text

pytestmark = pytest.mark.borders
KERAS = "epoch,accuracy,loss,val_accuracy,val_loss\n0,0.1,3.0,0.2,2.5\n1,0.3,2.0,0.4,1.5\n2,0.5,1.0,0.6,0.75\n"


@pytest.mark.parametrize("name", ["csv", "jsonl", "json"])
def test_epochs_count_the_rows_of_a_log_without_steps_and_pictures_say_so(tmp_path, caplog, name):
    rows = csv.DictReader(io.StringIO(KERAS))
    lines = [json.dumps({key: json.loads(value) for key, value in row.items()}) for row in rows]
    text = {"csv": KERAS, "jsonl": "\n".join(lines) + "\n", "json": f"[{','.join(lines)}]"}[name]
    (tmp_path / f"keras.{name}").write_text(text)
    for path in (tmp_path / f"keras.{name}", tmp_path):
        run = load_run(path)
        assert run.column("loss").tolist() == [3.0, 2.0, 1.0]
        assert run.column("epoch").tolist() == run.column("iter").tolist() == [0, 1, 2]
        assert [(record.iter, record.nll) for record in run.evaluations] == [(0, 2.5), (1, 1.5), (2, 0.75)]
    assert "counts epochs and no steps: where a step is named, it is an epoch" in caplog.text
    figure = KINDS["comparison"](_drawing([run], None, None, "step"))
    assert [axes.get_xlabel() for axes in figure.axes] == ["epoch", "epoch"]
    assert figure.axes[1].lines[0].get_xydata().tolist() == [[0, 2.5], [1, 1.5], [2, 0.75]]
    assert "3 epochs" in show_text(run, 100)
    assert page_data([run], ["keras"], seed_groups([run], ["keras"]))["axes"]["step"] == "epoch"


def test_epochs_and_steps_are_not_drawn_on_one_axis(tmp_path):
    (tmp_path / "keras.csv").write_text(KERAS)
    (tmp_path / "ours.csv").write_text("step,loss\n1,3\n2,2\n")
    runs = [load_run(tmp_path / "keras.csv"), load_run(tmp_path / "ours.csv")]
    with pytest.raises(UserError, match="keras counts epochs and ours steps alone, so no axis has both"):
        plot_runs(runs, tmp_path / "plots", ["loss_per_step"])
    (tmp_path / "ours.csv").write_text("step,epoch,loss\n1,0.5,3\n2,1,2\n")
    figure = KINDS["loss_per_step"](_drawing([runs[0], load_run(tmp_path / "ours.csv")], None, None, "step"))
    assert figure.axes[0].get_xlabel() == "epoch"
    assert figure.axes[0].lines[1].get_xdata().tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epoch,loss\n0.5,3\n1.0,2\n", "found 'epoch' 0.5, no whole number, and none of iter, step"),
        ("epoch,loss\n1,3\n1,2\n2,1\n", "found several values of 'loss' in epoch 1, and none of iter, step"),
        ("name,loss\na,3\n", "found name, loss, and none of iter, step"),
    ],
)
def test_epochs_that_do_not_count_the_rows_are_refused(tmp_path, text, sentence):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=sentence):
        load_run(tmp_path / "a.csv")


def test_the_epochs_of_a_metrics_file_without_steps_are_no_steps(tmp_path):
    (tmp_path / "a_metrics.json").write_text(json.dumps({"epochs": [1, 2], "epoch_losses": [3.0, 2.0]}))
    figure = KINDS["loss_smoothed"](_drawing([load_run(tmp_path / "a_metrics.json")], None, None, "step"))
    assert figure.axes[0].get_xlabel() == "epoch"
