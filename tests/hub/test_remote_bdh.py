"""BDH travels as remote code: both twins load and generate in a process that has never heard of hf_difflm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_difflm.hub.remote_code import write_config_and_code
from hf_difflm.models import ModelOptions, build_causal_lm
from hf_difflm.models.build import build_denoiser

SCRIPT = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
assert "hf_difflm" not in sys.modules
folder, kind = sys.argv[1:]
auto = AutoModelForCausalLM if kind == "ar" else AutoModelForMaskedLM
model = auto.from_pretrained(folder, trust_remote_code=True).eval()
ids = torch.arange(97, 105)[None]
with torch.no_grad():
    logits = model(ids).logits if kind == "ar" else model.backbone(ids).last_hidden_state
torch.save(logits, folder + "/logits.pt")
print(json.dumps(model.generate(ids, max_new_tokens=3).shape[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ar", "mdlm"])
def test_it_loads_and_generates_without_this_package(tmp_path: Path, tokenizer: Any, kind: str):
    options = ModelOptions(backbone="bdh", hidden_size=16, num_hidden_layers=2, intermediate_size=32)
    build: Any = build_causal_lm if kind == "ar" else build_denoiser
    model = build(options, tokenizer, 16).eval()
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    assert write_config_and_code(json.loads((folder / "config.json").read_text()), folder)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), kind], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    ids = torch.arange(97, 105)[None]
    with torch.no_grad():
        here = model(ids).logits if kind == "ar" else model.backbone(ids).last_hidden_state
    assert torch.equal(torch.load(folder / "logits.pt", weights_only=True), here)
    assert int(done.stdout.splitlines()[-1]) > 8
