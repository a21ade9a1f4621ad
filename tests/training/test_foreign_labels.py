"""A denoiser in another Trainer, another Trainer's collator in ours: what would look like learning is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

from hf_difflm.errors import UserError

pytestmark = pytest.mark.borders

MASK = 259


def stock(tmp_path: Any, model: Any, rows: Any, collator: Any, **arguments: Any) -> Trainer:
    settings = {"max_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True, "report_to": "none"} | arguments
    args = TrainingArguments(str(tmp_path / "stock"), disable_tqdm=True, save_strategy="no", **settings)
    return Trainer(model, args, train_dataset=rows, data_collator=collator)


def test_the_labels_of_a_causal_lm_are_refused(tmp_path, tokenizer, tiny_denoiser, train_rows):
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    trainer = stock(tmp_path, tiny_denoiser(), train_rows(8), collator)
    with pytest.raises(ValueError, match=r"none of 48 labelled tokens is masked \(token 259\).*DiffusionTrainer"):
        trainer.train()


def test_tokens_in_the_place_of_others_are_refused(tmp_path, tokenizer, tiny_denoiser, train_rows):
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.5)
    trainer = stock(tmp_path, tiny_denoiser(), train_rows(16), collator, per_device_train_batch_size=16)
    with pytest.raises(ValueError, match=r"labelled tokens are another token in input_ids.*mask_replace_prob=1\.0"):
        trainer.train()


def test_a_collator_that_only_masks_trains_it(tmp_path, tokenizer, tiny_denoiser, train_rows):
    collator = DataCollatorForLanguageModeling(
        tokenizer, mlm=True, mlm_probability=0.5, mask_replace_prob=1.0, random_replace_prob=0.0
    )
    model = tiny_denoiser()
    before = model.lm_head.weight.detach().clone()
    stock(tmp_path, model, train_rows(16), collator, learning_rate=0.1).train()
    assert not torch.equal(before, model.lm_head.weight)


def test_trl_is_refused_before_it_trains(tmp_path, tokenizer, tiny_denoiser, train_rows):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"input_ids": row["input_ids"]} for row in train_rows(8)])
    args = trl.SFTConfig(
        str(tmp_path / "trl"),
        max_steps=2,
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        eos_token="[EOS]",
    )
    with pytest.raises(ValueError, match="TRL trains causal language models: on a masked diffusion model"):
        trl.SFTTrainer(tiny_denoiser(), args, train_dataset=rows, processing_class=tokenizer)


def test_labels_of_which_none_is_masked_are_right_where_they_are_weighed(tiny_denoiser):
    ids = torch.arange(8)[None]
    with pytest.raises(ValueError, match="none of 8 labelled tokens"):
        tiny_denoiser()(ids, labels=ids)
    assert tiny_denoiser()(ids, labels=ids, loss_weights=torch.ones(1, 1)).loss == 0
    hidden = ids.clone()
    hidden[0, :2] = MASK
    assert tiny_denoiser()(hidden, labels=ids).loss > 0  # what is not masked is copied


def test_a_collator_that_masks_is_refused_in_our_trainer(make_diffusion_trainer, tokenizer, monkeypatch):
    from hf_difflm.training import DiffusionTrainer

    masking = DataCollatorForLanguageModeling(tokenizer, mlm=True)
    plain = make_diffusion_trainer()
    with pytest.raises(UserError, match=r"DataCollatorForLanguageModeling that masks tokens \(mlm=True\)"):
        DiffusionTrainer(
            plain.model, plain.args, plain.train_dataset, data_collator=masking, processing_class=tokenizer
        )


@pytest.mark.parametrize("objective", ["mdlm", "ar"])
def test_any_collator_whose_labels_are_not_what_is_read_is_refused(make_diffusion_trainer, train_rows, objective):
    trainer = make_diffusion_trainer(objective=objective, evaluation=train_rows(8))
    inner = trainer.data_collator

    def masking(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = inner(rows)
        batch["input_ids"][:, 3] = MASK
        return batch

    trainer.data_collator = masking
    with pytest.raises(UserError, match="4 labels of a batch are other tokens than its input_ids"):
        trainer.train()
    with pytest.raises(UserError, match="8 labels of a batch are other tokens than its input_ids"):
        trainer.evaluate()


def test_a_collator_that_masks_nothing_is_taken(make_diffusion_trainer, tokenizer):
    from hf_difflm.training import DiffusionTrainer

    plain = make_diffusion_trainer()
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    DiffusionTrainer(
        plain.model, plain.args, plain.train_dataset, data_collator=collator, processing_class=tokenizer
    ).train()
