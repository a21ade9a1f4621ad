"""`train --init-from MODEL --sft --lora-r R`: the usual line of fine-tuning, killed, resumed, loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from hf_difflm.errors import UserError
from hf_difflm.evaluation.targets import data_options, load_target
from hf_difflm.experiments.one_run import train_run
from hf_difflm.experiments.recipe_settings import load_settings, resumed_settings
from hf_difflm.runs import load_run

pytest.importorskip("peft")

FLAGS: dict[str, Any] = {
    "sft": True,
    "block_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_steps": 4,
    "logging_steps": 1,
    "save_steps": 2,
    "eval_steps": 4,
    "eval_replicates": 2,
    "per_device_train_batch_size": 4,
    "use_cpu": True,
    "viz_interval": 0,
    "generate_interval": 4,
    "generation_max_new_tokens": 4,
    "disable_tqdm": True,
}


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    rows = [[{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": str(2 * i)}] for i in range(40)]
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_adapters_of_a_model_are_trained_killed_resumed_evaluated_and_sampled(tmp_path: Path, conversations: Path):
    base, run = tmp_path / "base", tmp_path / "run"
    train_run(load_settings(None, FLAGS | {"dataset": str(conversations)}), base)
    counts = load_run(base).header.data["counts"]["train"]
    assert counts["scored_share"] == counts["tokens"] / (counts["tokens"] + counts["context_tokens"])

    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    flags = {name: value for name, value in FLAGS.items() if name not in sizes}
    flags |= {"dataset": str(conversations), "init_from": str(base), "lora_r": 2, "learning_rate": 0.01}
    train_run(load_settings(None, flags), run)
    log = load_run(run)
    assert log.header.model["trainable_parameters"] < log.header.model["parameters"]
    assert {sample.prompt.splitlines()[-1] for sample in log.samples} == {"Assistant:"}

    # As a kill leaves it that came after the first checkpoint.
    journal = run / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    ended = next(number for number, line in enumerate(lines) if json.loads(line).get("event") == "completed")
    journal.write_text("".join(lines[:ended]))
    whole = load_file(run / "checkpoint-4/adapter_model.safetensors")
    shutil.rmtree(run / "checkpoint-4")
    train_run(resumed_settings(load_run(run).config, {}), run, resume=True)
    again = load_file(run / "checkpoint-4/adapter_model.safetensors")
    assert all((whole[name] == again[name]).all() for name in whole)

    with pytest.raises(UserError, match="lora_r = 3"):
        train_run(resumed_settings(load_run(run).config, {"lora_r": 3}), run, resume=True)
    target = load_target(str(run), use_cpu=True)
    assert data_options(target, {}).sft
    assert target.tokenizer.chat_template is not None
