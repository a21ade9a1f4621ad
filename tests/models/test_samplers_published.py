"""The samplers released models were published with: the tokens of their authors' code, its counts, its faults."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_difflm.hub.conversion.any_model import convert
from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.models.masked_diffusion.sampler_names import PUBLISHED
from hf_difflm.models.masked_diffusion.samplers_published import dream_counts, even_counts

FIXTURES = Path(__file__).parents[1] / "fixtures" / "released"


def runs(name: str) -> list[dict[str, Any]]:
    return json.loads((FIXTURES / name / "expected.json").read_text())["generate"]["runs"]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> dict[str, MaskedDiffusionForMaskedLM]:
    place = tmp_path_factory.mktemp("released")
    names = ("llada", "dream", "sdar")
    folders = {name: convert(str(FIXTURES / name), place / name).folder for name in names}
    return {name: MaskedDiffusionForMaskedLM.from_pretrained(folder).eval() for name, folder in folders.items()}


def tokens(model: MaskedDiffusionForMaskedLM, name: str, new_tokens: int, steps: int, **more: Any) -> list[int]:
    prompt = torch.tensor([json.loads((FIXTURES / name / "expected.json").read_text())["generate"]["prompt"]])
    settings = {"max_new_tokens": new_tokens, "max_denoising_steps": steps, "eos_token_id": None, "temperature": 0.0}
    return model.generate(prompt, **{**settings, **more})[0].tolist()


@pytest.mark.parametrize("run", runs("llada"), ids=str)
def test_llada_writes_what_its_authors_write(run, released):
    settings = {"block_length": run["block_length"], "sampler": "llada"}
    assert tokens(released["llada"], "llada", run["gen_length"], run["steps"], **settings) == run["tokens"]


@pytest.mark.parametrize("run", runs("dream"), ids=str)
def test_dream_writes_what_its_authors_write(run, released):
    settings = {"sampler": "dream", "sampler_config": {"alg": run["alg"]}}
    assert tokens(released["dream"], "dream", run["max_new_tokens"], run["steps"], **settings) == run["tokens"]


@pytest.mark.parametrize("run", runs("sdar"), ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1e-6])  # which theirs were made with
def test_sdar_writes_what_its_authors_write(run, temperature, released):
    config = {"remasking": run["remasking"], "threshold": run["threshold"], "denoising_steps": run["steps"]}
    settings = {"sampler": "sdar", "sampler_config": config, "temperature": temperature}
    assert tokens(released["sdar"], "sdar", 8, 8, **settings) == run["tokens"]
