"""LoRA: settings, modules and adapters that cannot be are one sentence each."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from adapted import adapted

from hf_difflm.errors import UserError
from hf_difflm.experiments.recipe_settings import load_settings
from hf_difflm.models.adapters.files import load_merged
from hf_difflm.models.loading import load_model

pytest.importorskip("peft")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (
            "q_prj",
            "'q_prj' is no dense layer of this MaskedDiffusionForMaskedLM, those are all-linear or .*did you mean",
        ),
        ("all-linear,lm_head", "all-linear stands alone"),
    ],
)
def test_modules_that_cannot_be_adapted_are_refused(base: Path, target: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        adapted(base, lora_target_modules=target.split(","))


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
