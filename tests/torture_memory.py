"""Ten thousand steps with every callback: ``python tests/torture_memory.py --steps 10000`` (``make torture``).

Evaluations, checkpoints, samples, statistics, pictures and logs come again and again; from step 2,000 on the resident
memory of the training's process must stay flat within 10 MB. Prints, as JSON, what it was on the way.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from pathlib import Path

import torch
from transformers import LlamaConfig, PrinterCallback, TrainerCallback

sys.path.insert(0, str(Path(__file__).parents[1]))

from hf_difflm import DiffusionTrainer, DiffusionTrainingArguments, MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.callbacks import RunLogCallback
from hf_difflm.data import DataOptions, load_tokenizer, prepare_data
from hf_difflm.experiments.monitoring import add_monitoring
from hf_difflm.training.declarations.monitoring_options import MonitoringOptions

_WARM, _ALLOWED_MB = 2000, 10.0
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def resident_mb() -> float:
    """Resident memory of this process now, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024 / 1e6


class Watch(TrainerCallback):
    """Takes the resident memory every ``interval`` steps, after a collection: what a collection frees has not grown."""

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self.resident: dict[int, float] = {}

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.interval == 0:
            gc.collect()
            self.resident[state.global_step] = resident_mb()


def train(folder: Path, steps: int, interval: int = 500) -> dict[int, float]:
    """Train a toy with all callbacks; return the resident memory by step."""
    tokenizer = load_tokenizer("bytes")
    data = prepare_data(DataOptions(dataset="markov", block_size=32, max_eval_blocks=8), tokenizer)
    torch.manual_seed(0)
    backbone = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, max_position_embeddings=64, **SIZES)
    model = MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone))
    arguments = DiffusionTrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=4, warmup_steps=0, logging_steps=10,
        eval_strategy="steps", eval_steps=500, eval_replicates=1, save_steps=500, save_total_limit=2, ema_decay=0.99,
        report_to="tensorboard", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    watch = Watch(interval)
    trainer = DiffusionTrainer(model, arguments, data.train, data.eval, tokenizer, callbacks=[watch])
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(RunLogCallback(run_name="watched"))
    options = MonitoringOptions(
        generate_interval=250, generation_max_new_tokens=8, statistics_interval=50, viz_interval=500, text_log=True
    )
    add_monitoring(trainer, options, data)
    trainer.train()
    return watch.resident


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = train(Path(place) / "run", given.steps)
    grown = max(found.values()) - found[_WARM] if given.steps > _WARM else 0.0
    print(json.dumps({"resident_mb": {step: round(mb, 2) for step, mb in found.items()}, "grown_mb": round(grown, 2)}))
    assert grown <= _ALLOWED_MB, f"{grown:.1f} MB more than at step {_WARM:,}, {_ALLOWED_MB} are allowed"
    print(f"{given.steps:,} steps with all callbacks: memory is flat within {_ALLOWED_MB:g} MB")
