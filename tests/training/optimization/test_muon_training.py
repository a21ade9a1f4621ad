"""``--optim muon`` in a training: both objectives, average, resume, accumulation, log, FLOPs; what does not go is refused."""

from __future__ import annotations

import dataclasses
import pickle
import re

import pytest
import torch
from transformers import HfArgumentParser, LlamaConfig, LlamaForCausalLM, TrainerCallback

from hf_difflm.errors import UserError
from hf_difflm.experiments.recipe_settings import load_settings
from hf_difflm.flops.newton_schulz import newton_schulz_flops
from hf_difflm.runs import load_run
from hf_difflm.training import DiffusionTrainingArguments
from hf_difflm.training.launch.processes import check_sharding
from hf_difflm.training.optimization import muon as module
from hf_difflm.training.optimization.matrices import hidden_matrices
from hf_difflm.training.optimization.muon import Muon, newton_schulz

MUON = {"optim": "muon", "learning_rate": 0.02, "adamw_learning_rate": 0.01}


class Gradients(TrainerCallback):
    """The gradients of the first step."""

    found: dict[str, torch.Tensor] | None = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.found is None:
            self.found = {name: p.grad.clone() for name, p in model.named_parameters()}


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def distance(ours, theirs, start) -> float:
    """The largest distance of a tensor from another, by how far the latter has moved."""
    return max(float((ours[n] - theirs[n]).norm() / (theirs[n] - start[n]).norm()) for n in theirs)


@pytest.mark.parametrize("objective", ["mdlm", "ar", "atat"])
def test_both_rates_are_logged_and_follow_one_schedule(make_diffusion_trainer, objective, tmp_path):
    trainer = make_diffusion_trainer(objective=objective, lr_scheduler_type="linear", weight_decay=0.1, **MUON)
    before = weights(trainer)
    trainer.train()
    assert all(not torch.equal(before[name], now) for name, now in weights(trainer).items())
    optimizer = trainer.optimizer.optimizer
    assert isinstance(optimizer, Muon)
    first, *others = optimizer.param_groups
    assert (first["muon"], first["weight_decay"]) == (True, 0.1)
    assert all((group["muon"], group["weight_decay"]) == (False, 0.0) for group in others)
    assert len(others) == (2 if objective == "atat" else 1)  # the estimator is AdamW's
    run = load_run(tmp_path / "run")
    assert run.column("lr").tolist() == pytest.approx([0.02 * (1 - step / 6) for step in range(6)])
    assert run.column("adamw_learning_rate").tolist() == pytest.approx([0.01 * (1 - step / 6) for step in range(6)])
    assert trainer.state.log_history[0]["adamw_learning_rate"] == pytest.approx(0.01 * 5 / 6)
    assert run.header.config["adamw_learning_rate"] == 0.01
    assert re.match(r"Muon trains 14 matrices of [\d,]+ weights, AdamW \d tensors", run.header.metadata["optimizer"])


def test_without_a_rate_of_its_own_adamw_has_that_of_the_matrices(make_diffusion_trainer):
    groups = make_diffusion_trainer(optim="muon", learning_rate=0.03, adam_beta2=0.9).create_optimizer().param_groups
    assert [(group["lr"], group["betas"]) for group in groups] == [(0.03, (0.9, 0.9))] * 2
    optimizer = make_diffusion_trainer(optim="muon", optim_args="momentum=0.8,ns_steps=3").create_optimizer()
    assert [(group["momentum"], group["ns_steps"]) for group in optimizer.param_groups] == [(0.8, 3)] * 2


@pytest.mark.parametrize("objective", ["mdlm", "ar", "atat"])
def test_resumed_it_goes_on_bit_equal_with_its_average(make_diffusion_trainer, objective, tmp_path):
    settings = {"objective": objective, "ema_decay": 0.9, "save_strategy": "steps", "save_steps": 3, **MUON}
    whole = make_diffusion_trainer(output_dir=str(tmp_path / "run"), **settings)
    whole.train()
    resumed = make_diffusion_trainer(output_dir=str(tmp_path / "run"), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    for ours, theirs in ((weights(resumed), weights(whole)), (resumed.ema._shadow, whole.ema._shadow)):
        pairs = (
            zip(ours.values(), theirs.values(), strict=True)
            if isinstance(ours, dict)
            else zip(ours, theirs, strict=True)
        )
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("dtype", "equal"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("objective", ["mdlm", "ar"])
def test_what_is_equal_between_cuts_of_one_optimiser_batch(
    make_diffusion_trainer, train_rows, objective, dtype, equal, monkeypatch
):
    """Gradients to 1e-5; weights after 6 steps, by the way that they have gone, to 1e-4 on a CPU and 0.1 on a GPU."""
    monkeypatch.setattr(module, "newton_schulz", lambda x, steps: newton_schulz(x, steps, dtype))
    found = []
    for cut in ((16, 1), (2, 8)):
        seen = Gradients()
        trainer = make_diffusion_trainer(
            seen,
            train=train_rows(48, ragged=True),
            objective=objective,
            per_device_train_batch_size=cut[0],
            gradient_accumulation_steps=cut[1],
            save_log_to_json=False,
            lr_scheduler_type="constant",
            adam_epsilon=1e-3,  # Adam would magnify the rounding of tiny gradients
            **MUON,
        )
        start = weights(trainer)
        trainer.train()
        found.append((seen.found, weights(trainer)))
    (gradients, after), (others, others_after) = found
    for name, gradient in gradients.items():
        assert (gradient - others[name]).norm() <= 1e-5 * gradient.norm(), name
    away = distance(others_after, after, start)
    assert away < equal


def test_the_flops_of_newton_schulz_are_counted_once_a_step_however_the_batch_is_cut(make_diffusion_trainer, tmp_path):
    totals = {}
    for name, accumulation in (("adamw_torch", 1), ("muon", 1), ("muon", 4)):
        trainer = make_diffusion_trainer(
            output_dir=str(tmp_path / f"{name}{accumulation}"),
            optim=name,
            per_device_train_batch_size=8 // accumulation,
            gradient_accumulation_steps=accumulation,
        )
        trainer.train()
        run = load_run(tmp_path / f"{name}{accumulation}")
        totals[name, accumulation] = run.column("total_flops")[-1]
        assert trainer.state.total_flos == pytest.approx(totals[name, accumulation], rel=1e-6)
    # Per layer: q, k, v, o of 16 x 16, gate and up of 32 x 16, down of 16 x 32.
    step = newton_schulz_flops(2 * [*4 * [(16, 16)], *2 * [(32, 16)], (16, 32)], 5)
    assert totals["muon", 1] - totals["adamw_torch", 1] == pytest.approx(6 * step, rel=1e-6)
    assert totals["muon", 4] == pytest.approx(totals["muon", 1], rel=1e-9)


def test_a_network_that_the_trainer_did_not_build_is_trained(make_diffusion_trainer):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=260, tie_word_embeddings=False, attention_bias=True, **sizes))
    trainer = make_diffusion_trainer(model=model, objective="ar", **MUON)
    trainer.train()
    first, second = trainer.optimizer.param_groups
    assert not {id(model.lm_head.weight), id(model.model.embed_tokens.weight)} & {id(p) for p in first["params"]}
    assert len(first["params"]) == 7
    assert sum(p.ndim == 1 for p in second["params"]) == 3 + 4


def test_it_is_a_flag_a_recipe_key_and_an_argument_that_parsers_and_copies_keep(tmp_path):
    flags = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--optim", "muon", "--adamw_learning_rate", "0.01"]
    (parsed,) = HfArgumentParser(DiffusionTrainingArguments).parse_args_into_dataclasses(flags)
    for arguments in (parsed, dataclasses.replace(parsed, seed=3), pickle.loads(pickle.dumps(parsed))):
        assert (arguments.optim, arguments.adamw_learning_rate) == ("muon", 0.01)
    assert parsed.to_dict()["optim"] == "muon"
    settings = load_settings(None, {"optim": "muon", "adamw_learning_rate": "1e-2"})
    assert (settings.training["optim"], settings.training["adamw_learning_rate"]) == ("muon", 0.01)
    with pytest.raises(UserError, match=r"optim must be one of .*, muon, got 'mun'; did you mean 'muon'"):
        load_settings(None, {"optim": "mun"})
    with pytest.raises(UserError, match=r"optim must be one of .*, muon, got 'mun'; did you mean 'muon'"):
        DiffusionTrainingArguments(str(tmp_path), use_cpu=True, optim="mun")


def test_a_muon_that_the_user_has_made_is_logged_and_counted_alike(make_diffusion_trainer, tmp_path):
    trainer = make_diffusion_trainer()
    matrices, others = hidden_matrices(trainer.model)
    own = Muon([{"params": matrices, "muon": True, "lr": 0.02}, {"params": others}], lr=0.01)
    trainer.optimizer = own
    trainer.train()
    run = load_run(tmp_path / "run")
    assert run.column("lr")[0] == 0.02
    assert run.column("adamw_learning_rate")[0] == 0.01


# ---- what is refused, before there are data or a model ----


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"adamw_learning_rate": 0.1}, "adamw_learning_rate 0.1 is for optim muon, .* optim is adamw_torch_fused; set"),
        (
            {"optim": "muon", "lora_r": 4},
            "optim muon makes the update of a whole matrix .* lora_r 4 .*; choose another",
        ),
        (
            {"optim": "muon", "optim_args": "momentm=0.9"},
            "optim_args has 'momentm=0.9', which has no effect on optim muon",
        ),
        ({"optim": "muon", "optim_args": "momentum=2"}, "momentum must be at least 0 and below 1, got 2.0; change"),
        (
            {"optim": "muon", "optim_args": "ns_steps=x"},
            "optim muon does not work with optim_args 'ns_steps=x': invalid",
        ),
        ({"optim": "muon", "optim_target_modules": ["q"]}, "optim_target_modules=.* is for the GaLore"),
    ],
)
def test_what_muon_does_not_go_with_is_a_sentence(tmp_path, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        DiffusionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)


@pytest.mark.parametrize("engine", ["zero", "zero1", "zero2", "zero3"])
def test_deepspeed_is_refused_and_what_shards_by_tensor_is_not(engine):
    with pytest.raises(UserError, match=rf"optim muon does not train under {engine}, since DeepSpeed .*; launch with"):
        check_sharding(engine, ema=False, muon=True)
    check_sharding("fsdp2", ema=True, muon=True)
    check_sharding(engine, ema=False)


def test_the_engine_is_asked_for_before_there_is_a_model(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_difflm.training.arguments.check_launch", lambda **kwargs: None)  # a CPU has none of them
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match="optim muon does not train under zero2"):
        DiffusionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, optim="muon")


def test_adapters_that_a_model_has_already_are_refused(make_diffusion_trainer, tiny_denoiser):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_denoiser(), LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(UserError, match=r"optim muon .* adapters of the model train as a product of two thin ones"):
        make_diffusion_trainer(model=model, **MUON)


def test_a_network_without_a_matrix_to_train_is_refused(make_diffusion_trainer, tiny_denoiser):
    model = tiny_denoiser()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.ndim == 1)
    with pytest.raises(UserError, match="MaskedDiffusionForMaskedLM trains none; choose another optim"):
        make_diffusion_trainer(model=model, **MUON).train()
