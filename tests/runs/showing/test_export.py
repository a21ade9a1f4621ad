from __future__ import annotations

import csv
import io
import json
import math
import re

import numpy as np
import pytest
from made_runs import evaluated, make_run, million_steps

from hf_difflm.errors import UserError
from hf_difflm.runs.derived.document import build_document
from hf_difflm.runs.journal.schema import SampleRecord
from hf_difflm.runs.showing.export import (
    comparison_json,
    export_csv,
    export_json,
    export_latex,
    export_markdown,
    write_pieces,
)
from hf_difflm.runs.showing.export_trackers import export_tensorboard, export_wandb


def _rows(pieces):
    return list(csv.DictReader(io.StringIO("".join(pieces))))


def _odd_run(name="odd", **config):
    loss = np.array([4.0, np.nan, 2.5])
    samples = [SampleRecord(iter=3, prompt="p", text="text with \ud800")]
    return make_run(name, 3, evaluations=3, columns={"loss": loss}, samples=samples, **config)


def test_steps_as_csv_have_every_known_quantity_and_empty_cells_where_a_value_is_unknown():
    rows = _rows(export_csv([_odd_run()]))
    assert [row["iter"] for row in rows] == ["1", "2", "3"]
    assert [row["loss"] for row in rows] == ["4.0", "", "2.5"]
    assert "run" not in rows[0]
    assert "grad_norm" not in rows[0]


def test_several_runs_in_one_csv_are_told_apart_by_their_first_column():
    runs = [make_run("a,1", 2), make_run("b", 3)]
    assert [row["run"] for row in _rows(export_csv(runs))] == ["a,1", "a,1", "b", "b", "b"]
    summary = _rows(export_csv(runs, "summary"))
    assert [(row["run"], row["total_iterations"]) for row in summary] == [("a,1", "2"), ("b", "3")]
    evaluations = _rows(export_csv(runs, "evaluations"))
    assert len(evaluations) == sum(len(run.evaluations) for run in runs)
    assert float(evaluations[-1]["eval_nll"]) == runs[1].evaluations[-1].nll


def test_a_million_steps_become_a_csv_in_pieces():
    sizes = [len(piece) for piece in export_csv([million_steps()])]
    assert len(sizes) > 50
    assert max(sizes) < 5e6


def test_json_is_the_document_or_a_list_of_them():
    runs = [_odd_run(), make_run("b")]
    assert json.loads(export_json(runs[1:])) == json.loads(json.dumps(build_document(runs[1])))
    assert [document["run_name"] for document in json.loads(export_json(runs))] == ["odd", "b"]


def test_markdown_is_the_summary_table_with_the_columns_that_are_known():
    lines = export_markdown([make_run("a|b"), make_run("c", evaluations=0)]).splitlines()
    assert lines[0].startswith("| Run | Status | Final train loss | Best val loss |")
    assert lines[2].startswith("| a\\|b | completed |")
    assert lines[3].split(" | ")[3] == "-"
    with pytest.raises(UserError, match="too long to read"):
        export_markdown([make_run()], "steps")
    with pytest.raises(UserError, match="table 'step' is unknown; did you mean 'steps'"):
        export_markdown([make_run()], "step")
    assert "eval_nll" in export_markdown([make_run()], "evaluations").splitlines()[0]


def test_the_comparison_as_json_holds_rows_seeds_differences_and_the_pair(tmp_path):
    runs = [
        make_run(f"{name}{seed}", seed=seed, batch=batch) for name, batch in (("a", 8), ("b", 16)) for seed in (1, 2)
    ]
    data = json.loads(comparison_json([evaluated(run, tmp_path / run.name) for run in runs]))
    assert [row["run"] for row in data["runs"]] == ["a1", "a2", "b1", "b2"]
    assert [row["seeds"] for row in data["seeds"]] == [[1, 2], [1, 2]]
    assert data["differences"] == {"batch": [8, 8, 16, 16]}
    assert data["paired"]["unit"] == "seeds"


def test_tensorboard_reads_back_every_scalar_and_text(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = _odd_run()
    (folder,) = export_tensorboard([run], tmp_path)
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 4.0), (3, 2.5)]
    assert [event.step for event in events.Scalars("eval/nll")] == [record.iter for record in run.evaluations]
    assert events.Scalars("eval/nll")[0].wall_time == pytest.approx(1767323045.678, abs=1e-3)
    assert b"text with" in events.Tensors("samples/0")[0].tensor_proto.string_val[0]
    with pytest.raises(UserError, match="holds event files already"):
        export_tensorboard([run], tmp_path)


def test_wandb_writes_an_offline_run_with_every_value_its_settings_and_the_samples(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "of-a-training-that-is-going-on")
    run = _odd_run("odd", seed=7)
    (folder,) = export_wandb([run], tmp_path)
    assert folder.parent == tmp_path / "wandb"
    assert "of-a-training" not in folder.name
    history, config = _read_wandb(folder)
    assert [(row["_step"], row["train/loss"]) for row in history if "train/loss" in row] == [(1, 4.0), (3, 2.5)]
    assert [row["_step"] for row in history if "eval/nll" in row] == [record.iter for record in run.evaluations]
    assert config["seed"] == 7
    assert any(key.startswith("samples") for row in history for key in row), [list(row) for row in history]


def _read_wandb(folder):
    from wandb.proto.wandb_internal_pb2 import Record

    history, config = [], {}
    for content in _leveldb_records(next(folder.glob("*.wandb")).read_bytes()):
        record = Record()
        record.ParseFromString(content)
        items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        if items:
            history.append(items)
        config.update({item.key: json.loads(item.value_json) for item in record.run.config.update if item.key})
    return history, config


def _leveldb_records(data):
    """The records of a LevelDB log: blocks of 32 KiB, each piece after a CRC, its length and its kind."""
    place, parts = 7, []  # after the header of wandb
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts.append(data[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield b"".join(parts)
            parts = []


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    def broken():
        yield "first"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pieces(tmp_path / "a.csv", broken())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        write_pieces(tmp_path / "file" / "a.csv", ["x"])


def _for_a_paper():
    runs = [make_run(f"mdlm_{seed}", seed=seed, final=2.0 + seed / 100) for seed in (1, 2)]
    runs += [make_run("a&b 50%", objective="ar", bound="exact", final=1.5, seed=1)]
    for run in runs:
        for record in run.evaluations:
            exact = run.bound == "exact"
            record.metrics.update(eval_ppl=math.exp(record.nll), eval_nll_stderr=0.0 if exact else 0.0123)
    return runs


def test_the_table_of_a_paper_marks_bounds_and_has_errors_to_their_second_digit():
    run, _, exact = _for_a_paper()
    lines = export_markdown([run, exact], "results").splitlines()
    assert lines[0] == "| Run | Objective | Parameters | Tokens | NLL (nats/token) | Perplexity | Bits/byte |"
    nll = run.best_evaluation.nll
    ppl, bpb_error = math.exp(nll), 3.0 / nll * 0.0123
    assert f"| ≤ {nll:.3f} ± 0.012 | ≤ {ppl:.3f} ± {ppl * 0.0123:.3f} | ≤ 3.000 ± {bpb_error:.3f} |" in lines[2]
    assert lines[3].endswith(
        f"| {exact.best_evaluation.nll:.4f} | {math.exp(exact.best_evaluation.nll):.2f} | 3.0000 |"
    )
    assert "≤: an upper bound (NELBO). ±: one standard error of the estimate." in lines[-1]
    (row, _) = _rows(export_csv([run, exact], "results"))
    assert (float(row["perplexity"]), float(row["perplexity_stderr"])) == pytest.approx((ppl, ppl * 0.0123))
    assert (row["bound"], row["seeds"]) == ("nelbo", "")


def test_several_seeds_are_one_line_of_a_paper_with_the_error_of_their_mean():
    first, second, exact = _for_a_paper()
    row, other = _rows(export_csv([first, second, exact], "results"))
    perplexities = [math.exp(run.best_evaluation.nll) for run in (first, second)]
    assert (row["run"], row["seeds"], other["seeds"]) == ("mdlm", "1 2", "1")
    assert float(row["perplexity"]) == pytest.approx(sum(perplexities) / 2)
    assert float(row["perplexity_stderr"]) == pytest.approx(abs(perplexities[0] - perplexities[1]) / 2)
    assert other["perplexity_stderr"] == ""
    assert "of the mean over seeds" in export_markdown([first, second, exact], "results")


def test_the_latex_table_is_booktabs_and_escapes_what_latex_reads_as_its_own():
    text = export_latex(_for_a_paper()[1:])
    lines = [line.strip() for line in text.splitlines()]
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    begins = [line for line in lines if line.startswith((r"\begin", r"\end"))]
    columns = re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", begins[1])[1]
    assert [begins[0], *begins[2:]] == [r"\begin{table}[t]", r"\end{tabular}", r"\end{table}"]
    for line in [lines[lines.index(r"\toprule") + 1], *body]:
        assert line.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1
        assert len(re.findall(r"(?<!\\)\$", line)) % 2 == 0
        assert not re.search(r"(?<!\\)[%#_]", line)
    assert body[0].startswith(r"mdlm\_2 & mdlm & ")
    assert re.search(r"& \$\\le \d\.\d+ \\pm 0\.012\$ &", body[0])
    assert body[1].startswith(r"a\&b 50\% & ar & ")
    assert "≤" not in "".join(lines[lines.index(r"\begin{table}[t]") :])
    # What is said of the difference is for the author: outside of the caption.
    assert [line for line in lines if "Fairness" in line] == [line for line in lines if line.startswith("% Fairness")]
    with pytest.raises(UserError, match="--table steps has no LaTeX form"):
        export_latex(_for_a_paper(), "steps")


def test_latex_reads_what_a_name_holds_as_text():
    text = export_latex([make_run("\\input{x}~^${}|<>")])
    assert (
        r"\textbackslash{}input\{x\}\textasciitilde{}\textasciicircum{}\$\{\}\textbar{}\textless{}\textgreater{} &"
        in text
    )


def test_the_table_of_a_paper_says_nothing_of_what_a_foreign_log_leaves_open():
    run = make_run("stock", objective=None, bound=None)
    for record in run.evaluations:
        record.metrics = {"eval_loss": record.nll}
    text = export_markdown([run], "results")
    assert text.splitlines()[0] == "| Run | Objective | Parameters | Tokens | Loss |"
    assert "≤" not in text
    assert "Whether the numbers of stock are exact or bounds is not in the logs." in text
