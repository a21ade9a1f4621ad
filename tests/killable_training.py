"""A small real training in a process of its own that can be killed and started again, and what it leaves behind.

Run as a script, this file is the nursery: it imports what a training needs once, and forks a process for each training.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
TIMES = ("time_ms", "tokens_per_sec", "mfu", "eval_runtime", "eval_samples_per_second", "time")


class Nursery:
    """Starts trainings, each as a process; use it in a ``with`` statement."""

    def __enter__(self) -> Nursery:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TQDM_DISABLE": "1",
        }
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([sys.executable, __file__], env=environment, **pipes)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def begin(self, folder: Path, **job: Any) -> int:
        """Start the training of ``job`` in ``folder``, where it goes on if it was killed; return the id of its process.

        Returns once its first step begins, or once it has ended. See :func:`train` for the job.
        """
        self._process.stdin.write(json.dumps({"folder": str(folder), **job}) + "\n")
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline())
        self._ended = None
        line = self._process.stdout.readline()
        if line != "ready\n":
            self._ended = int(line)
        return pid

    @property
    def running(self) -> bool:
        """Whether the training that was begun last had taken a step when :meth:`begin` returned."""
        return self._ended is None

    def end(self) -> int:
        """Wait for the training that was begun last; return its exit code, negative where a signal ended it."""
        return int(self._process.stdout.readline()) if self._ended is None else self._ended

    def run(self, folder: Path, **job: Any) -> int:
        """Train to the end, or to the kill that ``job`` plans; return the exit code."""
        self.begin(folder, **job)
        return self.end()


def nurse() -> None:
    """Read jobs from standard input; tell the id, the first step and the exit code of each on standard output."""
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed is no answer
    from hf_difflm import DiffusionTrainer  # noqa: F401 - the import that takes seconds

    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        Path(job["folder"]).mkdir(parents=True, exist_ok=True)
        gate, opener = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.read(gate, 1)  # its id is told first
            log = os.open(Path(job["folder"]) / "output.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            code = 1
            try:
                train(job, answers)
                code = 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(code)
        os.write(answers, f"{pid}\n".encode())
        os.write(opener, b"!")
        _, status = os.waitpid(pid, 0)
        os.close(gate)
        os.close(opener)
        os.write(answers, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def train(job: dict[str, Any], telling: int) -> None:
    """One training.

    Args:
        job: ``folder``; ``settings`` of the training arguments; ``kill``: None, or ``[moment, what, count]``: at the
            ``count``-th time that a ``step`` is about to be done, a batch is about to be evaluated (``evaluate``), or a file
            whose path ends like ``what`` is about to be opened (``open``) or put in its place (``rename``).
        telling: file descriptor where the first step is told.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

    from hf_difflm import (
        DiffusionTrainer,
        DiffusionTrainingArguments,
        MaskedDiffusionConfig,
        MaskedDiffusionForMaskedLM,
    )
    from hf_difflm.callbacks import RunLogCallback
    from hf_difflm.data import load_tokenizer
    from hf_difflm.runs.journal.checkpoints import newest_good

    folder, kill = Path(job["folder"]), job.get("kill")
    left = kill[2] if kill else 0

    def countdown() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    class Watch(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            nonlocal telling
            if telling >= 0:
                os.write(telling, b"ready\n")
                telling = -1

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if kill and kill[0] == "step":
                countdown()

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename"):
            path = arguments[1 if event == "os.rename" else 0]
            if event.endswith(kill[0]) and isinstance(path, (str, os.PathLike)) and str(path).endswith(kill[1]):
                countdown()

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    backbone = LlamaConfig(
        vocab_size=260, max_position_embeddings=32, tie_word_embeddings=True, initializer_range=0.2, **sizes
    )
    # Only the settings make the start; what a killed process leaves behind must not depend on it.
    torch.manual_seed(0 if newest_good(folder)[0] is None else 99)
    model: Any = LlamaForCausalLM(backbone)
    if job["settings"].get("objective") != "ar":
        model = MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone))
    if kill and kill[0] == "evaluate":
        model.register_forward_pre_hook(lambda module, inputs: None if module.training else countdown())
    arguments = DiffusionTrainingArguments(
        **{
            "output_dir": str(folder),
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "warmup_steps": 3,
            "eval_replicates": 1,
            "per_device_eval_batch_size": 4,
            "log_save_interval": 3,
            "use_cpu": True,
            "disable_tqdm": True,
            **job["settings"],
        }
    )
    log = RunLogCallback(run_name="killed", log_save_interval=3, resume=(folder / "journal.jsonl").exists())
    rows = [{"input_ids": row} for row in markov_rows(44, 12)]
    trainer = DiffusionTrainer(
        model, arguments, rows[:34], rows[34:], load_tokenizer("bytes"), callbacks=[log, Watch()]
    )
    if kill and kill[0] in ("open", "rename"):
        sys.addaudithook(audit)
    trainer.train(resume_from_checkpoint=newest_good(folder)[0] is not None)


def markov_rows(count: int, length: int) -> list[list[int]]:
    """Rows of letters that depend on the one before, after a BOS (256)."""
    generator = np.random.default_rng(0)
    transitions = generator.dirichlet(np.full(6, 0.5), size=6).cumsum(1)
    rows = []
    for draws in generator.random((count, length - 1)):
        states = [0]
        for draw in draws:
            states.append(min(int(np.searchsorted(transitions[states[-1]], draw)), 5))
        rows.append([256, *(97 + state for state in states[1:])])
    return rows


def outcome(folder: Path) -> dict[str, Any]:
    """All that a finished training leaves behind, without what the clock says: names to values that can be compared."""
    from safetensors.torch import load_file

    from hf_difflm.runs import load_run
    from hf_difflm.runs.journal.checkpoints import newest_good

    checkpoint, warnings = newest_good(folder)
    assert checkpoint is not None
    assert warnings == []
    run = load_run(folder)
    found: dict[str, Any] = {"checkpoint": checkpoint.name, "status": run.status, "damaged_lines": run.damaged_lines}
    for place in (checkpoint, folder / "best"):
        for path in place.glob("*.safetensors"):
            found |= {f"{place.name}/{path.name}/{name}": tensor for name, tensor in load_file(path).items()}
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        found |= _flat(name, torch.load(checkpoint / name, weights_only=False))
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    state.pop("best_model_checkpoint")  # a path
    found |= _flat("state", state)
    found |= _flat("best", json.loads((folder / "best_evaluation.json").read_text()))
    found["log/steps"] = run.column("iter").tolist()
    for record in run.steps:
        found |= _flat(f"log/{record.iter}", {**vars(record), **record.extra})
    for evaluation in run.evaluations:
        found |= _flat(f"evaluation/{evaluation.iter}", evaluation.metrics)
    return found


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Names under which two outcomes are not the same, bit for bit; a number that is none equals itself."""
    names = sorted(ours.keys() ^ theirs.keys())
    for name in sorted(ours.keys() & theirs.keys()):
        a, b = ours[name], theirs[name]
        if isinstance(a, torch.Tensor):
            same = a.shape == b.shape and (torch.equal(a, b) or np.array_equal(a, b, equal_nan=a.is_floating_point()))
        else:
            same = a == b
        if not same:
            names.append(name)
    return names


def _flat(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        parts: Any = value.items()
    elif isinstance(value, (list, tuple)):
        parts = enumerate(value)
    else:
        return (
            {}
            if name.rsplit("/", 1)[-1] in TIMES
            else {name: torch.as_tensor(value) if hasattr(value, "dtype") else value}
        )
    return {key: leaf for part, inner in parts for key, leaf in _flat(f"{name}/{part}", inner).items()}


if __name__ == "__main__":
    nurse()
