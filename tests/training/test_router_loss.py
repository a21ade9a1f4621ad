"""The router loss of a mixture of experts: the family's own number, one gradient for any cut, in no likelihood."""

from __future__ import annotations

import pytest
import torch
from processes.seen_rows import Rows
from transformers import (
    GraniteMoeConfig,
    GraniteMoeForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
)

from hf_difflm.errors import UserError
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.objectives.load_balancing import load_balancing_loss
from hf_difflm.runs import load_run
from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments

SIZES = {
    "vocab_size": 260,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
EXPERTS = {"num_experts_per_tok": 2}
CUTS = [(8, 1), (2, 4), (1, 8)]


def mixtral(objective: str):
    torch.manual_seed(0)
    config = MixtralConfig(**SIZES, **EXPERTS, num_local_experts=4, tie_word_embeddings=True)
    if objective == "ar":
        return MixtralForCausalLM(config)
    return MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=config))


def train(make_diffusion_trainer, objective, cut=(8, 1), rows=None, **settings):
    seen = Rows()
    trainer = make_diffusion_trainer(
        seen,
        model=mixtral(objective),
        train=rows,
        objective=objective,
        **{
            "per_device_train_batch_size": cut[0],
            "gradient_accumulation_steps": cut[1],
            "logging_steps": 1,
            "max_steps": 2,
            "optim": "sgd",
            "learning_rate": 0.1,
            "max_grad_norm": 1e9,
            "save_log_to_json": False,
            **settings,
        },
    )
    trainer.train()
    return trainer, seen.rows


@pytest.mark.borders
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (MixtralForCausalLM, MixtralConfig(**SIZES, **EXPERTS, num_local_experts=4)),
        (OlmoeForCausalLM, OlmoeConfig(**SIZES, **EXPERTS, num_experts=4)),
        (GraniteMoeForCausalLM, GraniteMoeConfig(**SIZES, **EXPERTS, num_local_experts=4)),
    ],
    ids=["mixtral", "olmoe", "granitemoe"],
)
def test_of_one_sequence_it_is_what_the_family_says_itself(kind, config, padded):
    torch.manual_seed(1)
    model = kind(config)
    ids = torch.randint(4, 200, (1, 12))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, 7:] = 0
    said = model(input_ids=ids, attention_mask=mask, output_router_logits=True)
    ours = load_balancing_loss(said.router_logits, 2, torch.ones(1), mask)
    torch.testing.assert_close(ours, said.aux_loss)
    expected = torch.autograd.grad(said.aux_loss, model.get_input_embeddings().weight, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(ours, model.get_input_embeddings().weight), expected)
    several = model(input_ids=ids.repeat(3, 1), attention_mask=mask.repeat(3, 1), output_router_logits=True)
    weighed = load_balancing_loss(
        several.router_logits, 2, torch.tensor([0.5, 0.25, 0.25]), mask.repeat(3, 1) if padded else None
    )
    if padded:
        torch.testing.assert_close(weighed, said.aux_loss)
    else:
        torch.testing.assert_close(weighed, several.aux_loss)


@pytest.mark.borders
@pytest.mark.parametrize(
    ("objective", "settings"),
    [("mdlm", {}), ("mdlm", {"noise_sampling": "pairs"}), ("mdlm", {"gradient_checkpointing": True}), ("ar", {})],
    ids=["mdlm", "pairs", "checkpointed", "ar"],
)
def test_the_gradient_is_the_same_for_any_cut_and_the_loss_stays_the_bound(
    make_diffusion_trainer, train_rows, objective, settings
):
    rows = train_rows(16, ragged=True)
    without, plain = train(make_diffusion_trainer, objective, rows=rows, **settings)
    weights = []
    for cut in CUTS:
        trainer, logged = train(make_diffusion_trainer, objective, cut, rows, router_aux_loss=0.5, **settings)
        assert "aux_loss" not in plain[0]
        assert 1.5 < logged[0]["aux_loss"] < 8.0
        assert logged[0]["loss"] == pytest.approx(plain[0]["loss"], rel=1e-5)  # before the first update
        assert logged[0]["grad_norm"] != pytest.approx(plain[0]["grad_norm"], rel=1e-4)
        weights.append({"aux": logged[0]["aux_loss"], **dict(trainer.model.named_parameters())})
    for other, cut in zip(weights[1:], CUTS[1:], strict=True):
        assert other.pop("aux") == pytest.approx(weights[0]["aux"], rel=1e-5)
        for name, weight in other.items():
            torch.testing.assert_close(weight, weights[0][name], rtol=1e-5, atol=1e-5, msg=f"{cut} {name}")
    moved = dict(without.model.named_parameters())
    gate = next(name for name in moved if "gate" in name and "experts" not in name)
    assert not torch.allclose(moved[gate], weights[0][gate], atol=1e-5)


@pytest.mark.borders
@pytest.mark.parametrize("objective", ["mdlm", "ar"])
def test_it_is_logged_apart_and_in_no_evaluation(make_diffusion_trainer, train_rows, objective):
    held = train_rows(8, seed=3)
    settings = {"rows": train_rows(16), "evaluation": held, "learning_rate": 1e-30}
    trainer, _ = train(make_diffusion_trainer, objective, router_aux_loss=0.5, save_log_to_json=True, **settings)
    found = trainer.evaluate()
    other, _ = train(make_diffusion_trainer, objective, **settings)
    assert found["eval_nll"] == other.evaluate()["eval_nll"]
    assert not any("aux" in name for name in found)
    run = load_run(trainer.args.output_dir)
    assert all("aux_loss" in step.extra for step in run.steps)


@pytest.mark.borders
@pytest.mark.parametrize("objective", ["mdlm", "ar"])
def test_a_network_without_one_is_refused(tmp_path, objective):
    config = LlamaConfig(**SIZES)
    model = (
        LlamaForCausalLM(config)
        if objective == "ar"
        else MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=config))
    )
    arguments = DiffusionTrainingArguments(
        output_dir=str(tmp_path), objective=objective, use_cpu=True, router_aux_loss=0.01
    )
    with pytest.raises(UserError, match=r"router_aux_loss 0.01 has no effect: backbone 'llama' has no router loss"):
        DiffusionTrainer(model, arguments)


@pytest.mark.borders
def test_where_no_gradient_would_come_of_it_the_training_says_so(make_diffusion_trainer, train_rows):
    with pytest.raises(UserError, match=r"router_aux_loss 0\.5 has no effect"):
        train(
            make_diffusion_trainer,
            "mdlm",
            rows=train_rows(16),
            router_aux_loss=0.5,
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": True},
        )
