"""The callbacks in TRL's SFTTrainer: ``python trl_sft.py --steps 100``."""

from __future__ import annotations

import argparse

from tiny import llama, rows, watching
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from hf_difflm.callbacks import GenerationSamplesCallback
from hf_difflm.data import load_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", default="runs/sft")
    given = parser.parse_args()
    set_seed(42)
    tokenizer = load_tokenizer("bytes")
    args = SFTConfig(
        given.output,
        max_steps=given.steps,
        logging_steps=2,
        learning_rate=3e-3,
        save_strategy="no",
        report_to="none",
        bf16=False,
    )
    samples = GenerationSamplesCallback(["To be", "the question"], interval=given.steps, max_new_tokens=16)
    SFTTrainer(
        llama(tokenizer),
        args,
        train_dataset=rows(tokenizer).remove_columns("labels"),
        processing_class=tokenizer,
        callbacks=[*watching(), samples],
    ).train()


if __name__ == "__main__":
    main()
