"""Runs as a training leaves them - log, best/, checkpoints - around tiny networks with random weights, without training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from loopback import LoopbackHub
from safetensors.torch import save_file
from transformers import LlamaConfig, PreTrainedTokenizerBase

from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.runs import Journal
from hf_difflm.runs.journal.checkpoints import EMA_FILE, write_manifest
from hf_difflm.runs.journal.schema import EvaluationRecord, EventRecord, RunRecord, SampleRecord, StepRecord

ROOT = Path(__file__).parents[2]
TIME = "2026-01-02T03:04:05.678+00:00"
DATA = {
    "fingerprint": "f" * 64,
    "counts": {"train": {"documents": 8, "tokens": 512}, "eval": {"documents": 2, "tokens": 128}},
}


def tiny(seed: int) -> MaskedDiffusionForMaskedLM:
    """A denoiser of bytes with random weights."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    backbone = LlamaConfig(vocab_size=260, max_position_embeddings=64, initializer_range=0.2, **sizes)
    tokens = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}
    return MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone, **tokens))


def write_run_log(
    folder: Path, objective: str = "mdlm", final: float = 2.0, samples: tuple[str, ...] = ("abc",), **config: Any
) -> None:
    """A log of 20 steps with evaluations at 10 and 20, the better one at 20."""
    journal = Journal(folder / "journal.jsonl")
    settings = {
        "objective": objective,
        "dataset": "markov",
        "block_size": 33,
        "learning_rate": 1e-3,
        "seed": 1,
        **config,
    }
    journal.append(
        RunRecord(
            run_name=f"made-{objective}",
            run_id=f"id-{objective}",
            time=TIME,
            objective=objective,
            bound="exact" if objective == "ar" else "nelbo",
            config=settings,
            data=DATA,
            model={"type": "made", "parameters": 1234},
            metadata={"command": f"python cli.py train --output-dir {folder}", "versions": {"hf_difflm": "0.1.0"}},
        )
    )
    journal.append(EventRecord(event="started", iter=0, time=TIME))
    for step in range(1, 21):
        journal.append(StepRecord(iter=step, time=TIME, loss=final + 1 / step, time_ms=5.0, tokens_seen=100 * step))
        if step % 10 == 0:
            nll = final + 0.5 * (20 - step)
            metrics = {"eval_nll": nll, "eval_nll_stderr": 0.0125, "eval_bpb": nll / 0.6931, "eval_ppl": 7.5}
            journal.append(EvaluationRecord(iter=step, time=TIME, metrics=metrics))
            for text in samples:
                journal.append(SampleRecord(iter=step, time=TIME, text=text, prompt="The ", extra={"mode": "greedy"}))
    journal.append(EventRecord(event="completed", iter=20, time=TIME))
    journal.close()


def write_checkpoint(run: Path, step: int, model: Any, tokenizer: PreTrainedTokenizerBase, average: Any = None) -> Path:
    """A good checkpoint: weights, tokenizer, what a resume needs (a pickle), the averaged weights, the manifest."""
    folder = run / f"checkpoint-{step}"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.save({"a": 1}, folder / "optimizer.pt")
    if average is not None:
        save_file({name: weight.detach().clone() for name, weight in average.named_parameters()}, folder / EMA_FILE)
    write_manifest(folder)
    return folder


def make_run(
    folder: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    objective: str = "mdlm",
    **log: Any,
) -> Path:
    """A finished run whose ``best/`` is ``model``."""
    model.save_pretrained(folder / "best")
    tokenizer.save_pretrained(folder / "best")
    write_run_log(folder, objective, **log)
    return folder


ELSEWHERE = """
import sys, torch
from transformers import {auto}, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code={trust})
model = {auto}.from_pretrained(sys.argv[1], trust_remote_code={trust}).eval()
assert not any(name.split(".")[0] == "hf_difflm" for name in sys.modules), "hf_difflm is not needed"
ids = torch.load(sys.argv[2], weights_only=True)
torch.save({{"logits": model(ids).logits, "ids": model.generate(ids, max_new_tokens=6, {how})}}, sys.argv[3])
print(model.config.model_type, tokenizer.decode([104, 105]))
"""


def load_elsewhere(
    hub: LoopbackHub,
    repo_id: str,
    ids_BL: torch.Tensor,
    home: Path,
    *,
    is_denoiser: bool = True,
    trust: bool | None = None,
) -> tuple[dict[str, torch.Tensor], str]:
    """Load a repository in a fresh process with torch and transformers only; return logits and generated ids, stdout.

    ``trust`` is ``trust_remote_code``; by default for a denoiser only.
    """
    torch.save(ids_BL, home / "ids.pt")
    auto = "AutoModelForMaskedLM" if is_denoiser else "AutoModelForCausalLM"
    trust = is_denoiser if trust is None else trust
    code = ELSEWHERE.format(auto=auto, trust=trust, how="seed=3" if is_denoiser else "do_sample=False")
    done = run_elsewhere(hub, code, repo_id, home / "ids.pt", home / "out.pt", home=home)
    assert done.returncode == 0, done.stderr
    return torch.load(home / "out.pt", weights_only=True), done.stdout


def run_elsewhere(
    hub: LoopbackHub, code: str, *args: str | Path, home: Path, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run code in a process that has neither this checkout nor PYTHONPATH on its path."""
    return _finished(start_client(hub, "-I", "-c", code, *args, home=home, **more))


def run_client(hub: LoopbackHub, *args: str | Path, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command of hf-difflm against the loopback Hub, in a process of its own."""
    return _finished(start_client(hub, ROOT / "cli.py", *args, home=home, **more))


def start_client(hub: LoopbackHub, *args: object, home: Path, **more: str) -> subprocess.Popen[str]:
    """Start a Python process that knows the loopback Hub; ``home`` is its folder, and its cache lies below."""
    environment = hub.environment(home / "home", **more)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *map(str, args)], env=environment, cwd=home, **pipes)


def _finished(client: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    try:
        out, err = client.communicate(timeout=300)
    finally:
        client.kill()
    return subprocess.CompletedProcess(client.args, client.returncode, out, err)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def header_of(folder: Path) -> dict[str, Any]:
    """The first record of a journal."""
    return json.loads((folder / "journal.jsonl").read_text().splitlines()[0])
