"""A fine-tuned adapter that is pushed while it is trained: whole weights for everybody, and the adapter as PEFT wants it."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from made_models import ROOT, load_elsewhere, make_run, run_elsewhere, tiny
from safetensors.torch import load_file

from hf_difflm.hub.folder import write_folder
from hf_difflm.models import MaskedDiffusionForMaskedLM

pytest.importorskip("peft", reason="peft is not installed (pip install 'hf_difflm[peft]')")
pytestmark = pytest.mark.slow

IDS = torch.tensor([[256, 97, 98, 259, 99, 259]])
TRAIN = "import sys; from hf_difflm.commands import app; app(['train', *sys.argv[1:]])"
FLAGS = (
    "--init-from o/base --dataset markov --block-size 33 --lora-r 2 --learning-rate 0.1 --max-eval-blocks 8 "
    "--eval-replicates 2 --max-steps 4 --eval-steps 4 --save-steps 4 --logging-steps 1 --viz-interval 0 --output-dir run "
    "--push-to-hub --hub-model-id o/n --hub-license apache-2.0 --use-cpu"
)
CARD_VALIDATION = """
import sys
from huggingface_hub import ModelCard
card = ModelCard.load("o/n")
card.validate()
print(card.data.license, card.data.base_model)
"""


@pytest.mark.parametrize("more", [["--no-lora-merge"], []])
def test_weights_load_with_transformers_alone_and_the_adapter_by_the_lines_of_the_card(
    loopback_hub, tmp_path, tokenizer, more
):
    write_folder(make_run(tmp_path / "base", tiny(1), tokenizer), tmp_path / "out", repo_id="o/base")
    loopback_hub.put_folder("o/base", tmp_path / "out")
    environment = loopback_hub.environment(tmp_path) | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", TRAIN, *FLAGS.split(), *more]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    files = loopback_hub.files("o/n")
    alone = {name for name in files if name.startswith("adapter/")}
    assert alone == {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    local = tmp_path / "run" / "best" / ("" if more else "adapter")
    assert files["adapter/adapter_model.safetensors"] == (local / "adapter_model.safetensors").read_bytes()
    commit = loopback_hub.repos["o/base"].branches["main"][-1].sha
    config = json.loads(files["adapter/adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("o/base", commit)
    card = ModelCard(files["README.md"].decode())
    assert (card.data.license, card.data.base_model) == ("apache-2.0", "o/base")

    out, _ = load_elsewhere(loopback_hub, "o/n", IDS, tmp_path)
    if not more:
        best = MaskedDiffusionForMaskedLM.from_pretrained(tmp_path / "run" / "best").eval()
        with torch.no_grad():
            assert torch.equal(out["logits"], best(IDS).logits)
    low_rank = load_file(local / "adapter_model.safetensors")
    assert any(weight.abs().max() > 0 for name, weight in low_rank.items() if "lora_B" in name)
    assert not torch.allclose(out["logits"], tiny(1).eval()(IDS).logits, atol=1e-2)

    (lines,) = [block for block in re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL) if "peft" in block]
    end = "import sys, torch\ntorch.save(model.eval()(torch.load(sys.argv[1])).logits, sys.argv[2])\n"
    other = run_elsewhere(loopback_hub, lines + end, tmp_path / "ids.pt", tmp_path / "peft.pt", home=tmp_path)
    assert other.returncode == 0, other.stderr
    torch.testing.assert_close(torch.load(tmp_path / "peft.pt"), out["logits"], rtol=1e-4, atol=1e-4)

    checked = run_elsewhere(loopback_hub, CARD_VALIDATION, home=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.split() == ["apache-2.0", "o/base"]
