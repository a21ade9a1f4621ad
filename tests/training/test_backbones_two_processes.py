"""Two processes train what one does: parameters without a gradient, a router loss, rows that go one by one.

Run by torchrun, this file is the script of both processes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes.seen_rows import Rows
from processes.two_processes import run_as_one_of_them, run_two_processes
from transformers import FNetConfig, LongformerConfig, MBartConfig, MBartForCausalLM, MixtralConfig

from hf_difflm.data import load_tokenizer
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments

WIDTHS = {
    "vocab_size": 260,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
SPECIAL = {"pad_token_id": 258, "bos_token_id": 256, "eos_token_id": 257}
RUNS: dict[str, dict[str, Any]] = {
    "longformer": {},  # the weights of its global attention
    "mbart": {"objective": "ar"},  # those of the attention to an encoder
    "mixtral": {"router_aux_loss": 0.5},
    "fnet": {},
}


def network(name: str) -> Any:
    torch.manual_seed(0)
    if name == "mbart":
        sizes = {"d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32}
        return MBartForCausalLM(MBartConfig(vocab_size=260, **sizes, **SPECIAL, is_decoder=True, dropout=0.0))
    backbone: Any = {
        "longformer": lambda: LongformerConfig(**WIDTHS, **SPECIAL, attention_window=8, max_position_embeddings=512),
        "mixtral": lambda: MixtralConfig(**WIDTHS, **SPECIAL, num_local_experts=4, num_key_value_heads=2),
        "fnet": lambda: FNetConfig(**{k: v for k, v in WIDTHS.items() if "heads" not in k}, **SPECIAL),
    }[name]()
    for field in vars(backbone):
        if "dropout" in field:
            setattr(backbone, field, 0.0)
    return MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone, mask_token_id=259))


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    sizes = generator.integers(3, 20, count)
    return [{"input_ids": [256, *(97 + generator.integers(0, 6, n)).tolist()]} for n in sizes]


def train(folder: Path, name: str, ranks: int) -> dict[str, Any]:
    arguments = DiffusionTrainingArguments(
        output_dir=str(folder / name),
        global_batch_size=8,
        per_device_train_batch_size=8 // ranks,
        max_steps=3,
        optim="sgd",
        learning_rate=0.1,
        logging_steps=1,
        eval_strategy="no",
        save_strategy="no",
        save_log_to_json=False,
        use_cpu=True,
        disable_tqdm=True,
        **RUNS[name],
    )
    seen = Rows()
    trainer = DiffusionTrainer(network(name), arguments, rows(24, 0), None, load_tokenizer("bytes"), callbacks=[seen])
    trainer.train()
    return {
        "ranks": trainer.accelerator.num_processes,
        "without": trainer.backbone_verdict.without_gradient,
        "rows": seen.rows,
        "weights": {key: p.detach().clone() for key, p in trainer.model.named_parameters()},
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.save({name: train(folder, name, 2) for name in RUNS}, folder / f"rank{os.environ['RANK']}.pt")


@pytest.fixture(scope="module")
def by_two(tmp_path_factory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two")
    run_two_processes(__file__, folder, timeout=240)
    return torch.load(folder / "rank0.pt", weights_only=False)


@pytest.mark.slow
@pytest.mark.borders
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_as_one(by_two, name, tmp_path):
    two, one = by_two[name], train(tmp_path, name, 1)
    assert (two["ranks"], one["ranks"]) == (2, 1)
    assert bool(two["without"]) is (name in ("longformer", "mbart"))
    for step, expected in zip(two["rows"], one["rows"], strict=True):
        for key in ("loss", "grad_norm", *(["aux_loss"] if name == "mixtral" else [])):
            assert step[key] == pytest.approx(expected[key], rel=1e-4), key
    for key, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][key], weight, rtol=1e-4, atol=1e-5, msg=key)


if __name__ == "__main__":
    run_as_one_of_them(main)
