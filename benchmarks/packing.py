"""A training step on rows whose documents see nothing of each other, against one on blocks cut from one stream.

python-docs as bytes, rows of 1,024 tokens, a Llama of hidden size 256 and 4 layers, sides in turn: collating, noise, forward
and backward pass, clipping, fused AdamW. Claims: at most 8 % slower, and less than 2 % padding with ``best-fit``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from _alternate import alternate, milliseconds, ratio, write
from _claims import Claim
from transformers import LlamaConfig, LlamaForCausalLM

from hf_difflm import DiffusionTrainer, DiffusionTrainingArguments, MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm import data as texts
from hf_difflm.data import DataOptions, load_tokenizer

SIDES = ("concat", "best-fit")
OBJECTIVES = ("mdlm", "ar", "bd3lm")
FULL = {"dataset": "python-docs", "length": 1024, "width": 256, "layers": 4, "heads": 4, "rows": 4}
TOY = {"dataset": "python-docs", "length": 64, "width": 32, "layers": 1, "heads": 2, "rows": 2}
SLOWER, PADDING = 1.08, 0.02


def model_of(objective: str, size: dict[str, Any]) -> Any:
    """An untrained network of bytes."""
    torch.manual_seed(0)
    backbone = LlamaConfig(
        vocab_size=260,
        hidden_size=size["width"],
        intermediate_size=-(-size["width"] * 8 // 3 // 32) * 32,
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        max_position_embeddings=size["length"],
        tie_word_embeddings=True,
    )
    if objective == "ar":
        return LlamaForCausalLM(backbone)
    blocks = {"diffusion_block_size": 16} if objective == "bd3lm" else {}
    return MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone, bos_token_id=256, **blocks))


def one_step(objective: str, rows: Any, size: dict[str, Any], folder: str) -> Callable[[], None]:
    """A step of training on the next rows."""
    arguments = DiffusionTrainingArguments(
        output_dir=folder, objective=objective, use_cpu=True, per_device_train_batch_size=size["rows"], max_steps=10**6
    )
    trainer = DiffusionTrainer(model_of(objective, size), arguments, rows, None, load_tokenizer("bytes"))
    model = trainer.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    numbers = itertools.cycle(range(len(rows)))

    def step() -> None:
        batch = trainer.data_collator([rows[next(numbers)] for _ in range(size["rows"])])
        trainer.state.global_step += 1
        trainer.compute_loss(model, batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--toy", action="store_true", help="small sizes that prove nothing, printed and not kept")
    given = parser.parse_args()
    size = TOY if given.toy else FULL
    data = {
        packing: texts.prepare_data(
            DataOptions(dataset=size["dataset"], block_size=size["length"], packing=packing), load_tokenizer("bytes")
        )
        for packing in SIDES
    }
    found, claims = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for objective in OBJECTIVES:
            sides = {side: one_step(objective, data[side].train, size, folder) for side in SIDES}
            seconds = alternate(sides, given.pairs)
            found[objective] = {
                "median_ms": milliseconds(seconds),
                "best_fit_over_concat": ratio(seconds, *SIDES[::-1]),
            }
            claims.append(
                Claim(
                    what=f"training step, {objective}, python-docs, rows of {size['length']:,} tokens: documents apart "
                    "(best-fit) against blocks of one stream",
                    sides=found[objective]["median_ms"],
                    unit="ms",
                    measure="best-fit / concat",
                    value=found[objective]["best_fit_over_concat"],
                    asked=f"<= {SLOWER}",
                )
            )
    padding = data["best-fit"].counts["train"].padding_share
    claims.append(
        Claim(
            what=f"padding of best-fit, python-docs, rows of {size['length']:,} tokens",
            sides={"best-fit": round(padding, 5)},
            unit="share of the rows",
            measure="padding",
            value=padding,
            asked=f"< {PADDING}",
        )
    )
    result = {"size": size, "steps": found, "padding_share": padding, "pairs": given.pairs}
    if given.toy:
        print(json.dumps(result, indent=2))
    else:
        write("packing", result, claims)


if __name__ == "__main__":
    main()
