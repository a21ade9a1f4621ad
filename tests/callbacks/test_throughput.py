"""Throughput against a clock and a counter of the test's own."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from any_trainer import build_trainer
from processes.two_processes import run_as_one_of_them, run_two_processes
from spent_time import COSTS, SpentTime

from hf_difflm.callbacks import RunLogCallback
from hf_difflm.callbacks.measuring.device_use import DeviceUtilization, host_memory_mb, peak_memory_mb
from hf_difflm.callbacks.throughput import ThroughputCallback
from hf_difflm.errors import UserError
from hf_difflm.runs import load_run

APART = ("evaluation", "saving", "sampling")


@pytest.fixture
def spent(monkeypatch):
    clock = SpentTime(sample_at=(2, 3, 6))
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    return clock


def numbers(record: Any) -> dict[str, Any]:
    assert record.source == "throughput"
    return {name.removeprefix("throughput/"): value for name, value in record.metrics.items()}


def train(trainer: Any, spent: SpentTime) -> list[tuple[int, dict[str, Any], dict[str, float]]]:
    spent.live_in(trainer)
    trainer.train()
    return [(one.iter, numbers(one), page) for one, page in zip(spent.measured, spent.pages, strict=True)]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_rates_are_those_of_training_alone_and_the_rest_is_told_apart(any_trainer, spent, accumulation):
    trainer = any_trainer(
        spent,
        ThroughputCallback(),
        gradient_accumulation_steps=accumulation,
        save_strategy="steps",
        save_steps=3,
        eval_strategy="steps",
        eval_steps=2,
        metric_for_best_model="eval_loss",
    )
    scored = 11 / 12 if any_trainer.kind == "diffusion" else 1  # it scores all but the BOS, and says so
    pages = train(trainer, spent)
    logs = [2, 3, 4, 6] if any_trainer.kind == "diffusion" else [2, 4, 6]  # it logs before it saves
    assert [step for step, _, _ in pages] == [*logs, 6]
    for begun, (step, found, page) in zip([0, *logs], pages[:-1], strict=False):
        training = page["forward"] + page["data"]
        assert page["forward"] == (step - begun) * accumulation * COSTS["forward"]
        assert found["step_time_ms"] == pytest.approx(1e3 * training / (step - begun))
        assert found["data_wait_s"] == page["data"] > 0
        assert found["tokens_per_sec"] == pytest.approx(scored * page["tokens"] / training, abs=1e-3)
        assert found["tokens_per_sec_per_device"] == found["tokens_per_sec"]
        assert {name: found.get(f"{name}_s", 0) for name in APART} == {name: page.get(name, 0) for name in APART}
        assert found["mfu"] is found["peak_memory_mb"] is found["device_utilization"] is None
        assert found["host_memory_mb"] > 100
    _, last, page = pages[-1]  # what came after the last step: nothing but that
    assert last == {f"{name}_s": page[name] for name in APART if name in page}
    assert set(last) == {"evaluation_s", "saving_s"}


def test_both_logs_of_a_trainer_that_knows_its_steps_agree(any_trainer, spent, tmp_path):
    callbacks = [spent, RunLogCallback(peak_flops=1e9), ThroughputCallback(peak_flops=1e9)]
    own = {"peak_flops": 1e9} if any_trainer.kind == "diffusion" else {}
    pages = train(any_trainer(*callbacks, eval_strategy="steps", eval_steps=2, **own), spent)
    run = load_run(tmp_path / "out")
    for step, found, _ in pages[:3]:
        rows = [row for row in run.steps if step - 2 < row.iter <= step]
        assert found["step_time_ms"] == pytest.approx(sum(row.time_ms for row in rows) / len(rows), rel=1e-3)
        if rows[0].tokens_per_sec is not None:
            seconds = sum(row.time_ms for row in rows) / 1e3
            before = [row.tokens_seen for row in run.steps if row.iter <= step - 2]
            tokens = rows[-1].tokens_seen - (before[-1] if before else 0)
            assert found["tokens_per_sec"] == pytest.approx(tokens / seconds, rel=1e-4)
        if rows[0].mfu is None:
            assert found["mfu"] is None
            assert any_trainer.kind == "classifier"  # whose FLOPs are not known
        else:
            assert found["mfu"] == pytest.approx(sum(row.mfu for row in rows) / len(rows), abs=2e-3, rel=1e-2)


def test_an_interval_reports_at_the_first_log_after_it_over_all_steps_since(make_trainer, spent):
    spent.sample_at = (1, 4)
    pages = train(make_trainer(spent, ThroughputCallback(interval=3), max_steps=10), spent)
    assert [step for step, _, _ in pages] == [4, 8]
    for _, found, page in pages:
        assert found["step_time_ms"] == pytest.approx(1e3 * (page["forward"] + page["data"]) / 4)
        assert found["tokens_per_sec"] == pytest.approx(page["tokens"] / (page["forward"] + page["data"]), abs=1e-3)
    assert [found.get("sampling_s") for _, found, _ in pages] == [10.0, None]


def test_tokens_the_trainer_counts_win_over_those_of_the_forward_passes(make_trainer, spent):
    spent.sample_at = ()
    trainer = make_trainer(spent, ThroughputCallback(), include_num_input_tokens_seen="all")
    for _, found, page in train(trainer, spent):
        assert found["tokens_per_sec"] == pytest.approx(page["tokens"] / (page["forward"] + page["data"]), abs=1e-3)
    assert trainer.state.num_input_tokens_seen == 6 * 2 * 8


def test_interval_0_measures_nothing_and_training_is_the_same(make_trainer, spent):
    spent.sample_at = ()
    off = make_trainer(spent, ThroughputCallback(interval=0))
    assert train(off, spent) == []
    on = make_trainer(ThroughputCallback())
    on.train()
    for (name, one), (_, other) in zip(off.model.named_parameters(), on.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    assert not any(module._forward_pre_hooks for module in on.model.modules())


def test_the_measurements_are_in_the_run_log(make_trainer, tmp_path):
    make_trainer(ThroughputCallback(), RunLogCallback(), eval_strategy="steps", eval_steps=3).train()
    measured = load_run(tmp_path / "out").measurements
    assert [one.iter for one in measured] == [2, 4, 6, 6]
    assert measured[0].metrics["throughput/step_time_ms"] > 0
    assert measured[0].metrics["throughput/peak_memory_mb"] is None
    assert measured[1].metrics["throughput/evaluation_s"] > 0


def test_bad_settings_are_a_sentence():
    with pytest.raises(UserError, match="interval is -1; give a number of steps"):
        ThroughputCallback(interval=-1)
    with pytest.raises(UserError, match="peak_flops is 0; give the FLOP/s"):
        ThroughputCallback(peak_flops=0)


def test_the_memory_of_the_host_is_the_resident_peak():
    before = host_memory_mb()
    held = bytearray(os.urandom(1)) * (300 * 2**20)
    assert host_memory_mb() >= max(before, 300)
    assert host_memory_mb() == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, rel=0.1)
    del held


def test_a_device_that_tells_nothing_gives_null(monkeypatch, caplog):
    assert peak_memory_mb(torch.device("cpu")) is None
    assert peak_memory_mb(torch.device("mps")) is None
    assert DeviceUtilization(torch.device("cpu")).percent() is None
    calls = []

    def fails(device: Any, error: Exception) -> int:
        calls.append(device)
        raise error

    for error, warnings in ((ModuleNotFoundError("pynvml"), 0), (SystemError("no permission"), 1)):
        monkeypatch.setattr("torch.cuda.utilization", lambda device, error=error: fails(device, error))
        caplog.clear()
        use = DeviceUtilization(torch.device("cuda", 0))
        assert use.percent() is use.percent() is None
        assert len(caplog.records) == warnings
    assert len(calls) == 2  # not asked again


def test_a_device_that_tells_is_believed(monkeypatch):
    monkeypatch.setattr("torch.cuda.utilization", lambda device: 83)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: 3 * 2**20)
    assert DeviceUtilization(torch.device("cuda", 0)).percent() == 83.0
    assert peak_memory_mb(torch.device("cuda", 0)) == 3.0


@pytest.mark.slow
def test_of_two_processes_one_reports_and_the_rates_are_global(tmp_path):
    run_two_processes(__file__, tmp_path)
    for kind in ("causal", "diffusion"):
        first, second = (json.loads((tmp_path / f"{kind}{rank}.json").read_text()) for rank in (0, 1))
        assert len(first["reports"]) == 3
        assert second["reports"] == []
        assert [page["tokens"] for page in first["pages"]] != [page["tokens"] for page in second["pages"]]
        for found, page, other in zip(first["reports"], first["pages"], second["pages"], strict=True):
            tokens = page["tokens"] + other["tokens"]
            if kind == "causal":
                seconds = page["forward"] + page["data"]
                assert found["throughput/tokens_per_sec"] == pytest.approx(tokens / seconds, abs=1e-3)
                assert found["throughput/data_wait_s"] == max(page["data"], other["data"])
            per_device = found["throughput/tokens_per_sec_per_device"]
            assert per_device == pytest.approx(found["throughput/tokens_per_sec"] / 2, abs=1e-3)
        if kind == "diffusion":
            rates = [report["throughput/tokens_per_sec"] for report in first["reports"]]
            assert rates == pytest.approx(first["logged"], rel=1e-4)


def padded(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    ids_BL = torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows])
    return {"input_ids": ids_BL, "labels": ids_BL}


def main(folder: Path) -> None:
    """One of two processes; the second waits longer for its data."""
    import time

    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    for kind in ("causal", "diffusion"):
        spent = SpentTime({"data": 0.25 + 0.5 * rank}, page_a_log=True)
        time.perf_counter = lambda spent=spent: spent.now
        trainer = build_trainer(kind, folder / kind, ThroughputCallback(), spent)
        trainer.train_dataset = [{"input_ids": [256, *range(97, 98 + place % 7)]} for place in range(48)]
        if kind == "causal":
            trainer.data_collator = padded
        spent.live_in(trainer)
        trainer.train()
        logged = [entry.get("tokens_per_sec") for entry in trainer.state.log_history if "loss" in entry]
        outcome = {"reports": [one.metrics for one in spent.measured], "pages": spent.pages, "logged": logged}
        (folder / f"{kind}{rank}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    run_as_one_of_them(main)
