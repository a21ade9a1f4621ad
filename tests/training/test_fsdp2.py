"""FSDP2 on two CPU processes: the same training as one process, sharded; whole weights, average and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from processes.engine_run import CUT, by_one_process, launch
from processes.same_as_one import assert_same_evaluations, assert_same_rows, assert_same_training
from safetensors.torch import load_file

from hf_difflm.runs import load_run

pytestmark = pytest.mark.slow
KINDS: dict[str, dict[str, Any]] = {
    "mdlm": {"objective": "mdlm", "ema_decay": 0.9},
    "mdlm-in-chunks": {"objective": "mdlm", "head_chunk_rows": 4},
    "ar": {"objective": "ar"},
}


@pytest.fixture(scope="module")
def by_two(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """Both trainings, and the first one again from its checkpoint."""
    folder = tmp_path_factory.mktemp("fsdp2")
    resumed = {**KINDS["mdlm"], "resume": f"mdlm/checkpoint-{CUT}"}
    return folder, launch("fsdp2", folder, {**KINDS, "resumed": resumed}, engine="fsdp2")


@pytest.fixture(scope="module")
def by_one(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("one")
    return folder, by_one_process(folder, KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_it_trains_evaluates_samples_and_keeps_the_best_as_one_process_does(by_two, by_one, name):
    (folder, results), (folder_one, results_one) = by_two, by_one
    ours = results[name]
    assert (ours["ranks"], ours["engine"]) == (2, "DistributedType.FSDP")
    assert_same_training(ours, results_one[name], folder / name, folder_one / name, KINDS[name]["objective"])


def test_the_run_log_says_what_is_shared_and_has_gradient_norms_by_group(by_two, by_one):
    run, one = (load_run(folder / "mdlm") for folder, _ in (by_two, by_one))
    metadata = run.header.metadata
    assert (metadata["engine"], metadata["world_size"], metadata["dtype"]) == ("fsdp2", 2, "float32")
    assert metadata["sharding"] == ["optimizer", "gradients", "weights"]
    assert run.header.model["parameters"] == one.header.model["parameters"]
    norms, norms_one = ([m.metrics for m in r.measurements if m.source == "gradients"] for r in (run, one))
    assert len(norms) == len(norms_one) == 4
    for ours, theirs in zip(norms, norms_one, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_resumed_it_goes_on_as_if_never_stopped(by_two):
    _, results = by_two
    assert_same_rows(results["resumed"]["rows"], results["mdlm"]["rows"][CUT:], rel=1e-6)
    assert_same_evaluations(results["resumed"]["evaluations"][-1:], results["mdlm"]["evaluations"][-1:], rel=1e-6)


def test_the_file_of_the_average_is_whole_and_any_number_of_processes_goes_on_with_it(by_two, by_one, tmp_path):
    (folder, results), (folder_one, _) = by_two, by_one
    ours, theirs = (load_file(at / "mdlm" / f"checkpoint-{CUT}" / "ema.safetensors") for at in (folder, folder_one))
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-4, atol=1e-5, msg=name)
    (tmp_path / "mdlm").symlink_to(folder / "mdlm")
    resumed = {**KINDS["mdlm"], "resume": f"mdlm/checkpoint-{CUT}"}
    alone = launch("fsdp2", tmp_path, {"resumed": resumed}, engine="fsdp2", processes=1)["resumed"]
    assert alone["ranks"] == 1
    assert_same_rows(alone["rows"], results["mdlm"]["rows"][CUT:])
    assert_same_evaluations(alone["evaluations"][-1:], results["mdlm"]["evaluations"][-1:])
