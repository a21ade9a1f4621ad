"""Runs of several processes push as any other: what FSDP2 and ZeRO-3 have trained loads with transformers alone."""

from __future__ import annotations

import json

import pytest
import torch
from made_models import load_elsewhere
from processes.engine_run import launch

from hf_difflm.hub.folder import write_folder
from hf_difflm.models import MaskedDiffusionForMaskedLM

pytestmark = pytest.mark.slow
IDS = torch.tensor([[256, 97, 98, 259, 99, 259]])
CASES = {
    "fsdp2": ("fsdp2", {"objective": "mdlm", "ema_decay": 0.9}),
    "zero3": ("deepspeed", {"objective": "mdlm"}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_two_processes_have_trained_loads_elsewhere(loopback_hub, tmp_path, name):
    engine, settings = CASES[name]
    if engine == "deepspeed":
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: pip install hf_difflm[deepspeed]")
    launch(name, tmp_path, {"run": settings}, engine=engine)
    folder = write_folder(tmp_path / "run", tmp_path / "out", repo_id="o/n")
    assert folder.source.folder.name == "best"
    assert folder.source.is_averaged == ("ema_decay" in settings)
    config = json.loads((folder.path / "config.json").read_text())
    assert config["architectures"] == ["MaskedDiffusionForMaskedLM"]
    loopback_hub.put_folder("o/n", folder.path)
    out, _ = load_elsewhere(loopback_hub, "o/n", IDS, tmp_path)
    model = MaskedDiffusionForMaskedLM.from_pretrained(tmp_path / "run" / "best").eval()
    with torch.no_grad():
        assert torch.equal(out["logits"], model(IDS).logits)
