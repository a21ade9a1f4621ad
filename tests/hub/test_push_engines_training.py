"""Two processes push while they train: what arrives after each save loads elsewhere, and the checkpoint is whole."""

from __future__ import annotations

import pytest
import torch
from made_models import load_elsewhere
from processes.engine_run import CUT, STEPS, launch

from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.runs import load_run

pytestmark = pytest.mark.slow
IDS = torch.tensor([[256, 97, 98, 259, 99, 259]])
CASES = {
    "ddp": ("", "checkpoint", {"ema_decay": 0.9}),
    "fsdp2": ("fsdp2", "checkpoint", {"ema_decay": 0.9}),
    "zero3": ("deepspeed", "every_save", {}),
}


@pytest.mark.parametrize("config", CASES)
def test_what_two_processes_push_at_a_save_loads_elsewhere_and_its_checkpoint_is_whole(
    loopback_hub, tmp_path, config, monkeypatch
):
    engine, strategy, settings = CASES[config]
    if engine == "deepspeed":
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: pip install hf_difflm[deepspeed]")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name, value in loopback_hub.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    pushing = {"eval_steps": 6, "push_to_hub": True, "hub_model_id": "o/n", "hub_strategy": strategy}
    pushing["hub_always_push"] = True  # the last one too, whether or not the one before has gone up
    launch(config, tmp_path, {"run": settings | pushing}, engine=engine)
    told = [(event.event, event.iter, event.message) for event in load_run(tmp_path / "run").events]
    assert not [event for event in told if event[0] == "push_failed"]
    assert [step for name, step, _ in told if name == "pushed"][:1] == [CUT]
    assert [step for name, step, _ in told if name == "pushed"][-1] == STEPS

    files = loopback_hub.files("o/n")
    out, _ = load_elsewhere(loopback_hub, "o/n", IDS, tmp_path)
    best = MaskedDiffusionForMaskedLM.from_pretrained(tmp_path / "run" / "best").eval()
    with torch.no_grad():
        assert torch.equal(out["logits"], best(IDS).logits)
    last = {name.removeprefix("last-checkpoint/") for name in files if name.startswith("last-checkpoint/")}
    checkpoint = tmp_path / "run" / f"checkpoint-{STEPS}"
    if strategy == "every_save":
        assert not last
        return
    here = {path.relative_to(checkpoint).as_posix(): path for path in checkpoint.rglob("*") if path.is_file()}
    assert last == here.keys()
    assert all(files[f"last-checkpoint/{name}"] == path.read_bytes() for name, path in here.items())
