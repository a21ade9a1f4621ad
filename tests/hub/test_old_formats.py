"""Models pushed long ago keep loading: one file of each format version, written by the code of that time and never anew."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hf_difflm.models import MaskedDiffusionForMaskedLM

FILES = sorted((Path(__file__).parent / "old_formats").glob("version_*.json"))


def weight(name: str, shape: list[int]) -> torch.Tensor:
    """The weights of these models: a sine, so that the files need not hold them."""
    count = math.prod(shape)
    phase = sum(name.encode()) % 97
    return torch.sin(torch.arange(count, dtype=torch.float64) * 0.7 + phase).reshape(shape).float()


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def pushed(request, tmp_path):
    """What the file records, and a folder as it was pushed."""
    record = json.loads(request.param.read_text())
    (tmp_path / "config.json").write_text(json.dumps(record["config"]))
    (tmp_path / "generation_config.json").write_text(json.dumps(record["generation_config"]))
    weights = {name: weight(name, shape) for name, shape in record["weights"].items()}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    return record, tmp_path


def test_there_is_a_file_of_each_version_up_to_today():
    versions = [json.loads(path.read_text())["config"]["format_version"] for path in FILES]
    today = MaskedDiffusionForMaskedLM.config_class().format_version
    assert versions == list(range(1, today + 1))


def test_it_loads_with_every_weight_and_the_logits_it_had(pushed):
    record, folder = pushed
    model, found = MaskedDiffusionForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    ids, mask = torch.tensor([record["input_ids"]]), torch.tensor([record["attention_mask"]])
    with torch.no_grad():
        logits = model.eval()(ids, attention_mask=mask).logits[0]
    expected = torch.tensor([[-math.inf if value is None else value for value in row] for row in record["logits"]])
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-6)


def test_it_generates_by_the_settings_it_was_pushed_with(pushed):
    record, folder = pushed
    model = MaskedDiffusionForMaskedLM.from_pretrained(folder)
    ids = model.generate(torch.tensor([record["input_ids"][:2]]), seed=0)
    assert ids.shape == (1, 2 + record["generation_config"]["max_new_tokens"])
    assert record["config"]["mask_token_id"] not in ids
