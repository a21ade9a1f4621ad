"""A whole folder as version 0.1.0 pushed it, before its modules moved: it loads by the package and by the code beside it.

``hf-difflm push RUN --repo-id x/y --dry-run --export-dir FOLDER`` wrote it; only its pictures are left out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_difflm.data import Collator, load_tokenizer
from hf_difflm.evaluation.likelihood.batches import EvaluationBatches
from hf_difflm.evaluation.likelihood.evaluate import evaluate_likelihood
from hf_difflm.evaluation.targets import load_target
from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.objectives import MaskedDiffusionObjective
from hf_difflm.runs import load_run

PUSHED = Path(__file__).parent / "old_formats" / "pushed_0.1.0"
EXPECTED = json.loads(PUSHED.with_name("pushed_0.1.0.json").read_text())

ELSEWHERE = """
import json, sys, torch
from transformers import AutoModelForMaskedLM, AutoTokenizer
folder, ids, prompt = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True).eval()
assert not any(name.split(".")[0] == "hf_difflm" for name in sys.modules), "hf_difflm is not needed"
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0]
generated = model.generate(torch.tensor([prompt]), max_new_tokens=8, seed=3)[0].tolist()
print(json.dumps([logits.clamp_min(-99).tolist(), generated, tokenizer.encode("Where", add_special_tokens=False)]))
"""


def assert_as_pushed(logits_LV: torch.Tensor, generated: list[int]) -> None:
    pinned = EXPECTED["logits"]
    found = logits_LV[pinned["position"], pinned["first"] : pinned["first"] + len(pinned["values"])]
    assert found.tolist() == pytest.approx(pinned["values"], abs=5e-6)
    assert generated == EXPECTED["generated"]


@pytest.fixture(scope="module")
def model() -> Any:
    return MaskedDiffusionForMaskedLM.from_pretrained(PUSHED).eval()


def test_the_package_loads_it(model):
    with torch.no_grad():
        logits_LV = model(torch.tensor([EXPECTED["input_ids"]])).logits[0]
    prompt = torch.tensor([EXPECTED["generated"][:3]])
    assert_as_pushed(logits_LV, model.generate(prompt, max_new_tokens=8, seed=3)[0].tolist())


def test_its_likelihood_is_what_it_was(model):
    texts = (EXPECTED["text"], "In the journal")
    rows = [{"input_ids": [256, *text.encode()]} for text in texts]
    batches = EvaluationBatches(rows, Collator(load_tokenizer(str(PUSHED))), 2)
    objective = MaskedDiffusionObjective(model.config.mask_token_id)
    result = evaluate_likelihood(model, objective, batches, 2, replicates=4, seed=0, device=torch.device("cpu"))
    assert result.nll == pytest.approx(EXPECTED["nll"], abs=5e-6)


def test_the_commands_find_model_settings_and_log_in_it():
    target = load_target(str(PUSHED), use_cpu=True)
    assert target.is_denoiser
    assert target.config["dataset"] == load_run(PUSHED).config["dataset"] == "python-docs"


def test_plain_transformers_loads_it_with_the_code_beside_it(tmp_path):
    folder = shutil.copytree(PUSHED, tmp_path / "pushed")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    given = [json.dumps(EXPECTED["input_ids"]), json.dumps(EXPECTED["generated"][:3])]
    command = [sys.executable, "-I", "-c", ELSEWHERE, str(folder), *given]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    logits, generated, ids = json.loads(done.stdout.splitlines()[-1])
    assert_as_pushed(torch.tensor(logits), generated)
    assert ids == list(b"Where")
