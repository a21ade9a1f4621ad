"""On every stack that has the networks: each objective trains, goes on, is evaluated, writes, and comes back from a push."""

from __future__ import annotations

import math

import pytest
import torch
from stack_trainings import our_trainer

from hf_difflm.compat import networks_run
from hf_difflm.data import load_tokenizer
from hf_difflm.runs import load_run

pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(not networks_run(), reason="the networks need a newer transformers (hf_difflm.compat)"),
]
OBJECTIVES = ("mdlm", "ar", "bd3lm", "atat")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_objective_trains_and_is_evaluated(tmp_path, objective):
    trainer = our_trainer(tmp_path, objective, eval_strategy="steps", eval_steps=6)
    trainer.train()
    run = load_run(tmp_path)
    assert (run.status, run.objective, run.last_step) == ("completed", objective, 6)
    assert run.column("iter").tolist() == [1, 2, 3, 4, 5, 6]
    assert math.isfinite(run.evaluations[-1].nll)
    assert run.evaluations[-1].nll == pytest.approx(trainer.evaluate()["eval_nll"], rel=1e-6)


@pytest.mark.parametrize("objective", ["mdlm", "atat"])
def test_a_training_goes_on_to_the_same_bits(tmp_path, objective):
    whole = our_trainer(tmp_path / "whole", objective)
    whole.train()
    saving = {"save_strategy": "steps", "save_steps": 3}
    our_trainer(tmp_path / "parts", objective, **saving).train()
    again = our_trainer(tmp_path / "parts", objective, **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-3"))
    for (name, ours), theirs in zip(again.model.named_parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("objective", ["mdlm", "ar", "bd3lm"])
def test_a_model_writes_the_same_text_after_the_way_to_a_folder_for_the_hub_and_back(tmp_path, objective):
    from hf_difflm.evaluation.generation.options import GenerationOptions
    from hf_difflm.evaluation.generation.texts import generate_samples
    from hf_difflm.evaluation.targets import load_target
    from hf_difflm.hub.folder import write_folder

    trainer = our_trainer(tmp_path / "run", objective, save_strategy="steps", save_steps=6)
    trainer.train()
    trainer.save_model()
    options = GenerationOptions(max_new_tokens=4, temperature=1.0, seed=1)
    before = generate_samples(trainer.model, load_tokenizer("bytes"), ["ab", ""], options)
    pushed = write_folder(tmp_path / "run", tmp_path / "pushed", repo_id="o/n")
    loaded = load_target(str(pushed.path), use_cpu=True)
    after = generate_samples(loaded.model, loaded.tokenizer, ["ab", ""], options)
    assert [text.ids for text in after] == [text.ids for text in before]
