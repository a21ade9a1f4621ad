"""Training on a stream through the Trainer: resumed, it sees the very next batch; with workers, the same batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from streams import stream, texts, write_jsonl
from transformers import TrainerCallback

from hf_difflm.errors import UserError
from hf_difflm.training.data_order import WindowSampler

ROOT = Path(__file__).parents[3]
STEPS = 9
SETTINGS = {"per_device_train_batch_size": 4, "max_steps": STEPS, "save_strategy": "steps", "save_total_limit": None}


class Seen(TrainerCallback):
    """The ids of every batch, by the Trainer's collator."""

    def __init__(self, trainer) -> None:
        self.batches: list[list[list[int]]] = []
        collate = trainer.data_collator

        def note(rows):
            self.batches.append([row["input_ids"].tolist() for row in rows])
            return collate(rows)

        trainer.data_collator = note


@pytest.fixture
def corpus(tmp_path, tokenizer):
    write_jsonl(tmp_path / "evaluation.jsonl", texts(5, seed=9))
    path = write_jsonl(tmp_path / "corpus.jsonl", texts(60))

    def make(**options):
        defaults = {"eval_dataset": str(tmp_path / "evaluation.jsonl"), "shuffle_window": 7}
        return stream(path, tokenizer, **(defaults | options)).train

    return make


def weights(trainer) -> dict[str, torch.Tensor]:
    found = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    state = trainer.optimizer.state_dict()["state"]
    return found | {f"{i}.{name}": torch.as_tensor(v) for i, one in state.items() for name, v in one.items()}


def assert_equal(ours, theirs) -> None:
    ours, theirs = weights(ours), weights(theirs)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("options", [{}, {"max_chunks": 1, "tokens_per_chunk": 16 * 18}], ids=["endless", "budget"])
@pytest.mark.parametrize("objective", ["mdlm", "ar"])
@pytest.mark.parametrize("cut", [1, 4, 7])
def test_a_resumed_run_is_bit_equal_and_reads_the_next_batch(
    make_diffusion_trainer, tiny_denoiser, tiny_causal, corpus, tmp_path, options, objective, cut
):
    """Windows of 7 blocks, batches of 4; the budget of 18 blocks makes epochs of 4 steps."""
    settings = SETTINGS | {"objective": objective, "save_steps": cut}
    whole = make_diffusion_trainer(train=corpus(**options), **settings)
    all_seen = Seen(whole)
    whole.train()
    other = {"mdlm": tiny_denoiser, "ar": tiny_causal}[objective](seed=99)
    resumed = make_diffusion_trainer(model=other, train=corpus(**options), **settings)
    seen = Seen(resumed)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{cut}"))
    assert_equal(resumed, whole)
    assert seen.batches == all_seen.batches[cut:]


def test_the_position_lies_in_the_checkpoint_and_under_its_manifest(make_diffusion_trainer, corpus, tmp_path):
    train = corpus()
    make_diffusion_trainer(train=train, save_steps=5, **SETTINGS).train()
    folder = tmp_path / "run" / "checkpoint-5"
    saved = json.loads((folder / "trainer_state.json").read_text())["stateful_callbacks"]["StreamPosition"]
    assert saved["attributes"]["position"] == train.position(5 * 4)
    assert saved["attributes"]["position"]["window"] == 2  # block 20 in windows of 7
    assert "trainer_state.json" in (folder / "manifest.json").read_text()


def test_a_changed_text_is_refused_on_resume(make_diffusion_trainer, corpus, tmp_path):
    make_diffusion_trainer(train=corpus(), save_steps=5, **SETTINGS).train()
    other = make_diffusion_trainer(train=corpus(block_size=15), save_steps=5, **SETTINGS)
    with pytest.raises(UserError, match="changed since the checkpoint"):
        other.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-5"))


def test_each_epoch_of_a_budget_is_the_same_blocks_in_another_order(make_diffusion_trainer, corpus):
    train = corpus(max_chunks=1, tokens_per_chunk=16 * 8)
    trainer = make_diffusion_trainer(train=train, max_steps=-1, num_train_epochs=3)
    seen = Seen(trainer)
    trainer.train()
    assert trainer.state.global_step == 6
    epochs = [[*seen.batches[i], *seen.batches[i + 1]] for i in (0, 2, 4)]
    assert (
        sorted(epochs[0])
        == sorted(epochs[1])
        == sorted(epochs[2])
        == sorted(train[i]["input_ids"].tolist() for i in range(8))
    )
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_workers_change_no_weight_and_a_run_resumes_with_them(make_diffusion_trainer, corpus, tmp_path, workers):
    settings = SETTINGS | {"save_steps": 4}
    alone = make_diffusion_trainer(train=corpus(), output_dir=str(tmp_path / "alone"), **settings)
    alone.train()
    helped = make_diffusion_trainer(train=corpus(), dataloader_num_workers=workers, **settings)
    helped.train()
    assert_equal(helped, alone)
    again = make_diffusion_trainer(train=corpus(), dataloader_num_workers=workers, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert_equal(again, alone)


def test_a_stream_without_an_end_needs_max_steps(make_diffusion_trainer, corpus):
    with pytest.raises((UserError, ValueError), match="max_steps"):
        make_diffusion_trainer(train=corpus(), max_steps=-1).train()


def test_the_order_permutes_each_window_by_its_own_key():
    order = list(WindowSampler(22, 4, seed=3, window_size=8))
    assert len(order) == 20
    for window, start in enumerate((0, 8, 16)):
        length = min(8, 22 - start)
        key = np.random.SeedSequence([3, 0, window])
        expected = start + np.random.Generator(np.random.Philox(key)).permutation(length)
        assert order[start : start + 8] == expected.tolist()[: 20 - start]


def test_an_order_of_billions_costs_nothing_before_it_is_used():
    order = WindowSampler(10**12, 512, seed=0, window_size=2048, endless=True)
    assert sorted(index for index, _ in zip(order, range(2048), strict=False)) == list(range(2048))


SCRIPT = """
import json, os, sys, torch
sys.path[:0] = [{root!r}, {root!r} + "/tests/data"]
import datasets
datasets.config.HF_DATASETS_CACHE = {folder!r} + "/cache"
from pathlib import Path
from streams import stream
from transformers import LlamaConfig
from hf_difflm.data import load_tokenizer
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments
torch.manual_seed(0); torch.set_num_threads(1)
folder = Path({folder!r})
sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
model = MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=LlamaConfig(vocab_size=260, **sizes)))
arguments = DiffusionTrainingArguments(output_dir=str(folder / "run"), global_batch_size=4,
    per_device_train_batch_size=4 // int(os.environ["WORLD_SIZE"]), max_steps=6, optim="sgd", learning_rate=0.3,
    eval_strategy="no", save_strategy="no", save_log_to_json=False, use_cpu=True, disable_tqdm=True)
tokenizer = load_tokenizer("bytes")
train = stream(folder / "corpus.jsonl", tokenizer, eval_dataset=str(folder / "evaluation.jsonl"), shuffle_window=7).train
DiffusionTrainer(model, arguments, train, None, tokenizer).train()
if os.environ["RANK"] == "0":
    torch.save({{name: p.detach() for name, p in model.named_parameters()}}, folder / ("weights" + os.environ["WORLD_SIZE"]))
os._exit(0)  # a thread of gloo may abort a process that is taken down
"""


@pytest.mark.slow
def test_two_processes_train_on_the_same_optimiser_batches_as_one(corpus, tmp_path):
    assert corpus() is not None  # writes the files
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT), folder=str(tmp_path)))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    for processes in (1, 2):
        done = subprocess.run(
            [*launch, str(processes), str(script)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"weights{n}") for n in (1, 2))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-5, atol=1e-6, msg=name)
