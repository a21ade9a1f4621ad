"""Training on rows of several documents: the same loss for any cut and whatever shares a row, resumed bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from processes.seen_rows import Rows
from torch.utils.data import IterableDataset
from transformers import (
    AutoModelForCausalLM,
    DataCollatorWithFlattening,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
)

from hf_difflm.data import Collator
from hf_difflm.data.packing.rows import packed_row, rows_of
from hf_difflm.errors import UserError
from hf_difflm.evaluation.likelihood.evaluate import evaluate_likelihood
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.backbones.sentences import refuse_documents
from hf_difflm.models.backbones.verdict import Verdict
from hf_difflm.objectives import MaskedDiffusionObjective
from hf_difflm.training.given_data import check_training_set

OBJECTIVES = ("mdlm", "ar", "bd3lm", "atat")


def packed(rows, size: int = 24, how: str = "best-fit"):
    """Rows of at most ``size`` tokens that hold the given ones as documents."""
    ids = [np.array(row["input_ids"]) for row in rows]
    return [
        packed_row([(piece, ids[piece], np.array(rows[piece].get("labels", [-100, *ids[piece][1:]]))) for piece in row])
        for row in rows_of(map(len, ids), size, how)
    ]


def model_for(objective: str, tiny_denoiser, tiny_causal, seed: int = 0):
    if objective == "ar":
        return tiny_causal(seed=seed)
    return tiny_denoiser(seed=seed, **({"diffusion_block_size": 4} if objective == "bd3lm" else {}))


@pytest.mark.parametrize("prompts", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_gradient_norm_and_weights_do_not_depend_on_accumulation(
    make_diffusion_trainer, tiny_denoiser, tiny_causal, train_rows, objective, prompts
):
    rows = packed(train_rows(60, ragged=True, prompts=prompts))
    found = []
    for micro_batch, accumulation in ((8, 1), (2, 4)):
        seen = Rows()
        trainer = make_diffusion_trainer(
            seen,
            model=model_for(objective, tiny_denoiser, tiny_causal),
            train=rows,
            objective=objective,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=accumulation,
            logging_steps=1,
            max_steps=3,
            save_log_to_json=False,
            optim="sgd",
            learning_rate=0.1,
            lr_scheduler_type="constant",
        )
        trainer.train()
        found.append((seen.rows, {name: p.detach().clone() for name, p in trainer.model.named_parameters()}))
    (rows, weights), (other_rows, other_weights) = found
    assert len(rows) == 3
    for row, expected in zip(other_rows, rows, strict=True):
        for name in ("loss", "grad_norm", "tokens", "flops", *(["masking_rate"] if objective != "ar" else [])):
            assert row[name] == pytest.approx(expected[name], rel=1e-5), name
    torch.testing.assert_close(other_weights, weights, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("objective", ["ar", "bd3lm"])
def test_rows_of_documents_train_as_the_documents_alone(
    make_diffusion_trainer, tiny_denoiser, tiny_causal, train_rows, objective
):
    """One optimiser batch of all documents: where counts need no strata, packed or not is the same step."""
    documents, found = train_rows(8, ragged=True), []
    rows = packed(documents, how="documents")
    for train, batch in ((rows, len(rows)), (documents, len(documents))):
        seen = Rows()
        model = tiny_causal() if objective == "ar" else tiny_denoiser(diffusion_block_size=1)
        make_diffusion_trainer(
            seen,
            model=model,
            train=train,
            objective=objective,
            per_device_train_batch_size=batch,
            max_steps=1,
            logging_steps=1,
            save_log_to_json=False,
        ).train()
        found.append(seen.rows[0])
    for name in ("loss", "grad_norm", "tokens", "flops"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-5), name


@pytest.mark.parametrize("objective", ["mdlm", "bd3lm"])
def test_a_resumed_run_equals_the_uninterrupted_one(
    make_diffusion_trainer, tiny_denoiser, tiny_causal, train_rows, tmp_path, objective
):
    settings = {
        "objective": objective,
        "train": packed(train_rows(50, ragged=True)),
        "evaluation": train_rows(6, ragged=True, seed=1),
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": None,
        "save_log_to_json": False,
    }
    found = []
    for seed, checkpoint in ((0, None), (99, str(tmp_path / "run" / "checkpoint-2"))):
        seen = Rows()
        trainer = make_diffusion_trainer(seen, model=model_for(objective, tiny_denoiser, tiny_causal, seed), **settings)
        trainer.train(resume_from_checkpoint=checkpoint)
        weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        found.append(([row["loss"] for row in seen.rows[-4:]], weights, trainer.evaluate()["eval_nll"]))
    assert found[0][0] == found[1][0]
    assert found[0][2] == found[1][2]
    assert all(torch.equal(weight, found[1][1][name]) for name, weight in found[0][1].items())


@pytest.mark.parametrize(
    ("backbone", "sentence"),
    [
        (
            MambaConfig(vocab_size=260, hidden_size=16, num_hidden_layers=1, state_size=4),
            r"backbone 'mamba' does not keep documents of one row apart",
        ),
        (
            MistralConfig(
                vocab_size=260,
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
                sliding_window=8,
                max_position_embeddings=64,
            ),
            r"it reads \d+ back, and a mask of documents would take the place of its windows; set packing to concat",
        ),
    ],
)
def test_a_backbone_that_does_not_keep_documents_apart_is_refused(
    make_diffusion_trainer, train_rows, backbone, sentence
):
    model = AutoModelForCausalLM.from_config(backbone)
    with pytest.raises(UserError, match=sentence):
        make_diffusion_trainer(model=model, train=packed(train_rows(20)), objective="ar", save_log_to_json=False)


def test_a_kernel_without_such_masks_is_refused(make_diffusion_trainer, tiny_denoiser, train_rows):
    model = tiny_denoiser()
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UserError, match="flash_attention_2 takes no mask of documents"):
        make_diffusion_trainer(model=model, train=packed(train_rows(20)), save_log_to_json=False)


def test_a_time_for_each_row_is_refused(make_diffusion_trainer, train_rows):
    from hf_difflm.models.masked_diffusion.dit_configuration import DiTConfig

    config = DiTConfig(vocab_size=260, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=config))
    model.config.time_conditioned = True
    with pytest.raises(UserError, match="is told one time for all of a row"):
        make_diffusion_trainer(model=model, train=packed(train_rows(20)), save_log_to_json=False)


def test_what_is_of_rows_of_one_document_is_refused(make_diffusion_trainer, train_rows):
    with pytest.raises(UserError, match="static_shapes needs rows of one document each"):
        make_diffusion_trainer(train=packed(train_rows(20)), static_shapes=True, save_log_to_json=False)
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2}
    sizes = {"vocab_size": 260, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = MixtralConfig(num_attention_heads=2, **sizes, **experts)
    model = MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=config))
    with pytest.raises(UserError, match="router_aux_loss needs rows of one document each"):
        make_diffusion_trainer(model=model, train=packed(train_rows(20)), router_aux_loss=0.01, save_log_to_json=False)


def test_packed_rows_are_not_evaluated_as_if_they_were_one_text(make_diffusion_trainer, train_rows):
    rows = packed(train_rows(20))
    with pytest.raises(UserError, match="the rows of eval_dataset hold several documents each"):
        make_diffusion_trainer(evaluation=rows, save_log_to_json=False)
    trainer = make_diffusion_trainer(evaluation=train_rows(4), save_log_to_json=False)
    with pytest.raises(UserError, match="give each a row of its own"):
        trainer.evaluate(rows)


class Stream(IterableDataset):
    """Rows one after the other, of which nothing is known before."""

    def __init__(self, rows) -> None:
        self._rows = rows

    def __iter__(self):
        return iter(self._rows)


def test_rows_of_a_stream_of_the_users_own_are_asked_for_when_they_come(make_diffusion_trainer, train_rows):
    config = MambaConfig(vocab_size=260, hidden_size=16, num_hidden_layers=1, state_size=4)
    settings = {"train": Stream(packed(train_rows(60))), "save_log_to_json": False, "logging_steps": 1, "max_steps": 1}
    with pytest.raises(UserError, match="does not keep documents of one row apart"):
        make_diffusion_trainer(model=AutoModelForCausalLM.from_config(config), objective="ar", **settings).train()
    seen = Rows()
    make_diffusion_trainer(seen, **settings).train()
    assert seen.rows[0]["tokens"] > 0


def test_a_network_of_which_nothing_is_known_is_refused(make_diffusion_trainer, train_rows, tiny_causal):
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_causal()

        def forward(self, input_ids, **kwargs):
            return self.inner(input_ids, **kwargs)

    with pytest.raises(UserError, match="Own is no network of transformers"):
        make_diffusion_trainer(model=Own(), train=packed(train_rows(20)), objective="ar", save_log_to_json=False)
    verdict = Verdict("odd", "causal LM", error="ValueError: no.")
    with pytest.raises(UserError, match=r"apart: it does not run \(ValueError: no\); set packing to concat"):
        refuse_documents(verdict, "odd", "sdpa", None)


def test_other_names_for_documents_of_a_row_are_refused_and_not_passed_over():
    rows = [{"input_ids": [256, 97, 98]}, {"input_ids": [256, 99]}] * 8
    flattening = DataCollatorWithFlattening(return_position_ids=True)
    with pytest.raises(
        UserError, match="have position_ids, which is not read, so that documents of a row would see each"
    ):
        check_training_set(rows, flattening)


def test_an_evaluation_by_hand_does_not_read_a_row_as_one_text(tiny_denoiser, tokenizer, train_rows):
    batch = Collator(tokenizer)(packed(train_rows(6)))
    batch["index"] = torch.arange(len(batch["input_ids"]))
    with pytest.raises(ValueError, match="rows hold several documents each"):
        evaluate_likelihood(tiny_denoiser(), MaskedDiffusionObjective(259), [batch], len(batch["input_ids"]))
