"""What the Trainer logs, when it waits for the device, what it keeps as best, and how a run ends."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.objectives import base
from hf_difflm.runs.journal.checkpoints import checkpoints, damage
from hf_difflm.training.trainer_parts.flow import TrainingDiverged


def journal(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def finite(file: Path) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in load_file(file).values() if tensor.is_floating_point())


class At(TrainerCallback):
    """Does something in one step: before its forward pass, or once it is done."""

    def __init__(self, step: int, action, begin: bool = False) -> None:
        self.step, self.action, self.begin = step, action, begin

    def on_step_begin(self, args, state, control, **kwargs):
        if self.begin and state.global_step + 1 == self.step:
            self.action(kwargs["model"])

    def on_step_end(self, args, state, control, **kwargs):
        if not self.begin and state.global_step == self.step:
            self.action(kwargs["model"])


# ---- what is logged ----


@pytest.mark.parametrize("objective", ["mdlm", "ar"])
def test_each_logging_step_has_the_quantities_of_the_contract(make_diffusion_trainer, objective):
    trainer = make_diffusion_trainer(objective=objective, save_log_to_json=False)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logs] == [2, 4, 6]
    expected = {"loss", "grad_norm", "learning_rate", "tokens_per_sec", "time_ms", "accuracy"}
    if objective == "mdlm":
        for name in ("noise_level", "masking_rate"):
            expected |= {name, f"{name}_min", f"{name}_max"}
    for entry in logs:
        assert expected <= entry.keys()
        assert all(math.isfinite(entry[name]) for name in expected)
    if objective == "mdlm":
        last = logs[-1]
        assert 0 < last["masking_rate_min"] <= last["masking_rate"] <= last["masking_rate_max"] <= 1
        assert last["masking_rate_max"] - last["masking_rate_min"] > 0.5  # four strata


def test_the_run_log_has_a_row_for_every_step_and_counts_the_scored_tokens(make_diffusion_trainer, tmp_path):
    trainer = make_diffusion_trainer()
    trainer.train()
    steps = [record for record in journal(tmp_path / "run") if record.get("iter") and "grad_norm" in record]
    assert [record["iter"] for record in steps] == [1, 2, 3, 4, 5, 6]
    assert [record["tokens_seen"] for record in steps] == [4 * 11 * step for step in range(1, 7)]
    assert trainer.state.num_input_tokens_seen == 4 * 11 * 6


@pytest.mark.borders
@pytest.mark.parametrize("include", ["no", "all", "non_padding"])
def test_tokens_are_counted_once_whatever_transformers_is_asked_to_count(make_diffusion_trainer, include):
    trainer = make_diffusion_trainer(include_num_input_tokens_seen=include, save_log_to_json=False)
    trainer.train()
    scored = 6 * 4 * 11  # of rows of 12 the BOS is context
    assert trainer.state.num_input_tokens_seen == scored
    logged = [entry["num_input_tokens_seen"] for entry in trainer.state.log_history if "num_input_tokens_seen" in entry]
    assert logged[-1:] == ([] if include == "no" else [scored])


def test_evaluation_reports_its_bound_and_both_errors(make_diffusion_trainer, train_rows):
    trainer = make_diffusion_trainer(evaluation=train_rows(10, seed=1))
    metrics = trainer.evaluate()
    assert metrics["eval_bound"] == "nelbo"
    assert metrics["eval_loss"] == metrics["eval_nll"]
    assert metrics["eval_nll_stderr"] > 0
    assert metrics["eval_nll_data_stderr"] > 0
    assert any(name.startswith("eval_accuracy_noise_") for name in metrics)
    exact = make_diffusion_trainer(objective="ar", evaluation=train_rows(10, seed=1)).evaluate()
    assert (exact["eval_bound"], exact["eval_nll_stderr"]) == ("exact", 0.0)


def test_several_evaluation_sets_keep_their_names(make_diffusion_trainer, train_rows):
    trainer = make_diffusion_trainer(evaluation={"a": train_rows(4, seed=1), "b": train_rows(4, seed=2)})
    metrics = trainer.evaluate()
    assert metrics["eval_a_nll"] != metrics["eval_b_nll"]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"eval_strategy": "steps", "eval_steps": 4, "max_steps": 7}, [4, 7]),
        ({"eval_strategy": "steps", "eval_steps": 3, "max_steps": 6}, [3, 6]),
        ({"eval_strategy": "epoch", "max_steps": -1, "num_train_epochs": 2}, [6, 12]),
        ({"eval_strategy": "epoch", "max_steps": 8}, [6, 8]),
    ],
)
def test_the_last_step_is_logged_and_evaluated_once(make_diffusion_trainer, train_rows, settings, steps):
    trainer = make_diffusion_trainer(evaluation=train_rows(4), logging_steps=50, save_log_to_json=False, **settings)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "eval_nll" in entry] == steps
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == steps[-1:]


# ---- when the host waits ----


class OnDevice(torch.Tensor):
    """Stands for a tensor on an accelerator; whatever is computed from it is one too."""


def watch_syncs(monkeypatch, when) -> list[tuple[int, str]]:
    """Note (step, what) whenever the host asks for the value of a device tensor, or of any floating-point number."""
    seen: list[tuple[int, str]] = []

    def watch(name: str) -> None:
        plain = getattr(torch.Tensor, name)

        def noted(self, *args, **kwargs):
            if isinstance(self, OnDevice) or self.is_floating_point():
                seen.append((when(), name))
            with torch._C.DisableTorchFunctionSubclass():  # else the subclass would call this once more
                return plain(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, noted)

    for name in ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__"):
        watch(name)
    nonzero = torch.nonzero
    monkeypatch.setattr(
        torch, "nonzero", lambda x, **kwargs: x.nonzero() if isinstance(x, OnDevice) else nonzero(x, **kwargs)
    )
    for module in ("masked_diffusion", "causal"):
        path = f"hf_difflm.objectives.{module}.to_device"
        monkeypatch.setattr(path, lambda tensor, device: base.to_device(tensor, device).as_subclass(OnDevice))
    return seen


@pytest.mark.parametrize("objective", ["mdlm", "ar"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_training_waits_for_the_device_once_a_logging_step(
    make_diffusion_trainer, monkeypatch, objective, accumulation
):
    trainer = make_diffusion_trainer(
        objective=objective,
        logging_steps=3,
        per_device_train_batch_size=4 // accumulation,
        gradient_accumulation_steps=accumulation,
        optim="sgd",  # Adam reads its step counters, which lie on the host
        ema_decay=0.9,
        save_log_to_json=False,
    )
    seen = watch_syncs(monkeypatch, lambda: trainer.state.global_step)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [3, 6]
    # The last one is the Trainer's own, for the mean loss it returns at the end.
    assert seen == [(3, "tolist"), (6, "tolist"), (6, "item")]


# ---- what is kept ----


def test_best_holds_the_averaged_weights_of_the_lowest_nll(make_diffusion_trainer, tiny_denoiser, train_rows, tmp_path):
    def spoil(model):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3)

    evaluation = train_rows(12, seed=1)
    settings = {"ema_decay": 0.5, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 8}
    trainer = make_diffusion_trainer(At(5, spoil), evaluation=evaluation, **settings)
    trainer.train()
    nll = {entry["step"]: entry["eval_nll"] for entry in trainer.state.log_history if "eval_nll" in entry}
    assert list(nll) == [2, 4, 6, 8]
    assert min(nll, key=nll.get) == 4  # not the last one: the choice is seen
    best = MaskedDiffusionForMaskedLM.from_pretrained(tmp_path / "run" / "best")
    again = make_diffusion_trainer(model=best, evaluation=evaluation, output_dir=str(tmp_path / "other"))
    assert again.evaluate()["eval_nll"] == nll[4]
    assert trainer.state.best_metric == nll[4]
    names = {path.name for path in (tmp_path / "run" / "best").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert "training_args.bin" not in names
    assert not list((tmp_path / "run").glob("best.*"))


@pytest.mark.borders
@pytest.mark.parametrize("metric", ["eval_ppl", "bpb"])
def test_the_lowest_of_a_metric_is_kept_and_early_stopping_lets_a_run_improve(
    make_diffusion_trainer, train_rows, tmp_path, metric
):
    stopping = EarlyStoppingCallback(early_stopping_patience=1)
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2, "max_steps": 6}
    trainer = make_diffusion_trainer(
        stopping,
        evaluation=[{**row, "num_bytes": 8} for row in train_rows(8, seed=5)],
        metric_for_best_model=metric,
        load_best_model_at_end=True,
        learning_rate=0.05,
        output_dir=str(tmp_path / "out"),
        **settings,
    )
    trainer.train()
    name = f"eval_{metric.removeprefix('eval_')}"
    found = {log["step"]: log[name] for log in trainer.state.log_history if name in log}
    assert max(found) == 6  # it improved all along, or it would have been stopped
    assert trainer.state.best_metric == min(found.values())
    best = json.loads((tmp_path / "out" / "best_evaluation.json").read_text())
    assert found[best["iter"]] == min(found.values())


def test_the_weights_of_training_are_not_the_average_after_an_evaluation(make_diffusion_trainer, train_rows):
    trainer = make_diffusion_trainer(ema_decay=0.9, evaluation=train_rows(4), save_log_to_json=False)
    trainer.train()
    own = [p.detach().clone() for p in trainer.model.parameters()]
    with trainer.evaluated_weights():
        assert any(not torch.equal(a, b) for a, b in zip(own, trainer.model.parameters(), strict=True))
    trainer.evaluate()
    assert all(torch.equal(a, b) for a, b in zip(own, trainer.model.parameters(), strict=True))


def test_checkpoints_are_good_limited_and_hold_the_average(make_diffusion_trainer, tmp_path):
    make_diffusion_trainer(save_strategy="steps", save_steps=2, save_total_limit=2, ema_decay=0.9).train()
    found = checkpoints(tmp_path / "run")
    assert [path.name for path in found] == ["checkpoint-6", "checkpoint-4"]
    for path in found:
        assert damage(path) is None
        assert {"ema.safetensors", "model.safetensors", "optimizer.pt"} <= {p.name for p in path.iterdir()}
    model = found[0] / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    assert "model.safetensors" in damage(found[0])


# ---- how a run ends ----


@pytest.mark.parametrize("logging_steps", [1, 50])
@pytest.mark.parametrize(
    ("before_the_loss", "what"),
    [(True, "loss became nan at step 2"), (False, "weights stopped being finite by step 2")],
)
def test_a_run_that_diverges_stops_names_the_last_good_checkpoint_and_saves_nothing_else(
    make_diffusion_trainer, train_rows, tmp_path, logging_steps, before_the_loss, what
):
    trainer = make_diffusion_trainer(
        At(2, lambda model: torch.nn.init.constant_(model.backbone.norm.weight, math.nan), begin=before_the_loss),
        logging_steps=logging_steps,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        evaluation=train_rows(4),
        ema_decay=0.9,
    )
    run = tmp_path / "run"
    with pytest.raises(TrainingDiverged, match=rf"{what}.*checkpoint-1;"):
        trainer.train()
    assert [path.name for path in checkpoints(run)] == ["checkpoint-1"]
    assert damage(run / "checkpoint-1") is None
    saved = sorted(run.rglob("*.safetensors"))
    assert len(saved) == 3  # weights and average of the checkpoint, and best/
    assert all(finite(file) for file in saved)
    assert [record["event"] for record in journal(run) if "event" in record][-1] == "failed"


def test_a_run_that_diverges_at_once_says_that_nothing_was_saved(make_diffusion_trainer, tmp_path):
    poison = At(1, lambda model: torch.nn.init.constant_(model.backbone.norm.weight, math.inf), begin=True)
    trainer = make_diffusion_trainer(poison, logging_steps=1, save_strategy="steps", save_steps=1)
    with pytest.raises(TrainingDiverged, match="no checkpoint was saved"):
        trainer.train()
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def interrupt(*args) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_interrupt_stops_after_the_step_with_a_checkpoint(make_diffusion_trainer, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    trainer = make_diffusion_trainer(At(3, interrupt, begin=True), save_strategy="steps", save_steps=50)
    trainer.train()
    assert trainer.interrupt.interrupted
    assert trainer.state.global_step == 3
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-3"]
    assert damage(tmp_path / "run" / "checkpoint-3") is None
    records = journal(tmp_path / "run")
    assert [record["event"] for record in records if "event" in record][-1] == "interrupted"
    assert [record["iter"] for record in records if "grad_norm" in record] == [1, 2, 3]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_aborts_and_the_log_says_so(make_diffusion_trainer, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    trainer = make_diffusion_trainer(At(2, interrupt, begin=True), At(2, interrupt, begin=True))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.state.global_step == 1
    assert [record["event"] for record in journal(tmp_path / "run") if "event" in record][-1] == "interrupted"
    assert signal.getsignal(signal.SIGINT) is before


def test_an_epoch_that_is_logged_at_its_end_has_its_accuracy(make_diffusion_trainer):
    trainer = make_diffusion_trainer(logging_strategy="epoch", max_steps=-1, num_train_epochs=2, save_log_to_json=False)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logs] == [6, 12]
    assert all("accuracy" in entry for entry in logs)
