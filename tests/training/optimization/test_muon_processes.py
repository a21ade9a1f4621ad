"""Muon by two processes, under DDP and FSDP2, is Muon by one: whole matrices are made orthogonal, whoever holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from processes.engine_run import CUT, by_one_process, launch
from processes.same_as_one import assert_same_evaluations, assert_same_rows, assert_same_training

pytestmark = pytest.mark.slow
MUON: dict[str, Any] = {"optim": "muon", "adamw_learning_rate": 0.01, "weight_decay": 0.1, "ema_decay": 0.9}
KINDS: dict[str, dict[str, Any]] = {"mdlm": {"objective": "mdlm", **MUON}, "ar": {"objective": "ar", **MUON}}
ENGINES = {"multi_cpu": "DistributedType.MULTI_CPU", "fsdp2": "DistributedType.FSDP"}


@pytest.fixture(scope="module", params=ENGINES)
def by_two(request, tmp_path_factory) -> tuple[str, Path, dict[str, Any]]:
    """Both trainings, and the first one again from its checkpoint."""
    folder = tmp_path_factory.mktemp(request.param)
    runs = {**KINDS, "resumed": {**KINDS["mdlm"], "resume": f"mdlm/checkpoint-{CUT}"}}
    return request.param, folder, launch(request.param, folder, runs, engine="fsdp2" if "fsdp" in request.param else "")


@pytest.fixture(scope="module")
def by_one(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("one")
    return folder, by_one_process(folder, KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_two_processes_train_as_one(by_two, by_one, name):
    (engine, folder, results), (folder_one, results_one) = by_two, by_one
    assert (results[name]["ranks"], results[name]["engine"]) == (2, ENGINES[engine])
    assert results[name]["rows"][0].keys() >= {"lr", "adamw_learning_rate", "flops"}
    assert_same_training(results[name], results_one[name], folder / name, folder_one / name, name, rel=1e-4)


def test_resumed_they_go_on_as_if_never_stopped(by_two):
    _, _, results = by_two
    assert_same_rows(results["resumed"]["rows"], results["mdlm"]["rows"][CUT:], rel=1e-6)
    assert_same_evaluations(results["resumed"]["evaluations"][-1:], results["mdlm"]["evaluations"][-1:], rel=1e-6)
