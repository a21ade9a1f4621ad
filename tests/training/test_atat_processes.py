"""Two processes that talk over gloo train the model and the networks beside it as one process does.

Run by torchrun, this file is the script of both processes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from processes.engine_run import build_trainer, launch, rows_of
from processes.two_processes import run_as_one_of_them, run_two_processes

CUT = 7  # where engine_run saves
RUNS = {
    "full": {},
    "full-curriculum": {"curriculum": "thirds"},
    "watching": {"masking": "time_only"},
    "frequency": {"importance": "frequency_only", "masking": "balanced"},
}


def train(folder: Path, ranks: int, **settings: Any) -> dict[str, Any]:
    settings = {"use_cpu": True, "optim": "sgd", "learning_rate": 0.3, "report_to": "none", **settings}
    whole = build_trainer(folder, ranks, "atat", **settings)
    whole.train()
    again = build_trainer(folder, ranks, "atat", save_log_to_json=False, **settings)
    again.train(resume_from_checkpoint=str(folder / f"checkpoint-{CUT}"))
    return {"whole": outcome(whole), "resumed": outcome(again)}


def outcome(trainer) -> dict[str, Any]:
    networks = trainer.training_objective.networks
    return {
        "ranks": trainer.accelerator.num_processes,
        "rows": rows_of(trainer),
        "evaluations": [entry for entry in trainer.state.log_history if "eval_nll" in entry],
        "weights": {name: p.detach().clone() for name, p in trainer.model.named_parameters()},
        "networks": {} if networks is None else {name: p.detach().clone() for name, p in networks.named_parameters()},
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    results = {name: train(folder / name, 2, **settings) for name, settings in RUNS.items()}
    torch.save(results, folder / f"rank{os.environ['RANK']}.pt")


@pytest.fixture(scope="module")
def by_two(tmp_path_factory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two")
    run_two_processes(__file__, folder, timeout=600)
    ranks = [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]
    for name in RUNS:  # both ranks end with the same weights
        first, second = (rank[name]["whole"] for rank in ranks)
        assert first["ranks"] == 2
        for kind in ("weights", "networks"):
            assert all(torch.equal(first[kind][key], second[kind][key]) for key in first[kind])
    return ranks[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_evaluate_and_log_as_one(by_two, name, tmp_path):
    one, two = train(tmp_path, 1, **RUNS[name])["whole"], by_two[name]["whole"]
    assert len(two["rows"]) == len(one["rows"])
    for ours, theirs in zip(two["rows"], one["rows"], strict=True):
        assert ours.keys() == theirs.keys()
        for key in theirs.keys() - {"time_ms", "tokens_per_sec"}:
            expected = theirs[key] and pytest.approx(theirs[key], rel=1e-5, abs=1e-6)
            assert ours[key] == expected, (ours["iter"], key)
    for kind in ("weights", "networks"):
        for key, weight in one[kind].items():
            torch.testing.assert_close(two[kind][key], weight, rtol=1e-5, atol=1e-5, msg=key)
    for ours, theirs in zip(two["evaluations"], one["evaluations"], strict=True):
        names = {"eval_nll"} | (theirs.keys() & {"eval_native_nll"})
        assert {n: ours[n] for n in names} == pytest.approx({n: theirs[n] for n in names}, rel=1e-5)
    assert ("eval_native_nll" in two["evaluations"][-1]) == (name != "watching")


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_resume_as_if_never_stopped(by_two, name):
    whole, resumed = by_two[name]["whole"], by_two[name]["resumed"]
    assert [row["iter"] for row in resumed["rows"]] == [8]
    for kind in ("weights", "networks"):
        for key, weight in whole[kind].items():
            torch.testing.assert_close(resumed[kind][key], weight, rtol=0, atol=1e-6, msg=key)


@pytest.mark.slow
def test_an_engine_that_shards_weights_is_refused_in_one_sentence_where_there_are_networks(tmp_path):
    with pytest.raises(
        AssertionError, match=r"UserError: objective atat with a learned importance does not train under fsdp2"
    ):
        launch("fsdp2", tmp_path / "full", {"full": {"objective": "atat"}}, engine="fsdp2")
    settings = {"objective": "atat", "importance": "frequency_only", "report_to": "none"}
    found = launch("fsdp2", tmp_path / "frequency", {"run": settings}, engine="fsdp2")["run"]
    assert (found["ranks"], found["engine"]) == (2, "DistributedType.FSDP")
    one = build_trainer(tmp_path / "one", 1, use_cpu=True, **settings)
    one.train()
    assert [row["loss"] for row in found["rows"]] == pytest.approx([row["loss"] for row in rows_of(one)], rel=1e-4)


if __name__ == "__main__":
    run_as_one_of_them(main)
