"""LoRA: adapters alone are trained and kept in checkpoints, a resume changes nothing, and the log tells of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import IDS, adapted, logits
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from hf_difflm.callbacks import GenerationSamplesCallback
from hf_difflm.models import MaskedDiffusionForMaskedLM, ModelOptions, build_causal_lm
from hf_difflm.models.adapters.folders import base_name
from hf_difflm.runs import load_run

pytest.importorskip("peft")


def test_adapters_alone_are_trained_and_kept(adapt: Any, base: Path, tmp_path: Path) -> None:
    trainer = adapt()
    plain = MaskedDiffusionForMaskedLM.from_pretrained(base)
    torch.testing.assert_close(logits(trainer.model), logits(plain), rtol=0, atol=0)  # the second matrix is zero
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 7  # two matrices beside seven dense layers of two blocks
    trainer.train()
    own = trainer.model.state_dict()
    for name, before in plain.state_dict().items():
        here = name if name in own else name.replace(".weight", ".base_layer.weight")
        assert torch.equal(own[here], before), name
    checkpoint = load_file(tmp_path / "run/checkpoint-6/adapter_model.safetensors")
    assert len(checkpoint) == len(trained)
    assert not (tmp_path / "run/checkpoint-6/model.safetensors").exists()
    for key, tensor in checkpoint.items():
        name = key.removeprefix("base_model.model.").replace(".weight", ".default.weight")
        assert torch.equal(tensor, own[name])


@pytest.mark.parametrize("ema_decay", [pytest.param(None, marks=pytest.mark.slow), 0.9])
def test_a_resumed_run_equals_an_uninterrupted_one(adapt: Any, tmp_path: Path, ema_decay: float | None) -> None:
    whole = adapt(ema_decay=ema_decay, output_dir=str(tmp_path / "whole"))
    whole.train()
    again = adapt(ema_decay=ema_decay, output_dir=str(tmp_path / "whole"))
    again.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-3"))
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    if ema_decay is not None:
        assert len(whole.ema._shadow) == 28
        for one, other in zip(whole.ema._shadow, again.ema._shadow, strict=True):
            assert torch.equal(one, other)


def test_the_first_adapters_follow_from_the_seed_alone(base: Path) -> None:
    torch.manual_seed(7)
    one = adapted(base).state_dict()
    state = torch.get_rng_state()
    two, three = adapted(base).state_dict(), adapted(base, seed=1).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], three[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "bdh"])
def test_causal_models_of_other_families(adapt: Any, tmp_path: Path, tokenizer: Any, family: str) -> None:
    torch.manual_seed(0)
    if family == "gpt2":
        model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=260, n_positions=64, n_embd=16, n_layer=1, n_head=2))
    else:
        sizes = ModelOptions(backbone="bdh", hidden_size=16, num_hidden_layers=2, intermediate_size=32)
        model = build_causal_lm(sizes, tokenizer, 16)
    model.save_pretrained(tmp_path / "causal")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "causal")
    trainer = adapt(model=model, objective="ar", gradient_checkpointing=family == "bdh")
    trainer.train()
    best = AutoModelForCausalLM.from_pretrained(tmp_path / "run/best").eval()
    with torch.no_grad():
        torch.testing.assert_close(best(IDS).logits, trainer.model.eval()(IDS).logits, rtol=1e-4, atol=1e-5)
    assert not torch.equal(
        best(IDS).logits, AutoModelForCausalLM.from_pretrained(tmp_path / "causal").eval()(IDS).logits
    )


def test_the_log_has_the_trained_parameters_and_samples_and_no_flops_it_cannot_know(adapt: Any, tmp_path: Path) -> None:
    trainer = adapt(GenerationSamplesCallback(["ab"], interval=3, max_new_tokens=4))
    trainer.train()
    run = load_run(tmp_path / "run")
    assert run.header.model["trainable_parameters"] == sum(
        tensor.numel() for tensor in load_file(tmp_path / "run/checkpoint-6/adapter_model.safetensors").values()
    )
    assert run.header.model["parameters"] == sum(p.numel() for p in trainer.model.parameters())
    assert {sample.iter for sample in run.samples} == {3, 6}
    assert all(step.mfu is None for step in run.steps)


def test_modules_by_name(base: Path) -> None:
    model = adapted(base, lora_target_modules=["q_proj", "v_proj"])
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == 4


def test_a_model_of_the_hub_is_named_and_not_its_place_in_the_cache(tmp_path: Path) -> None:
    cached = "/somewhere/hub/models--owner--my-name/snapshots/0123abc"
    assert base_name(cached) == ("owner/my-name", "0123abc")
    assert base_name(str(tmp_path)) == (str(tmp_path.resolve()), None)
    assert base_name("") == (None, None)
