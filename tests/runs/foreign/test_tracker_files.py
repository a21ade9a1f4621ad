"""TensorBoard's event files, W&B's offline files and exports, CSV: every scalar, as the same float that is in the file."""

from __future__ import annotations

import csv
import json
import math
import shutil
import struct
import time

import numpy as np
import pytest

from hf_difflm.errors import UserError
from hf_difflm.runs import load_run, load_runs

pytestmark = pytest.mark.borders


def scalars_of_tensorboard(folder):
    """What TensorBoard itself reads: tag to steps and values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    for tag in events.Tags()["tensors"]:
        arrays = [(event.step, tensor_util.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
        if all(array.dtype.kind == "f" and array.ndim == 0 for _, array in arrays):
            found[tag] = [(step, float(array)) for step, array in arrays]
    return found


def test_a_trainers_event_files_hold_the_numbers_of_its_log(trained):
    out, log = trained
    (folder,) = (out / "runs").iterdir()
    for path in (folder, *folder.glob("events.out.tfevents.*"), out / "runs"):
        run = load_run(path)
        training = [row for row in log if "loss" in row]
        assert run.column("iter").tolist() == [row["step"] for row in training]
        for ours, theirs in (("loss", "loss"), ("lr", "learning_rate"), ("grad_norm", "grad_norm"), ("epoch", "epoch")):
            assert run.column(ours).tolist() == [float(np.float32(row[theirs])) for row in training]
        expected = [(row["step"], float(np.float32(row["eval_loss"]))) for row in log if "eval_loss" in row]
        assert [(record.iter, record.nll) for record in run.evaluations] == expected
        assert run.measurements[0].metrics["train_loss"] == float(np.float32(log[-1]["train_loss"]))
        assert (run.status, run.config["max_steps"], run.loss_unit) == ("completed", 12, "")
        assert run.start_time is not None


def test_a_summary_writers_scalars_are_those_that_tensorboard_reads(foreign_logs, tmp_path):
    run = load_run(foreign_logs / "summary_writer.tfevents")
    shutil.copy(foreign_logs / "summary_writer.tfevents", tmp_path / "events.out.tfevents.1.host")
    expected = scalars_of_tensorboard(tmp_path)
    assert expected.keys() == {"train/loss", "train/lr", "rewards/margins", "val/loss"}
    steps = run.column("iter").astype(int).tolist()
    for ours, theirs in (("loss", "train/loss"), ("lr", "train/lr")):
        assert list(zip(steps, run.column(ours).tolist(), strict=True)) == expected[theirs]
    margins = [value for _, value in expected["rewards/margins"]]
    assert math.isnan(margins[2])
    assert np.array_equal(run.column("rewards/margins"), margins, equal_nan=True)
    assert [row.nonfinite for row in run.steps][2] == ["rewards/margins"]
    assert [(record.iter, record.nll) for record in run.evaluations] == expected["val/loss"]


@pytest.mark.parametrize("kind", ["<f4", "<f8", "<i4", "<i8"])
@pytest.mark.parametrize("value", [-3.0, 0.0, 7.0])
def test_scalars_as_tensors_of_any_width_are_read(tmp_path, kind, value):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util import tensor_util

    writer = EventFileWriter(str(tmp_path))
    for whole in (True, False):
        tensor = tensor_util.make_tensor_proto(np.array(value, dtype=kind))
        if not whole:  # the other way to write it, one number in a field of its kind
            tensor.tensor_content = b""
            field = {"<f4": tensor.float_val, "<f8": tensor.double_val, "<i4": tensor.int_val, "<i8": tensor.int64_val}[
                kind
            ]
            field[:] = [(kind[1] == "f" and value) or int(value)]
        summary = Summary(value=[Summary.Value(tag=f"x{whole:d}", tensor=tensor)])
        writer.add_event(Event(step=5, wall_time=1.0, summary=summary))
    writer.close()
    assert next(load_run(tmp_path).steps.rows()) == {"iter": 5, "steps": 1, "x0": value, "x1": value}


def test_event_files_of_two_attempts_in_one_folder_are_one_run(tmp_path, caplog):
    from torch.utils.tensorboard import SummaryWriter

    for attempt, steps in enumerate([range(1, 9), range(5, 11)]):
        with SummaryWriter(str(tmp_path), filename_suffix=f".{attempt}") as writer:
            for step in steps:
                writer.add_scalar("loss", 10 * attempt + step, step, walltime=1e9 + 100 * attempt + step)
    run = load_run(tmp_path)
    assert run.column("iter").tolist() == list(range(1, 11))
    assert run.column("loss").tolist() == [1, 2, 3, 4, 15, 16, 17, 18, 19, 20]
    assert "4 rows that it had logged before are left out" in caplog.text


def test_tags_that_are_written_one_after_another_are_no_second_attempt(tmp_path, caplog):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for tag in ("loss", "entropy"):
            for step in (1, 2, 3):
                writer.add_scalar(tag, step, step)
    run = load_run(tmp_path)
    assert run.column("loss").tolist() == run.column("entropy").tolist() == [1, 2, 3]
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["summary_writer.tfevents", "loop.wandb"])
def test_a_file_of_a_killed_run_is_read_as_far_as_it_goes_and_says_so(foreign_logs, tmp_path, caplog, name):
    whole = (foreign_logs / name).read_bytes()
    expected = list(load_run(foreign_logs / name).steps)
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    run = load_run(tmp_path / name)
    assert 1 < len(run.steps) < len(expected)
    # Of the last step that was reached some scalars may be missing.
    assert list(run.steps)[:-1] == expected[: len(run.steps) - 1]
    assert "ends within a record" in caplog.text
    assert run.shown_status == "not said"


@pytest.mark.parametrize("name", ["summary_writer.tfevents", "loop.wandb"])
def test_cut_anywhere_it_is_a_run_or_a_sentence(foreign_logs, tmp_path, name):
    whole = (foreign_logs / name).read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / name).write_bytes(whole[:length])
        runs, problems = load_runs([tmp_path / name])
        assert len(runs) + len(problems) == 1


def test_an_offline_file_of_wandb_holds_every_number_that_was_logged(foreign_logs):
    run = load_run(foreign_logs / "loop.wandb")
    steps = range(0, 40, 2)
    assert run.column("iter").tolist() == list(steps)
    assert run.column("loss").tolist() == [4.0 / (step + 1) for step in steps]
    assert run.column("reward.mean").tolist() == [step / 7 for step in steps]
    assert run.column("reward.std").tolist() == [0.5] * len(steps)
    assert [(record.iter, record.nll) for record in run.evaluations] == [
        (step, 5.0 / (step + 1)) for step in (0, 10, 20, 30)
    ]
    assert run.evaluations[0].nonfinite == ["metrics.mfu"]
    assert (run.name, run.status, run.config) == ("loop", "completed", {"learning_rate": 3e-3, "model": {"layers": 2}})


def test_a_trainers_offline_run_is_on_its_own_steps_and_not_on_wandbs(make, tmp_path, monkeypatch):
    import wandb
    from transformers import Trainer, TrainingArguments

    monkeypatch.chdir(tmp_path)
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true"), ("WANDB_PROJECT", "demo")):
        monkeypatch.setenv(name, value)
    arguments = make.arguments(TrainingArguments, report_to=["wandb"], run_name="mine")
    trainer = Trainer(make.tiny_model(), arguments, train_dataset=make.rows(32), eval_dataset=make.rows(8))
    trainer.train()
    wandb.finish()
    log = trainer.state.log_history
    (path,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    deadline = time.monotonic() + 60
    while not any(run.end_time for run in load_runs([path])[0]) and time.monotonic() < deadline:
        time.sleep(0.1)  # another process writes the file, and may be at it when finish() returns
    for place in (path, path.parent, tmp_path / "wandb"):
        run = load_run(place)
        training = [row for row in log if "loss" in row]
        assert run.column("iter").tolist() == [row["step"] for row in training]
        for ours, theirs in (("loss", "loss"), ("lr", "learning_rate"), ("grad_norm", "grad_norm"), ("epoch", "epoch")):
            assert run.column(ours).tolist() == [row[theirs] for row in training]
        assert [(record.iter, record.nll) for record in run.evaluations] == [
            (row["step"], row["eval_loss"]) for row in log if "eval_loss" in row
        ]
        assert (run.name, run.status, run.config["max_steps"]) == ("mine", "completed", 12)


HISTORY = [
    {
        "_step": 0,
        "_runtime": 1.5,
        "_timestamp": 1.7e9,
        "train/loss": 3.0000000000000004,
        "train/global_step": 10,
        "train/epoch": 0.1,
    },
    {
        "_step": 1,
        "_runtime": 2.5,
        "_timestamp": 1.7e9 + 1,
        "eval/loss": 2.5,
        "eval/f1": 0.5,
        "train/global_step": 10,
        "train/epoch": 0.1,
    },
    {
        "_step": 2,
        "_runtime": 3.5,
        "_timestamp": 1.7e9 + 2,
        "train/loss": 2.0,
        "train/kl": 1e-300,
        "train/global_step": 20,
        "train/epoch": 0.2,
    },
]


def exports(folder):
    """The history of a W&B run as people export it."""
    import pandas as pd

    frame = pd.DataFrame(HISTORY)
    frame.to_csv(folder / "index.csv")
    frame.to_csv(folder / "plain.csv", index=False)
    frame.to_csv(folder / "tabs.tsv", index=False, sep="\t")
    (folder / "columns.json").write_text(json.dumps(frame.to_dict()))
    (folder / "records.json").write_text(json.dumps(HISTORY))
    (folder / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in HISTORY))
    return sorted(folder.iterdir())


def test_exports_of_a_wandb_history_say_the_same(tmp_path):
    for path in exports(tmp_path):
        run = load_run(path)
        assert run.column("iter").tolist() == [10, 20], path.name
        assert run.column("loss").tolist() == [3.0000000000000004, 2.0], path.name
        assert np.array_equal(run.column("kl"), [math.nan, 1e-300], equal_nan=True), path.name
        assert [(record.iter, record.nll, record.metrics["eval_f1"]) for record in run.evaluations] == [(10, 2.5, 0.5)]
        assert set(run.steps.quantities) == {"iter", "steps", "loss", "epoch", "kl"}


def test_the_export_of_a_chart_is_read_where_it_is_of_one_run(tmp_path):
    def write(*runs):
        names = [f"{run} - train/loss{end}" for run in runs for end in ("", "__MIN", "__MAX")]
        with (tmp_path / "chart.csv").open("w", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows(
                [["train/global_step", *names], *([step, *[step / 3] * len(names)] for step in (1, 2))]
            )
        return load_run(tmp_path / "chart.csv")

    run = write("my - run")
    assert run.column("loss").tolist() == [1 / 3, 2 / 3]
    assert run.steps.quantities == ["iter", "steps", "loss"]
    with pytest.raises(UserError, match=r"a chart of 2 runs \(a, b\); export one of them at a time"):
        write("a", "b")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_with_a_header_and_empty_cells(tmp_path, delimiter):
    rows = ["Step,Loss,val_loss,note", "1,0.1,,a", "2,1e-3,,b", "2,,0.30000000000000004,c", "3,nan,,"]
    (tmp_path / "metrics.csv").write_text("\n".join(row.replace(",", delimiter) for row in rows) + "\n")
    for path in (tmp_path / "metrics.csv", tmp_path):
        run = load_run(path)
        assert (run.name, run.column("iter").tolist()) == (tmp_path.name, [1, 2, 3])
        assert np.array_equal(run.column("loss"), [0.1, 1e-3, math.nan], equal_nan=True)
        assert [row.nonfinite for row in run.steps] == [[], [], ["loss"]]
        assert [(record.iter, record.nll) for record in run.evaluations] == [(2, 0.30000000000000004)]


def test_steps_that_begin_anew_in_each_epoch_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("epoch,step,loss\n0,1,3\n0,2,2\n1,1,1\n1,2,0.5\n")
    with pytest.raises(UserError, match="'step' begins anew in epoch 1; give it a column global_step"):
        load_run(tmp_path / "a.csv")


def test_a_data_set_in_a_folder_is_no_log_and_two_logs_of_one_training_are_one(tmp_path):
    (tmp_path / "chats.jsonl").write_text('{"messages": [], "step": 1}\n')
    (tmp_path / "people.csv").write_text("name,age\na,3\n")
    (tmp_path / "all_results.json").write_text('{"train_loss": 1.0, "epoch": 1.0}')
    (tmp_path / "metrics.csv").write_text("step,loss\n1,3\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 3}\n')
    (tmp_path / "other.csv").write_text("step,loss\n1,4\n")
    runs, problems = load_runs([tmp_path])
    assert [run.path.name for run in runs] == ["metrics.jsonl", "other.csv"]
    (left_out,) = problems
    assert "people.csv' is left out: it has no column of steps or epochs beside one of losses" in left_out


def test_bytes_that_are_no_protocol_buffers_are_a_sentence(tmp_path):
    (tmp_path / "a.wandb").write_bytes(b":W&B\xe1\xbe\x00" + struct.pack("<IHB", 0, 3, 1) + b"\xff\xff\xff")
    with pytest.raises(UserError, match="is not the log of a run"):
        load_run(tmp_path / "a.wandb")


def test_what_we_export_as_csv_is_read_back_as_the_same_steps(write_run, tmp_path):
    from hf_difflm.runs.showing.export import export_csv

    run = write_run(steps=5)
    (tmp_path / "steps.csv").write_text("".join(export_csv([run], "steps")))
    found = load_run(tmp_path / "steps.csv")
    assert [{**row} for row in found.steps.rows()] == [{**row} for row in run.steps.rows()]
    assert found.shown_status == "not said"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_with_headings_as_people_write_them(tmp_path, delimiter):
    text = "Step,Train Loss,Val Loss,Val Accuracy\n1,2.5,,\n2,2.25,2.0,0.5\n"
    (tmp_path / "mine.csv").write_text(text.replace(",", delimiter))
    for path in (tmp_path / "mine.csv", tmp_path):
        run = load_run(path)
        assert (run.column("iter").tolist(), run.column("loss").tolist()) == ([1, 2], [2.5, 2.25])
        assert [(record.iter, record.nll) for record in run.evaluations] == [(2, 2.0)]
        assert run.evaluations[0].metrics["Val Accuracy"] == 0.5


def test_csv_with_semicolons_has_its_decimals_after_a_point_or_a_comma(tmp_path):
    (tmp_path / "a.csv").write_text("Step;Train Loss;Val Loss\n1;2,5;\n2;1,25e-1;2\n")
    run = load_run(tmp_path / "a.csv")
    assert (run.column("loss").tolist(), run.evaluations[0].nll) == ([2.5, 0.125], 2.0)
    (tmp_path / "a.csv").write_text("Step;Loss;note\n1;2.5;3,5\n2;2.25;\n")
    run = load_run(tmp_path / "a.csv")
    assert run.column("loss").tolist() == [2.5, 2.25]
    assert "note" not in run.steps.quantities, "beside numbers with a point 3,5 is text"


def test_of_a_folder_of_csv_files_what_is_left_out_is_said(tmp_path):
    (tmp_path / "good.csv").write_text("step,loss\n1,3\n")
    (tmp_path / "bare.csv").write_text("loss,lr\n1,3\n")
    for named in (tmp_path, tmp_path / "*.csv"):
        runs, problems = load_runs([named])
        assert [run.name for run in runs] == ["good"]
        assert len(problems) == 1
        assert "bare.csv" in problems[0]


def test_event_files_without_scalars_or_steps_are_no_runs(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "text")) as writer:
        writer.add_text("args", "x", 3)
    with SummaryWriter(str(tmp_path / "no_steps")) as writer:
        writer.add_scalar("final", 1.0)
    with SummaryWriter(str(tmp_path / "tuned")) as writer:
        writer.add_hparams({"lr": 1.0}, {"eval/loss": 2.0})
    with SummaryWriter(str(tmp_path / "before")) as writer:
        writer.add_scalar("eval/loss", 2.0, 0)
    with SummaryWriter(str(tmp_path / "trained")) as writer:
        for step in range(3):
            writer.add_scalar("Loss/train", 3.0 - step, step)
    runs, problems = load_runs([tmp_path])
    assert [run.name for run in runs] == ["before", "trained"]
    assert problems == []
    for name, words in (("text", "is not a run"), ("no_steps", "is not a run")):
        with pytest.raises(UserError, match=words):
            load_run(tmp_path / name)
    (file,) = (tmp_path / "no_steps").iterdir()
    with pytest.raises(UserError, match="its scalars have no steps: all of them are at step 0"):
        load_run(file)
