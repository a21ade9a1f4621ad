"""What people type by mistake: each is one sentence with the right hint, exit code 2, and nothing is left behind."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import re
from pathlib import Path

import pytest

TRAIN = "train --use-cpu --dataset markov --hidden-size 32 --num-hidden-layers 1 --num-attention-heads 2 "
STEPS = "--block-size 33 --max-steps 3 --output-dir new "

# What was typed, and a pattern of what must be said. RUN is a finished masked diffusion run, AR its twin.
NAMES = [
    (TRAIN + STEPS + "--lr 1e-3", "--learning-rate"),
    (TRAIN + STEPS + "--epochs 3", "--num-train-epochs"),
    (TRAIN + STEPS + "--batch-size 8", "--per-device-train-batch-size"),
    (TRAIN + STEPS + "--max-length 64", "--block-size"),
    (TRAIN + STEPS + "--seq-len 64", "--block-size"),
    (TRAIN + STEPS + "--layers 2", "--num-hidden-layers"),
    (TRAIN + STEPS + "--n-heads 2", "--num-attention-heads"),
    (TRAIN + STEPS + "--d-model 64", "--hidden-size"),
    (TRAIN + STEPS + "--model gpt2", "--backbone.*--init-from|--init-from.*--backbone"),
    (TRAIN + "--block-size 33 --output-dir new --steps 10", "--max-steps"),
    (TRAIN + STEPS + "--data mine.txt", "--dataset"),
    (TRAIN + STEPS + "--wandb", "--report-to wandb"),
    (TRAIN + STEPS + "--warmup 10", "--warmup-steps"),
    (TRAIN + STEPS + "--grad-accum 4", "--gradient-accumulation-steps"),
    (TRAIN + STEPS + "--resume-from-checkpoint RUN/checkpoint-3", "--resume"),
    (TRAIN + STEPS + "--optimizer adamw", "--optim"),
    (TRAIN + STEPS + "--gpus 2", "accelerate launch"),
    ("sample RUN", "generate"),
    ("evaluate RUN", "eval"),
    ("finetune RUN", "train --init-from"),
    ("generate RUN --temp 0.7", "--temperature"),
    ("generate RUN --num-steps 32", "--max-denoising-steps"),
    ("generate RUN --length 32", "--max-new-tokens"),
    ("runs ls", "list"),
]
VALUES = [
    (TRAIN + STEPS + "--objective diffusion", "mdlm, ar, atat, bd3lm"),
    (TRAIN + STEPS + "--backbone lama", "did you mean 'llama'"),
    (TRAIN + "--output-dir new --block-size 33 --max-steps 10k", "max_steps.*10k"),
    (TRAIN + STEPS + "--learning-rate -1e-3", "learning_rate.*-1e-3"),
    (TRAIN + STEPS + "--learning-rate 1e-3x", "learning_rate.*1e-3x"),
    (TRAIN + STEPS + "--hidden-size 33", "num_attention_heads"),
    (TRAIN + STEPS + "--noise-schedule cosin", "did you mean 'cosine'"),
    (TRAIN + STEPS + "--lr-scheduler-type cos", "cosine"),
    (TRAIN + STEPS + "--optim adam", "adamw_torch"),
    (TRAIN + "--max-steps 3 --output-dir new --block-size 1", "block_size"),
    (TRAIN + STEPS + "--eval-fraction 5", "eval_fraction.*5"),
    (TRAIN + STEPS + "--report-to wandbb", "wandb"),
    (TRAIN + STEPS + "--ema-decay 1.5", "ema_decay.*1.5"),
    (TRAIN + STEPS + "--warmup-steps 50", "warmup_steps.*50.*max_steps.*3"),
    (TRAIN + STEPS + "--metric-for-best-model val_loss", "val_loss.*eval_"),
    (TRAIN + STEPS + "--save-strategy never", "no, steps, epoch.*never"),
    (TRAIN + STEPS + "--max-grad-norm -1", "max_grad_norm.*-1"),
    (TRAIN + STEPS + "--seed -1", "seed.*-1"),
    (TRAIN + STEPS + "--adam-beta2 1.5", "adam_beta2.*1.5"),
    ("generate RUN --sampler mdlm", "ddpm"),
    ("generate RUN --temperature -1", "temperature.*-1"),
    ("generate RUN --max-new-tokens 100000", "max_new_tokens.*100000"),
    ("generate RUN --top-p 90", "top_p.*90"),
    ("eval RUN --eval-replicates 0", "eval_replicates.*0"),
]
FILES = [
    (TRAIN + STEPS + "--dataset missing.txt", "missing.txt"),
    (TRAIN + STEPS + "--dataset empty.txt", "empty"),
    (TRAIN + STEPS + "--dataset book.pdf", "book.pdf.*txt"),
    (TRAIN + STEPS + "--dataset notes.docx", "notes.docx.*txt"),
    (TRAIN + STEPS + "--dataset pictures", "pictures.*txt"),
    (TRAIN + STEPS + "--dataset bad.jsonl", "line 2.*bad.jsonl|bad.jsonl.*line 2"),
    (TRAIN + STEPS + "--dataset body.jsonl", "body.*text_column"),
    (TRAIN + STEPS + "--dataset chats.jsonl", "--sft|sft"),
    (TRAIN + STEPS + "--dataset latin1.txt", "UTF-8"),
    (TRAIN + STEPS + "--dataset ids.npy", "ids.npy.*txt"),
    (TRAIN + STEPS + "--tokenizer missing-tokenizer", "missing-tokenizer"),
    (TRAIN + STEPS + "--init-from classifier.pt", "classifier.pt"),
    (TRAIN + STEPS + "--recipe missing.yaml", "missing.yaml"),
    (TRAIN + STEPS + "--recipe unknown.yaml", "learnig_rate.*learning_rate"),
    (TRAIN + STEPS + "--recipe broken.yaml", "broken.yaml"),
    ("train --output-dir RUN --dataset markov --max-steps 3", "--resume.*--overwrite|--overwrite.*--resume"),
    ("train --output-dir nothing --resume", "nothing"),
    ("eval missing-run", "missing-run"),
    ("eval pictures", "pictures"),
    ("generate RUN/run.json", "run.json"),
    ("generate RUN --prompt-file missing.txt", "missing.txt"),
    ("plot RUN/best/model.safetensors", "model.safetensors"),
    ("report pictures --output page.md", "pictures"),
    ("plot empty.json", "empty.json"),
]
COMBINATIONS = [
    (TRAIN + STEPS + "--objective ar --noise-schedule cosine", "noise-schedule.*objective is ar"),
    (TRAIN + STEPS + "--objective ar --loss-form time", "loss-form.*objective is ar"),
    (TRAIN + STEPS + "--masking inverse", "masking.*atat"),
    (TRAIN + STEPS + "--bf16 --fp16", "bf16.*fp16|fp16.*bf16"),
    (TRAIN + STEPS + "--lora-r 8", "init_from"),
    (TRAIN + STEPS + "--lora-alpha 16", "lora_alpha.*lora_r"),
    (TRAIN + STEPS + "--init-from RUN --num-hidden-layers 3", "num_hidden_layers"),
    (TRAIN + STEPS + "--init-from RUN --tokenizer bytes --objective ar --backbone gpt2", "objective is ar"),
    (TRAIN + STEPS + "--sft", "--sft|sft"),
    (TRAIN + STEPS + "--sft-fill-eos", "sft_fill_eos.*sft"),
    (TRAIN + STEPS + "--streaming", "markov"),
    (TRAIN + STEPS + "--global-batch-size 8 --gradient-accumulation-steps 3", "global_batch_size"),
    (TRAIN + STEPS + "--global-batch-size 6 --per-device-train-batch-size 4", "global_batch_size 6"),
    (TRAIN + STEPS + "--load-best-model-at-end", "load_best_model_at_end.*best/"),
    (TRAIN + STEPS + "--static-shapes --loss-form time", "static_shapes"),
    (TRAIN + STEPS + "--generation-prompts p.txt --generate-interval 0", "generat"),
    (TRAIN + STEPS + "--wandb-project mine", "wandb_project.*--report-to wandb"),
    ("train --output-dir RUN --resume --overwrite", "--resume.*--overwrite|--overwrite.*--resume"),
    ("train --output-dir RUN --resume --learning-rate 1", "learning_rate"),
    ("train --output-dir RUN --resume --objective ar", "objective"),
    ("train --output-dir RUN --resume --max-steps 1000", "--init-from"),
    ("generate AR --sampler ddpm", "sampler"),
    ("generate AR --infill --prompt [MASK]", "infill"),
    ("generate RUN --chat --prompt Hello", "template"),
    ("generate RUN --json --jsonl", "--json.*--jsonl"),
    ("eval RUN --limit 5", "limit.*tasks"),
    ("compare RUN AR", "runs compare"),
]
ALL = [*NAMES, *VALUES, *FILES, *COMBINATIONS]


def _short(typed: str) -> str:
    return typed.removeprefix(TRAIN).removeprefix(STEPS)


@pytest.fixture
def mistakes(tmp_path: Path) -> Path:
    """A folder with the files that people bring by mistake."""
    (tmp_path / "mine.txt").write_text("some text of one's own\n" * 50)
    (tmp_path / "p.txt").write_text("Once\n")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "empty.json").write_bytes(b"")
    (tmp_path / "book.pdf").write_bytes(b"%PDF-1.7\n" + bytes(range(256)))
    (tmp_path / "notes.docx").write_bytes(b"PK\x03\x04" + bytes(range(256)))
    (tmp_path / "ids.npy").write_bytes(b"\x93NUMPY" + bytes(100))
    (tmp_path / "latin1.txt").write_bytes("Schöne Grüße\n".encode("latin-1") * 100)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/cat.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\n{"text": oops}\n')
    (tmp_path / "body.jsonl").write_text(json.dumps({"title": "a", "body": "text " * 100}) + "\n")
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]
    (tmp_path / "chats.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 50)
    (tmp_path / "classifier.pt").write_bytes(pickle.dumps({"weight": [1.0]}))
    (tmp_path / "archive.gz").write_bytes(gzip.compress(b"text"))
    (tmp_path / "unknown.yaml").write_text("learnig_rate: 1e-3\n")
    (tmp_path / "broken.yaml").write_text("learning_rate: [1e-3\n  dataset: x\n")
    return tmp_path


def test_there_are_fifteen_of_each_kind():
    assert all(len(kind) >= 15 for kind in (NAMES, VALUES, FILES, COMBINATIONS))
    assert len(ALL) == len({typed for typed, _ in ALL}) >= 60


@pytest.mark.parametrize(
    ("typed", "said"),
    [pytest.param(*one, id=_short(one[0])) for one in ALL],
)
def test_a_mistake_is_one_sentence_that_helps(hf, trained, trained_ar, mistakes, typed, said):
    before = {path: path.stat().st_mtime_ns for path in sorted(Path().rglob("*")) if path.is_file()}
    places = {"RUN": str(trained), "AR": str(trained_ar)}
    args = [re.sub(r"^(RUN|AR)\b", lambda found: places[found[0]], word) for word in typed.split()]
    result = hf(*args)
    assert result.code == 2, result
    assert re.fullmatch(r"error: \S[^\n]*\n", result.err), result.err
    assert re.search(said, result.err), result.err
    after = {path: path.stat().st_mtime_ns for path in sorted(Path().rglob("*")) if path.is_file()}
    assert after == before
    assert not os.path.exists("new")
