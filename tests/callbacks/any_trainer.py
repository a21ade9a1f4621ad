"""The Trainers a callback must work in: a stock one on a classifier and on a causal LM, ours, TRL's and others'."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorForSeq2Seq,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_difflm.data import load_tokenizer

KINDS = ("classifier", "causal", "diffusion", "sft")
OTHERS = ("dpo", "reward", "grpo", "seq2seq", "sentences")
"""Slower to import or to train, or not in the test environment."""
_SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def build_trainer(kind: str, folder: Path, *callbacks: TrainerCallback, **arguments: Any) -> Trainer:
    """A Trainer of a kind on a tiny model and bytes: 6 steps of 4 rows of 12 tokens, a log each 2 steps, no clipping cut.

    Args:
        kind: one of :data:`KINDS` or :data:`OTHERS`.
        folder: the output folder.
        callbacks: as in any Trainer.
        arguments: training arguments that differ from these.
    """
    tokenizer = load_tokenizer("bytes")
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 6,
        "learning_rate": 1e-2,
        "logging_steps": 2,
        "save_strategy": "no",
        "eval_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
    } | arguments
    torch.manual_seed(0)
    given = {"callbacks": list(callbacks), "processing_class": tokenizer}
    if kind == "classifier":
        model: Any = BertForSequenceClassification(
            BertConfig(vocab_size=260, max_position_embeddings=64, num_labels=3, **_SIZES)
        )
        rows = [{**row, "labels": place % 3} for place, row in enumerate(_rows(24))]
        return Trainer(model, TrainingArguments(**settings), train_dataset=rows, eval_dataset=rows[:8], **given)
    if kind == "diffusion":
        from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments

        return DiffusionTrainer(
            _denoiser(),
            DiffusionTrainingArguments(**{"eval_replicates": 1, "save_log_to_json": False, **settings}),
            _rows(24),
            _rows(8),
            tokenizer,
            callbacks=list(callbacks),
        )
    model = LlamaForCausalLM(LlamaConfig(vocab_size=260, max_position_embeddings=64, **_SIZES))
    if kind == "causal":
        rows = [{**row, "labels": row["input_ids"]} for row in _rows(24)]
        return Trainer(model, TrainingArguments(**settings), train_dataset=rows, eval_dataset=rows[:8], **given)
    if kind == "sft":
        return _sft(model, settings, given)
    if kind == "seq2seq":
        return _seq2seq(settings, given)
    if kind == "sentences":
        return _sentences(folder, settings, list(callbacks))
    if kind in ("dpo", "reward", "grpo"):
        return _preferences(kind, model, settings, given)
    raise ValueError(f"kind is {kind!r}; choose one of {', '.join((*KINDS, *OTHERS))}")


def _rows(count: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": [256, *torch.randint(97, 103, (11,), generator=generator).tolist()]} for _ in range(count)]


def _denoiser() -> Any:
    from hf_difflm import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM

    backbone = LlamaConfig(vocab_size=260, max_position_embeddings=64, **_SIZES)
    return MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone))


def _sft(model: Any, settings: dict[str, Any], given: dict[str, Any]) -> Trainer:
    import pytest

    trl = pytest.importorskip("trl")
    tokenizer: PreTrainedTokenizerBase = given["processing_class"]
    texts = Dataset.from_dict({"text": [tokenizer.decode(row["input_ids"][1:]) for row in _rows(24)]})
    config = trl.SFTConfig(**{"max_length": 12, "bf16": False, "gradient_checkpointing": False, **settings})
    return trl.SFTTrainer(model=model, args=config, train_dataset=texts, eval_dataset=texts.select(range(8)), **given)


def _preferences(kind: str, model: Any, settings: dict[str, Any], given: dict[str, Any]) -> Trainer:
    import pytest

    trl = pytest.importorskip("trl")
    settings = {"bf16": False, "gradient_checkpointing": False, **settings}
    if kind == "grpo":
        settings |= {"num_generations": 2, "max_completion_length": 4}
        prompts = Dataset.from_dict({"prompt": [f"{number} is " for number in range(24)]})
        return trl.GRPOTrainer(
            model=model,
            reward_funcs=_share_of_letters,
            args=trl.GRPOConfig(**settings),
            train_dataset=prompts,
            eval_dataset=prompts.select(range(4)),
            **given,
        )
    pairs = {
        "prompt": [f"{number}: " for number in range(24)],
        "chosen": ["abc"] * 24,
        "rejected": ["xyz"] * 24,
    }
    rows = Dataset.from_dict(pairs)
    sets = {"train_dataset": rows, "eval_dataset": rows.select(range(8))}
    if kind == "dpo":
        reference = copy.deepcopy(model)  # else it is loaded by the name of the model, which a new one has not
        return trl.DPOTrainer(model=model, ref_model=reference, args=trl.DPOConfig(**settings), **sets, **given)
    config = LlamaConfig(vocab_size=260, max_position_embeddings=64, num_labels=1, pad_token_id=259, **_SIZES)
    reward = LlamaForSequenceClassification(config)
    return trl.RewardTrainer(model=reward, args=trl.RewardConfig(**settings), **sets, **given)


def _share_of_letters(completions: list[str], **_: Any) -> list[float]:
    return [sum(letter.isalpha() for letter in text) / max(len(text), 1) for text in completions]


def _seq2seq(settings: dict[str, Any], given: dict[str, Any]) -> Trainer:
    tokenizer = given["processing_class"]
    config = T5Config(
        vocab_size=260,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    model = T5ForConditionalGeneration(config)
    rows = [{**row, "labels": row["input_ids"][1:6]} for row in _rows(24)]
    return Seq2SeqTrainer(
        model,
        Seq2SeqTrainingArguments(**settings, predict_with_generate=True, generation_max_length=8),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model),
        train_dataset=rows,
        eval_dataset=rows[:8],
        compute_metrics=_share_of_starts,
        **given,
    )


def _share_of_starts(prediction: Any) -> dict[str, float]:
    return {"right_starts": float((prediction.predictions[:, 1] == prediction.label_ids[:, 0]).mean())}


def _sentences(folder: Path, settings: dict[str, Any], callbacks: list[TrainerCallback]) -> Trainer:
    import pytest

    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertModel

    place = folder.parent / "bert"
    BertModel(BertConfig(vocab_size=260, max_position_embeddings=64, **_SIZES)).save_pretrained(place)
    load_tokenizer("bytes").save_pretrained(place)
    words = Transformer(str(place))
    model = library.SentenceTransformer(modules=[words, Pooling(words.get_embedding_dimension())], device="cpu")
    pairs = Dataset.from_dict({"anchor": [f"{n} and" for n in range(24)], "positive": [f"{n} or" for n in range(24)]})
    return library.SentenceTransformerTrainer(
        model=model,
        args=library.SentenceTransformerTrainingArguments(**settings),
        train_dataset=pairs,
        eval_dataset=pairs.select(range(8)),
        loss=MultipleNegativesRankingLoss(model),
        callbacks=callbacks,
    )
