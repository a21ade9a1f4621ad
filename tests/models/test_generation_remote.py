"""The files of the model folder generate on their own, as a repository on the Hub would have them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hf_difflm.models.masked_diffusion as folder
from hf_difflm.models.masked_diffusion.sampler_uncertainty import UncertaintySampler

SCRIPT = """
import json, sys
import torch
from transformers import AutoModelForMaskedLM
model = AutoModelForMaskedLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
assert not any(name.startswith("hf_difflm") for name in sys.modules)
prompt = torch.tensor([[1, 5, 29, 7]])
texts = {name: model.generate(prompt, sampler=name, seed=3).tolist() for name in json.loads(sys.argv[2])}
texts["saved"] = model.generate(prompt, seed=3).tolist()
print(json.dumps(texts))
"""


@pytest.mark.parametrize("blocks", [None, 4])
def test_generation_travels_with_the_model_as_remote_code(tiny_denoiser, tmp_path, blocks):
    model = tiny_denoiser(vocab_size=30, bos_token_id=1, pad_token_id=0, diffusion_block_size=blocks).eval()
    model.generation_config.max_new_tokens = 6
    model.generation_config.sampler_config = UncertaintySampler(measure="margin", budget=0.9)
    model.config.auto_map = {
        "AutoConfig": "configuration_masked_diffusion.MaskedDiffusionConfig",
        "AutoModelForMaskedLM": "modeling_masked_diffusion.MaskedDiffusionForMaskedLM",
    }
    repository = tmp_path / "repository"
    model.save_pretrained(repository)
    for path in Path(folder.__file__).parent.glob("*.py"):
        shutil.copy(path, repository)
    names = ["ddpm_cache", "first_hitting", "entropy_bounded"]
    prompt = torch.tensor([[1, 5, 29, 7]])
    expected = {name: model.generate(prompt, sampler=name, seed=3).tolist() for name in names}
    expected["saved"] = model.generate(prompt, seed=3).tolist()

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(repository), json.dumps(names)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == expected
