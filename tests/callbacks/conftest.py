"""A stock Trainer on a tiny stock Llama, as anyone may have it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from any_trainer import KINDS, build_trainer
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

MakeTrainer = Callable[..., Trainer]


class Blocks(torch.utils.data.Dataset):
    """Blocks of tokens that are the same in every run."""

    def __init__(self, count: int) -> None:
        self.ids_NL = torch.randint(0, 32, (count, 8), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.ids_NL)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids_NL[place], "labels": self.ids_NL[place]}


@pytest.fixture
def make_trainer(tmp_path: Path) -> MakeTrainer:
    def make(*callbacks: TrainerCallback, trainer_class: type[Trainer] = Trainer, **arguments: Any) -> Trainer:
        torch.manual_seed(0)
        sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes))
        defaults = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 2,
            "max_steps": 6,
            "logging_steps": 2,
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            "report_to": "none",
            "run_name": "tiny",
        }
        return trainer_class(
            model=model,
            args=TrainingArguments(**{**defaults, **arguments}),
            train_dataset=Blocks(64),
            eval_dataset=Blocks(4),
            callbacks=list(callbacks),
        )

    return make


@pytest.fixture(params=KINDS)
def any_trainer(request: pytest.FixtureRequest, tmp_path: Path) -> MakeTrainer:
    """``any_trainer(*callbacks, **arguments)``: a Trainer of each kind in turn; its ``kind`` says which."""
    kind: str = request.param

    def make(*callbacks: TrainerCallback, **arguments: Any) -> Trainer:
        return build_trainer(kind, tmp_path / "out", *callbacks, **arguments)

    make.kind = kind  # type: ignore[attr-defined]
    return make
