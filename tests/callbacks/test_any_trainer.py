"""The run log of every kind of Trainer."""

from __future__ import annotations

import pytest

from hf_difflm.callbacks import RunLogCallback
from hf_difflm.runs import load_run


def test_the_run_log_of_any_trainer_has_its_logged_losses(any_trainer, tmp_path):
    trainer = any_trainer(RunLogCallback(run_name="tiny"))
    trainer.train()
    run = load_run(tmp_path / "out")
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert run.status == "completed"
    assert len(logged) == 3
    if any_trainer.kind == "diffusion":  # a row for every step
        assert run.column("loss").reshape(3, 2).mean(1) == pytest.approx(logged, rel=1e-5)
    else:
        assert run.column("loss") == pytest.approx(logged)
