"""DeepSpeed on two CPU processes, ZeRO-1 to ZeRO-3: the same training as one process, with checkpoints that go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from processes.engine_run import CUT, by_one_process, launch
from processes.same_as_one import assert_same_evaluations, assert_same_rows, assert_same_training

from hf_difflm.runs import load_run

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: pip install hf_difflm[deepspeed]")
pytestmark = pytest.mark.slow
KINDS = {
    "zero1-ar": {"objective": "ar", "ema_decay": 0.9},
    "zero2-mdlm": {"objective": "mdlm", "ema_decay": 0.9, "head_chunk_rows": 4},
    # The head is large enough to be partitioned (a parameter of fewer than 100,000 numbers is not).
    "zero3-mdlm": {"objective": "mdlm", "head_chunk_rows": 4, "vocab_size": 8192},
    "zero3-ar": {"objective": "ar"},
}
SHARING = {"zero1": ["optimizer"], "zero2": ["optimizer", "gradients"], "zero3": ["optimizer", "gradients", "weights"]}


@pytest.fixture(scope="module")
def by_two(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """Each training, and again from its checkpoint."""
    folder, outcomes = tmp_path_factory.mktemp("zero"), {}
    for engine in SHARING:
        runs: dict[str, Any] = {name: settings for name, settings in KINDS.items() if name.startswith(engine)}
        for name, settings in dict(runs).items():
            runs[f"{name}-resumed"] = {**settings, "resume": f"{name}/checkpoint-{CUT}"}
        outcomes |= launch(engine, folder, runs, engine="deepspeed")
    return folder, outcomes


@pytest.fixture(scope="module")
def by_one(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("one")
    return folder, by_one_process(folder, KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_it_trains_evaluates_samples_and_keeps_the_best_as_one_process_does(by_two, by_one, name):
    (folder, results), (folder_one, results_one) = by_two, by_one
    ours = results[name]
    assert (ours["ranks"], ours["engine"]) == (2, "DistributedType.DEEPSPEED")
    rel = 1e-4 if "vocab_size" in KINDS[name] else 1e-5  # a larger vocabulary rounds more
    assert_same_training(ours, results_one[name], folder / name, folder_one / name, KINDS[name]["objective"], rel)
    run, one = load_run(folder / name), load_run(folder_one / name)
    engine = name.split("-")[0]
    metadata = run.header.metadata
    assert (metadata["engine"], metadata["world_size"], metadata["sharding"]) == (engine, 2, SHARING[engine])
    assert run.header.model["parameters"] == one.header.model["parameters"]


@pytest.mark.parametrize("name", KINDS)
def test_resumed_it_goes_on_as_if_never_stopped(by_two, name):
    _, results = by_two
    whole, resumed = results[name], results[f"{name}-resumed"]
    assert_same_rows(resumed["rows"], whole["rows"][CUT:], rel=1e-6)
    assert_same_evaluations(resumed["evaluations"][-1:], whole["evaluations"][-1:], rel=1e-6)
