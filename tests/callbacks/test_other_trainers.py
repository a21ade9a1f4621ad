"""The callbacks in TRL's Trainers, Seq2SeqTrainer, sentence-transformers' and a loop of one's own: no panel stays empty."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from any_trainer import KINDS, OTHERS, build_trainer
from transformers import LlamaConfig, LlamaForCausalLM, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from hf_difflm.callbacks import (
    AlertCallback,
    DashboardCallback,
    GenerationSamplesCallback,
    GradientNormCallback,
    ModelStatisticsCallback,
    RunLogCallback,
    ThroughputCallback,
)
from hf_difflm.runs import Run, load_run
from hf_difflm.runs.comparing.seeds import seed_groups
from hf_difflm.runs.dashboard import figure
from hf_difflm.runs.dashboard.files import pictures
from hf_difflm.runs.pages.curves import page_data
from hf_difflm.runs.pages.html import write_html_report

# What each logs that must be in a panel of its own.
TELLING = {
    "classifier": set(),
    "causal": set(),
    "diffusion": set(),
    "sft": {"Mean token accuracy"},
    "dpo": {"Mean token accuracy"},
    "reward": {"Accuracy", "mean_reward"},
    "grpo": {"reward", "rewards/_share_of_letters/mean"},
    "seq2seq": {"eval_right_starts"},
    "sentences": set(),
}


def everything() -> list:
    return [
        RunLogCallback(),
        ThroughputCallback(),
        GradientNormCallback(),
        ModelStatisticsCallback(interval=4),
        GenerationSamplesCallback(["", "ab"], interval=4, max_new_tokens=4),
        AlertCallback(),
        DashboardCallback(viz_interval=4),
    ]


def titles(run: Run, monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """The titles of the panels; fails where one says that it has nothing to show."""
    drawn = []
    monkeypatch.setattr(figure, "save", lambda picture, path: drawn.append(picture) or path)
    figure.draw_dashboard(run, folder / "any.png")
    said = [text.get_text() for axes in drawn[0].axes for text in axes.texts]
    assert [text for text in said if "not logged" in text or text.startswith("no ")] == []
    return [axes.get_title(loc="left") for axes in drawn[0].axes]


@pytest.mark.parametrize("kind", [*KINDS, *(pytest.param(kind, marks=pytest.mark.slow) for kind in OTHERS)])
def test_every_panel_is_filled_and_every_interval_has_its_picture(kind, tmp_path, monkeypatch):
    trainer = build_trainer(kind, tmp_path / "mine", *everything(), max_steps=12, eval_strategy="steps", eval_steps=4)
    trainer.train()
    run = load_run(tmp_path / "mine")
    assert (run.name, run.status, run.death) == ("mine", "completed", None)
    assert sorted(pictures(tmp_path / "mine" / "dashboard")) == [4, 8, 12]
    shown = titles(run, monkeypatch, tmp_path)
    assert set(shown) >= TELLING[kind] | {"Training loss", "Throughput"}
    charts = {
        chart["title"]: chart["curves"][0]
        for chart in page_data([run], ["mine"], seed_groups([run], ["mine"]))["charts"]
    }
    assert all(len(curve["x"]) > 1 for curve in charts.values())
    assert {"Training loss", "grad_norm/attention"} <= charts.keys() or kind == "diffusion"
    page = write_html_report([run], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Without a chart here, but in the logs: " in page
    for name in {name for record in run.measurements if record.source == "gradients" for name in record.metrics}:
        assert name in charts or name in page.split("Without a chart here")[1].split("</p>")[0]


def test_the_callbacks_in_a_loop_of_ones_own(tmp_path, monkeypatch):
    # Before the Accelerator: making training arguments resets the state that all Accelerators share.
    args = TrainingArguments(
        str(tmp_path / "loop"), max_steps=12, logging_steps=2, gradient_accumulation_steps=2, use_cpu=True
    )
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes))
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 32, (48, 8))]
    model, optimizer, loader = accelerator.prepare(
        network, torch.optim.AdamW(network.parameters(), 1e-2), torch.utils.data.DataLoader(rows, batch_size=2)
    )
    state, control = TrainerState(max_steps=12, logging_steps=2), TrainerControl()
    callbacks = [each for each in everything() if not isinstance(each, GenerationSamplesCallback)]
    watch = CallbackHandler(callbacks, model, None, optimizer, None)
    losses, norm = [], torch.zeros(())
    watch.on_train_begin(args, state, control)
    watch.on_epoch_begin(args, state, control)
    for place, batch in enumerate(loader):
        if place % 2 == 0:
            watch.on_step_begin(args, state, control)
        with accelerator.accumulate(model):
            loss = model(**batch).loss
            losses.append(loss.detach())
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
                watch.on_pre_optimizer_step(args, state, control)
            optimizer.step()
            optimizer.zero_grad()
        if not accelerator.sync_gradients:
            watch.on_substep_end(args, state, control)
            continue
        state.global_step += 1
        watch.on_step_end(args, state, control)
        if state.global_step % 2 == 0:
            logs = {"loss": torch.stack(losses).mean().item(), "grad_norm": norm.item(), "learning_rate": 1e-2}
            watch.on_log(args, state, control, logs)
            losses = []
    watch.on_epoch_end(args, state, control)
    watch.on_train_end(args, state, control)
    run = load_run(tmp_path / "loop")
    assert (run.name, run.status, run.column("iter").tolist()) == ("loop", "completed", [2, 4, 6, 8, 10, 12])
    assert {record.source for record in run.measurements} == {"gradients", "statistics", "throughput"}
    gradients = [record for record in run.measurements if record.source == "gradients"]
    assert [record.metrics["grad_norm/global"] for record in gradients] == pytest.approx(
        run.column("grad_norm").tolist(), rel=1e-5
    )
    assert sorted(pictures(tmp_path / "loop" / "dashboard")) == [4, 8, 12]
    assert "Throughput" in titles(run, monkeypatch, tmp_path)
