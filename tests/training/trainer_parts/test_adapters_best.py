"""LoRA: ``best/`` is a plain model with the adapter merged in, or the adapter alone, and both load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import adapted, logits
from safetensors.torch import load_file

from hf_difflm.evaluation.targets import load_target
from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.models.adapters.folders import AVERAGES, is_adapter_folder
from hf_difflm.models.adapters.merging import merged
from hf_difflm.models.loading import load_config, load_model
from hf_difflm.runs.journal.checkpoints import EMA_FILE

pytest.importorskip("peft")


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


def test_merging_leaves_the_model_as_it_was_and_shares_what_has_no_adapter(base: Path) -> None:
    model = adapted(base)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = merged(model)
    assert not any("lora_" in name for name in plain.state_dict())
    assert plain.backbone.embed_tokens.weight is model.backbone.embed_tokens.weight
    with torch.no_grad():
        plain.backbone.layers[0].mlp.up_proj.weight.zero_()
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
