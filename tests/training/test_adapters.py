"""LoRA: adapters alone are trained and kept in checkpoints, best/ is a plain model, and a resume changes nothing."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from hf_difflm.callbacks import GenerationSamplesCallback
from hf_difflm.errors import UserError
from hf_difflm.evaluation.targets import load_target
from hf_difflm.models import MaskedDiffusionForMaskedLM, ModelOptions, build_causal_lm
from hf_difflm.models.adapters import AVERAGES, is_adapter_folder, load_merged, merged
from hf_difflm.models.loading import load_config, load_model
from hf_difflm.runs import load_run
from hf_difflm.runs.checkpoints import EMA_FILE
from hf_difflm.training.peft_adapters import base_name, with_adapters
from hf_difflm.training.settings import load_settings

pytest.importorskip("peft")

IDS = torch.arange(97, 106)[None]


@pytest.fixture
def base(tmp_path: Path, tiny_denoiser: Any, tokenizer: Any) -> Path:
    """The folder of a denoiser whose mask is token 259."""
    folder = tmp_path / "base"
    tiny_denoiser(seed=3).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def adapt(base: Path, tmp_path: Path, make_diffusion_trainer: Any, train_rows: Any) -> Callable[..., Any]:
    """``adapt(*callbacks, **arguments)``: a Trainer of adapters beside the base: two checkpoints, evaluated at the end."""

    def make(*callbacks: Any, model: Any = None, **arguments: Any) -> Any:
        given = {"lora_r": 2, "save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 6}
        return make_diffusion_trainer(
            *callbacks,
            model=model or MaskedDiffusionForMaskedLM.from_pretrained(base),
            evaluation=train_rows(8, seed=5),
            **{"output_dir": str(tmp_path / "run"), "learning_rate": 0.05, **given, **arguments},
        )

    return make


def logits(model: Any) -> torch.Tensor:
    masked = IDS.clone()
    masked[0, 3:6] = 259
    with torch.no_grad():
        return model.eval()(masked).logits


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


def test_best_is_a_plain_model_whose_weights_are_those_of_the_formula(adapt: Any, base: Path, tmp_path: Path) -> None:
    trainer = adapt(lora_alpha=6)
    trainer.train()
    best = tmp_path / "run/best"
    found, before = load_file(best / "model.safetensors"), load_file(base / "model.safetensors")
    assert found.keys() == before.keys()
    adapter = load_file(best / "adapter/adapter_model.safetensors")
    for name, weight in before.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in adapter:
            change = 6 / 2 * adapter[f"{stem}.lora_B.weight"] @ adapter[f"{stem}.lora_A.weight"]
            assert change.abs().max() > 0
            weight = weight + change
        torch.testing.assert_close(found[name], weight)
    model = MaskedDiffusionForMaskedLM.from_pretrained(best)
    assert not hasattr(model, "peft_config")
    lowest = min(entry["eval_nll"] for entry in trainer.state.log_history if "eval_nll" in entry)
    trainer.model = model
    assert trainer.evaluate()["eval_nll"] == pytest.approx(lowest, rel=1e-6)


@pytest.mark.slow
def test_peft_itself_puts_the_adapter_beside_the_base(adapt: Any, base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    adapt().train()
    merged_model = MaskedDiffusionForMaskedLM.from_pretrained(tmp_path / "run/best")
    model = PeftModel.from_pretrained(MaskedDiffusionForMaskedLM.from_pretrained(base), tmp_path / "run/best/adapter")
    torch.testing.assert_close(logits(model), logits(merged_model), rtol=1e-4, atol=1e-5)


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


def test_averaged_adapters_are_what_best_and_a_loaded_checkpoint_have(adapt: Any, tmp_path: Path) -> None:
    assert AVERAGES == EMA_FILE
    trainer = adapt(ema_decay=0.9)
    trainer.train()
    with trainer.evaluated_weights():
        averaged = logits(trainer.model)
    assert not torch.allclose(averaged, logits(trainer.model))
    loaded = load_target(str(tmp_path / "run/checkpoint-6"), use_cpu=True)
    torch.testing.assert_close(logits(loaded.model), averaged, rtol=1e-4, atol=1e-5)
    best = load_target(str(tmp_path / "run"), use_cpu=True)
    torch.testing.assert_close(logits(best.model), averaged, rtol=1e-4, atol=1e-5)


def test_best_may_be_the_adapter_alone(adapt: Any, tmp_path: Path) -> None:
    trainer = adapt(lora_merge=False)
    trainer.train()
    assert is_adapter_folder(tmp_path / "run/best")
    assert not (tmp_path / "run/best/model.safetensors").exists()
    assert load_config(tmp_path / "run/best", "it").model_type == "masked_diffusion"
    target = load_target(str(tmp_path / "run"), use_cpu=True)
    torch.testing.assert_close(logits(target.model), logits(trainer.model), rtol=1e-4, atol=1e-5)
    assert all(p.requires_grad for p in target.model.parameters())


@pytest.mark.slow
def test_an_adapter_of_a_merged_adapter_knows_what_it_belongs_to(adapt: Any, tmp_path: Path) -> None:
    adapt(lora_merge=False).train()
    first = load_model(tmp_path / "run/best", "first")
    second = adapt(model=first, lora_merge=False, output_dir=str(tmp_path / "second"))
    second.train()
    again = load_model(tmp_path / "second/best", "second")
    torch.testing.assert_close(logits(again), logits(second.model), rtol=1e-4, atol=1e-5)


def test_merging_for_a_while_leaves_the_model_as_it_was(base: Path) -> None:
    model = adapted(base)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = list(before)
    with contextlib.suppress(KeyError), merged(model):
        assert not any("lora_" in name for name in model.state_dict())
        raise KeyError
    assert list(model.state_dict()) == names
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def adapted(base: Path, **changes: Any) -> Any:
    arguments = {"lora_r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "lora_target_modules": None, "seed": 0}
    model = MaskedDiffusionForMaskedLM.from_pretrained(base)
    return with_adapters(model, type("Arguments", (), arguments | changes))


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


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("q_prj", "'q_prj' is no dense layer of this MaskedDiffusionForMaskedLM, those are down_proj, .*did you mean"),
        ("lm_head", "lm_head is the embedding or the LM head"),
        ("embed_tokens", "embed_tokens is the embedding or the LM head"),
    ],
)
def test_modules_that_cannot_be_adapted_are_refused(base: Path, target: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        adapted(base, lora_target_modules=[target])


def test_without_peft_a_sentence_says_what_to_install(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match="pip install 'hf_difflm\\[peft\\]'"):
        adapted(base)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"lora_r": 4}, "add init_from"),
        ({"lora_alpha": 4}, "lora_alpha has no effect without lora_r"),
        ({"no_lora_merge": True}, "lora_merge has no effect without lora_r"),
        ({"lora_r": 0, "init_from": "a"}, "lora_r must be"),
    ],
)
def test_settings_that_cannot_stand_together_are_refused(flags: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_settings(None, flags)


def test_flags_are_typed() -> None:
    training = load_settings(
        None, {"init_from": "a", "lora_r": "4", "lora_target_modules": "q_proj,v_proj", "lora_merge": "false"}
    ).training
    assert (training["lora_r"], training["lora_target_modules"], training["lora_merge"]) == (
        4,
        ["q_proj", "v_proj"],
        False,
    )


def test_adapters_that_do_not_fit_or_are_not_safe_are_refused(
    adapt: Any, base: Path, tmp_path: Path, tiny_denoiser: Any
):
    adapt(lora_merge=False).train()
    best = tmp_path / "run/best"
    wide = tiny_denoiser(vocab_size=260)
    wide.backbone.layers = wide.backbone.layers[:1]
    with pytest.raises(UserError, match=r"has 28 weights where its network has room for 14"):
        load_merged(wide, best, "it")
    config = json.loads((best / "adapter_config.json").read_text())
    refused = {
        str(tmp_path / "gone"): "which is not there",
        str(best): "which is not there",
        None: "does not say of which",
    }
    for place, says in refused.items():
        (best / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": place}))
        with pytest.raises(UserError, match=says):
            load_model(best, "it")
    (best / "adapter_config.json").write_text(json.dumps(config))
    (best / "adapter_model.safetensors").rename(best / "adapter_model.bin")
    with pytest.raises(UserError, match=r"holds no adapter_model\.safetensors"):
        load_model(best, "it")
    (best / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="does not fit its network"):
        load_model(best, "it")


def test_a_model_of_the_hub_is_named_and_not_its_place_in_the_cache(tmp_path: Path) -> None:
    cached = "/somewhere/hub/models--owner--my-name/snapshots/0123abc"
    assert base_name(cached) == ("owner/my-name", "0123abc")
    assert base_name(str(tmp_path)) == (str(tmp_path.resolve()), None)
    assert base_name("") == (None, None)
