"""What a Trainer saves: damaged checkpoints are passed over, good ones never lost, and a full disk is one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import TrainerCallback

from hf_difflm.errors import UserError
from hf_difflm.runs import load_run
from hf_difflm.runs.journal.checkpoints import checkpoints, damage, newest_good

ROOT = Path(__file__).parents[3]
SAVING = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": None}


def truncate(folder: Path) -> None:
    path = folder / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-100])


def flip(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)


def lose(folder: Path) -> None:
    (folder / "scheduler.pt").unlink()


def garble(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:-30])


def unfinish(folder: Path) -> None:
    (folder / "manifest.json").unlink()


HARMS = {
    "optimizer.pt is damaged": truncate,
    "model.safetensors is damaged": flip,
    "scheduler.pt is missing": lose,
    "its manifest is damaged": garble,
    "it was never finished": unfinish,
}


@pytest.mark.parametrize("why", HARMS)
def test_a_damaged_newest_checkpoint_is_passed_over_with_its_reason(make_diffusion_trainer, tmp_path, caplog, why):
    make_diffusion_trainer(**SAVING).train()
    HARMS[why](tmp_path / "run" / "checkpoint-6")
    resumed = make_diffusion_trainer(**SAVING)
    resumed.train(resume_from_checkpoint=True)
    assert f"skipping checkpoint-6: {why}" in caplog.text
    assert load_run(tmp_path / "run").events[-2].resumed_from_step == 4
    assert damage(tmp_path / "run" / "checkpoint-6") is None


def test_a_damaged_checkpoint_given_by_name_is_refused_with_its_reason(make_diffusion_trainer, tmp_path):
    make_diffusion_trainer(**SAVING).train()
    checkpoint = tmp_path / "run" / "checkpoint-4"
    flip(checkpoint)
    with pytest.raises(
        UserError, match=r"checkpoint-4: model.safetensors is damaged; .*True takes the newest good one"
    ):
        make_diffusion_trainer(**SAVING).train(resume_from_checkpoint=str(checkpoint))
    with pytest.raises(UserError, match="checkpoint-5: there is no such folder"):
        make_diffusion_trainer(**SAVING).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-5"))


def test_the_limit_never_takes_the_good_one_for_a_newer_that_is_damaged(make_diffusion_trainer, tmp_path, train_rows):
    """Resumed at 2 since 4 and 6 were damaged; at 3 a limit of 1 must keep 3, which is good, not 6, which is newest."""
    run = tmp_path / "run"
    make_diffusion_trainer(**SAVING, evaluation=train_rows(4, seed=1)).train()
    flip(run / "checkpoint-4")
    unfinish(run / "checkpoint-6")

    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            control.should_training_stop = True

    settings = {**SAVING, "save_steps": 3, "save_total_limit": 1, "evaluation": train_rows(4, seed=1)}
    make_diffusion_trainer(Stop(), **settings).train(resume_from_checkpoint=True)
    assert newest_good(run)[0] == run / "checkpoint-3"
    assert not (run / "checkpoint-2").exists()


def test_the_limit_counts_good_checkpoints_and_clears_unfinished_ones(make_diffusion_trainer, tmp_path, train_rows):
    run = tmp_path / "run"
    evaluated = {"evaluation": train_rows(4, seed=1), "eval_strategy": "steps", "eval_steps": 2}
    (run / "checkpoint-1").mkdir(parents=True)
    (run / "checkpoint-1" / "model.safetensors").write_bytes(b"half")
    make_diffusion_trainer(**{**SAVING, "save_total_limit": 2}, **evaluated).train()
    assert [path.name for path in checkpoints(run)] == ["checkpoint-6", "checkpoint-4"]
    assert (run / "best" / "model.safetensors").exists()


def test_what_is_left_of_a_checkpoint_of_the_same_step_does_not_get_into_a_new_one(make_diffusion_trainer, tmp_path):
    old = tmp_path / "run" / "checkpoint-2"
    old.mkdir(parents=True)
    (old / "rng_state_7.pth").write_bytes(b"of another time")
    make_diffusion_trainer(**SAVING).train()
    assert not (old / "rng_state_7.pth").exists()
    assert not old.with_name("checkpoint-2.old").exists()


def test_a_checkpoint_set_aside_while_it_was_written_again_is_found_after_a_kill(make_diffusion_trainer, tmp_path):
    run = tmp_path / "run"
    make_diffusion_trainer(**{**SAVING, "save_steps": 6}).train()
    os.replace(run / "checkpoint-6", run / "checkpoint-6.old")
    (run / "checkpoint-6").mkdir()
    assert newest_good(run) == (run / "checkpoint-6.old", ["skipping checkpoint-6: it was never finished"])


def test_best_weights_lost_between_two_places_come_back(make_diffusion_trainer, tmp_path, train_rows):
    settings = {**SAVING, "evaluation": train_rows(4, seed=1), "eval_strategy": "steps", "eval_steps": 2}
    make_diffusion_trainer(**settings).train()
    run = tmp_path / "run"
    before = (run / "best" / "model.safetensors").read_bytes()
    os.replace(run / "best", run / "best.old")
    make_diffusion_trainer(**settings).train(resume_from_checkpoint=True)
    assert (run / "best" / "model.safetensors").read_bytes() == before
    assert not (run / "best.old").exists()


# The disk is full after step 4: no file may grow beyond what a weight file needs.
FULL_DISK = """
import resource, sys
from pathlib import Path
from transformers import LlamaConfig, TrainerCallback
from hf_difflm import DiffusionTrainer, DiffusionTrainingArguments, MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.data import load_tokenizer
from hf_difflm.errors import UserError

class Fill(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)

sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
model = MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=LlamaConfig(vocab_size=260, **sizes)))
rows = [{"input_ids": [256] + [97 + (3 * i + j) % 7 for j in range(15)]} for i in range(64)]
arguments = DiffusionTrainingArguments(
    output_dir=sys.argv[1], per_device_train_batch_size=4, max_steps=6, save_steps=2, save_total_limit=1, logging_steps=1,
    eval_strategy=sys.argv[3], eval_steps=5, eval_replicates=1, use_cpu=True, disable_tqdm=True,
)
trainer = DiffusionTrainer(model, arguments, rows, rows[:4], load_tokenizer("bytes"), callbacks=[Fill()])
try:
    trainer.train()
except UserError as error:
    print(f"error: {error}")
    sys.exit(2)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "evaluation", "what"),
    [(20_000, "no", "checkpoint-6"), (250_000, "no", "checkpoint-6"), (20_000, "steps", "best.tmp")],
    ids=["weights", "optimiser", "best"],
)
def test_a_full_disk_stops_the_run_with_a_sentence_and_costs_no_good_checkpoint(tmp_path, limit, evaluation, what):
    run = tmp_path / "run"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FULL_DISK, str(run), str(limit), evaluation]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 2, done.stderr[-3000:]
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f"error: {run / what} could not be written at step ")
    assert last.endswith(f"and go on from {run / 'checkpoint-4'} by --resume")
    assert [path.name for path in checkpoints(run)] == ["checkpoint-4"]
    assert damage(run / "checkpoint-4") is None
    assert load_run(run).status == "failed"


def test_each_checkpoint_records_what_a_resume_has_to_know(make_diffusion_trainer, tmp_path):
    make_diffusion_trainer(**SAVING, gradient_accumulation_steps=2).train()
    facts = json.loads((tmp_path / "run" / "checkpoint-2" / "resume.json").read_text())
    assert (facts["engine"], facts["world_size"], facts["global_batch_size"]) == ("single", 1, 8)
    assert (facts["objective"], facts["train_sequences"], facts["settings"]["learning_rate"]) == ("mdlm", 24, 1e-2)
