"""Converted models load where hf_difflm is not: the files that travel with them know the backbones that are ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_difflm.hub.remote_code import read_config, write_config_and_code
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.masked_diffusion.dit_configuration import DiTConfig

SCRIPT = """
import json, sys
import torch
from transformers import AutoModelForMaskedLM
found = []
for folder in sys.argv[1:]:
    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True).eval()
    found.append([model(torch.tensor([[5, 19, 7, 19]])).logits[0, 1, :19].tolist(),
                  model.generate(torch.tensor([[5, 19, 7]]), max_new_tokens=3, seed=1).tolist()])
assert not any(name.startswith("hf_difflm") for name in sys.modules)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_shifted_and_rotated_models_and_a_diffusion_transformer_load_and_generate_elsewhere(tmp_path: Path) -> None:
    sizes = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    backbones = {
        "dit": DiTConfig(conditioning_size=8, dropout=0.0, **sizes),
        "shifted": {"model_type": "llama", "intermediate_size": 32, **sizes},
        "rotated": {"model_type": "llama", "intermediate_size": 32, **sizes},
    }
    expected, folders = [], []
    for name, backbone in backbones.items():
        torch.manual_seed(0)
        model = MaskedDiffusionForMaskedLM(
            MaskedDiffusionConfig(
                backbone_config=backbone,
                mask_token_id=19,
                shift_logits=name == "shifted",
                rotate_in_float32=name == "rotated",
            )
        ).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        folder = tmp_path / name
        model.save_pretrained(folder)
        assert write_config_and_code(read_config(folder), folder)
        logits = model(torch.tensor([[5, 19, 7, 19]])).logits[0, 1, :19].tolist()
        text = model.generate(torch.tensor([[5, 19, 7]]), max_new_tokens=3, seed=1).tolist()
        expected.append([logits, text])
        folders.append(str(folder))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, *folders]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    for (logits, text), (expected_logits, expected_text) in zip(
        json.loads(result.stdout.splitlines()[-1]), expected, strict=True
    ):
        assert logits == pytest.approx(expected_logits, abs=1e-5)
        assert text == expected_text
