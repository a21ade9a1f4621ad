"""A search over two processes finds what one process finds; what would leave one of them waiting is refused."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from processes.engine_run import build_model, ragged_rows
from processes.two_processes import run_two_processes

from hf_difflm.data import load_tokenizer
from hf_difflm.errors import UserError
from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments

optuna = pytest.importorskip("optuna")
pytestmark = [pytest.mark.borders, pytest.mark.slow]


def search(folder: Path, ranks: int, **given: Any) -> Any:
    args = DiffusionTrainingArguments(
        output_dir=str(folder), use_cpu=True, max_steps=4, global_batch_size=8, per_device_train_batch_size=4 // ranks,
        eval_strategy="steps", eval_steps=2, save_strategy="no", eval_replicates=2, disable_tqdm=True, logging_steps=2,
    )  # fmt: skip
    trainer = DiffusionTrainer(
        None, args, ragged_rows(48, 0), ragged_rows(6, 1), load_tokenizer("bytes"),
        model_init=lambda: build_model("mdlm", 260),
    )  # fmt: skip
    sampler = optuna.samplers.RandomSampler(seed=0)
    space = {"learning_rate": (1e-3, 1e-1)}
    return trainer.hyperparameter_search(
        lambda trial: {name: trial.suggest_float(name, *bounds, log=True) for name, bounds in space.items()},
        n_trials=8,  # more than the five after which Optuna prunes by default
        sampler=sampler,
        **given,
    )


def main(folder: Path) -> None:
    said = []
    for given in ({"pruner": optuna.pruners.NopPruner()}, {"timeout": 5}, {"catch": (ValueError,)}):
        try:
            search(folder / "refused", 2, **given)
        except UserError as error:
            said.append(str(error))
    best = search(folder / "two", 2)
    if os.environ["RANK"] == "0":
        found = {"said": said, "best": [best.run_id, best.objective, best.hyperparameters]}
        (folder / "found.json").write_text(json.dumps(found))
    else:
        assert best is None
        assert len(said) == 3


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    run_two_processes(__file__, tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    assert [text.split()[0] for text in found["said"]] == ["pruner", "timeout", "catch"]
    one = search(tmp_path / "one", 1, pruner=optuna.pruners.NopPruner())
    assert found["best"][0] == one.run_id
    assert found["best"][1] == pytest.approx(one.objective, rel=1e-4)
    assert found["best"][2] == pytest.approx(one.hyperparameters)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
