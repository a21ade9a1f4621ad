"""The fixtures of released models: where they are, what no file of theirs says, and copies with another configuration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from hf_difflm.models import MaskedDiffusionForMaskedLM

FIXTURES = Path(__file__).parents[1] / "fixtures" / "released"
WITH_TOKENIZER = ("llada", "dream", "sdar", "open-dllm")
NAMED = ("mdlm",)  # its tokenizer is named
IDS_ONLY = ("a2d-llama", "a2d-qwen2", "a2d-qwen3", "llada-moe")
# What no file of theirs says.
SAID: dict[str, dict[str, Any]] = {name: {"no_tokenizer": True, "mask_token_id": 63} for name in IDS_ONLY}
SAID["mdlm"] = {"tokenizer": "bytes"}
SAID["open-dllm"] = {"released_as": "open-dllm"}
SHIFTED = ("dream", "open-dllm")
TITLE = {"open-dllm": "Open-dLLM", "llada": "LLaDA", "dream": "Dream", "sdar": "SDAR", "llada-moe": "LLaDA-MoE"}

TOLERANCE = 1e-5


def changed(name: str, folder: Path, **values: Any) -> Path:
    """A copy of a fixture with other values in its ``config.json``; None leaves a key out."""
    shutil.copytree(FIXTURES / name, folder)
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))
    return folder


def expected(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    folder = FIXTURES / name
    return load_file(folder / "expected.safetensors"), json.loads((folder / "expected.json").read_text())


def difference(
    model: MaskedDiffusionForMaskedLM,
    ids: torch.Tensor,
    logits: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
) -> float:
    """Of the logits at masks, but for that of the mask token, which has probability 0 here."""
    mask = model.config.mask_token_id
    hidden, keep = ids == mask, torch.arange(model.config.vocab_size) != mask
    assert hidden.any()
    with torch.no_grad():
        found = model(ids, attention_mask=attention_mask).logits
    assert found[hidden][:, mask].isneginf().all()
    return float((found[hidden][:, keep].float() - logits[hidden][:, keep].float()).abs().max())
