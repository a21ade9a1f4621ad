"""The plain loop that ``benchmarks/sampling.py --converted`` compares with writes the tokens of LLaDA's own code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_difflm.hub.conversion.any_model import convert
from hf_difflm.models import MaskedDiffusionForMaskedLM

ROOT = Path(__file__).parents[2]
LLADA = ROOT / "tests" / "fixtures" / "released" / "llada"
sys.path.insert(0, str(ROOT / "benchmarks"))

from _llada_loop import plain_llada  # noqa: E402


def runs() -> list[Any]:
    """What the authors' ``generate`` wrote, by ``make.py`` and by ``sample.py``."""
    facts = json.loads((LLADA / "expected.json").read_text())["generate"]
    sampled = json.loads((LLADA / "sampled.json").read_text())
    every = [*({"prompt": facts["prompt"], **run} for run in facts["runs"]), *sampled]
    return [pytest.param(run, id=f"{number}") for number, run in enumerate(every)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(str(LLADA), tmp_path_factory.mktemp("released") / "llada").folder


@pytest.mark.parametrize("run", runs())
def test_the_loop_writes_what_its_authors_write(run, folder):
    model = MaskedDiffusionForMaskedLM.from_pretrained(folder, dtype=getattr(torch, run.get("dtype", "float32"))).eval()
    mask = model.config.mask_token_id
    with torch.no_grad():
        model.lm_head.weight.mul_(run.get("head", 1.0))
        if "mask_like" in run:
            token, factor = run["mask_like"]
            model.lm_head.weight[mask] = factor * model.lm_head.weight[token]
    found = plain_llada(
        lambda ids: model.lm_head(model.backbone(input_ids=ids).last_hidden_state),
        torch.tensor([run["prompt"]]),
        mask_id=mask,
        new_tokens=run["gen_length"],
        steps=run["steps"],
        block_length=run["block_length"],
    )
    assert found[0].tolist() == run["tokens"]


@pytest.mark.parametrize(("steps", "block_length"), [(3, 4), (4, 3)])
def test_blocks_and_steps_that_do_not_divide_evenly_are_refused(steps, block_length):
    with pytest.raises(ValueError, match="no blocks of"):
        plain_llada(
            torch.zeros_like, torch.zeros(1, 1), mask_id=1, new_tokens=8, steps=steps, block_length=block_length
        )
