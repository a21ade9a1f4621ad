"""The callbacks in axolotl's diffusion plugin, brought by a plugin of one's own: ``python axolotl_diffusion.py``."""

from __future__ import annotations

import argparse
from typing import Any

from axolotl.core.training_args import AxolotlTrainingArguments
from axolotl.integrations.base import BasePlugin
from axolotl.integrations.diffusion import DiffusionPlugin
from axolotl.utils.dict import DictDefault
from tiny import llama, rows, watching
from transformers import DefaultDataCollator, set_seed

from hf_difflm.data import load_tokenizer


class Watching(BasePlugin):
    """In a configuration of axolotl: ``plugins: [axolotl.integrations.diffusion.DiffusionPlugin, your_module.Watching]``."""

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        return watching()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", default="runs/axolotl")
    given = parser.parse_args()
    set_seed(42)
    tokenizer = load_tokenizer("bytes")
    cfg = DictDefault(
        diffusion={"eps": 1e-3, "importance_weighting": True, "generate_samples": False, "mask_token_id": 259}
    )
    args = AxolotlTrainingArguments(
        given.output,
        max_steps=given.steps,
        logging_steps=2,
        learning_rate=3e-3,
        per_device_train_batch_size=8,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
    )
    plugin = DiffusionPlugin()
    trainer = plugin.get_trainer_cls(cfg)(
        model=llama(tokenizer),
        args=args,
        train_dataset=rows(tokenizer),
        processing_class=tokenizer,
        data_collator=DefaultDataCollator(),
    )
    plugin.post_trainer_create(cfg, trainer)
    for callback in Watching().add_callbacks_post_trainer(cfg, trainer):  # as axolotl's own builder does
        trainer.add_callback(callback)
    trainer.train()


if __name__ == "__main__":
    main()
