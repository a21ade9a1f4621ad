"""Training on a GPU: tokens/s and model FLOPs utilisation at 124M and 350M, length 1024, bf16, compiled and not.

Sides: masked diffusion (``labelled``), the same model with its LM head at every position (``full``), and the causal twin
(``ar``). Each row is a real training by DiffusionTrainer on synthetic tokens: noise, forward, backward, clipping, AdamW. The
steps after the warm-up count, in blocks that begin and end with a wait for the device; rates are of all of them, the
milliseconds the median of the blocks. Rows follow each other in one process; compiled rows have static shapes. FLOPs are
those really required: forward and twice that for the backward pass, head at labelled positions only, the whole square of
attention for masked diffusion and its causal half for its twin (``hf_difflm/flops/network.py``). MFU is against the card's
dense peak; beside it the rate of a plain matrix product on the same card. A micro-batch that does not fit is halved and said.
Every row is printed, and kept, as soon as it is known; compiled rows come first.
Claims, of compiled rows: at least 40 % MFU at 124M and 50 % at 350M, and 1.2 times the step rate of the full head.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from _card import asked_device, forget, measured, peak_memory, synchronize
from _claims import Claim
from _full_head import FullHead
from _kept import Kept, add_arguments
from torch.utils.data import Dataset
from transformers import PrinterCallback, TrainerCallback, set_seed

from hf_difflm import DiffusionTrainer, DiffusionTrainingArguments
from hf_difflm.data import load_tokenizer
from hf_difflm.flops.network import mfu
from hf_difflm.models.build import build_causal_lm, build_denoiser
from hf_difflm.models.options import ModelOptions

# GPT-2's sizes in the Llama block, with its 50,257 tokens, a mask token, and none left over: the sizes of the recipes.
VOCABULARY = 50_258
SIZES = {"124M": (768, 12, 12, 32), "350M": (1024, 24, 16, 16)}  # width, layers, heads, micro-batch
TOY = {"toy": (32, 2, 2, 4)}
SIDES = ("labelled", "full", "ar")
BLOCKS = 5
MFU_ASKED = {"124M": 40, "350M": 50}
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
CONVENTION = (
    "3 x forward; a multiply-add is 2; LM head at labelled positions only, in the rows of the full head, too; attention over "
    "all pairs (labelled, full) or the causal half (ar); no recomputation counted"
)


class Tokens(Dataset):
    """Uniform random tokens after a BOS, the same at each look-up."""

    def __init__(self, count: int, length: int, tokenizer: Any) -> None:
        self._count, self._length, self._bos, self._high = count, length, tokenizer.bos_token_id, 256

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        tokens = np.random.default_rng(index).integers(0, self._high, self._length - 1)
        return {"input_ids": [self._bos, *tokens.tolist()]}


class _Clock(TrainerCallback):
    """Times the steps after the warm-up in blocks, and sums what they did."""

    def __init__(self, warmup: int, steps: int, device: torch.device) -> None:
        self._warmup, self._device = warmup, device
        cuts = min(BLOCKS, steps)
        self._ends = [warmup + block * steps // cuts for block in range(cuts + 1)]
        self._marks: list[float] = []
        self.tokens, self.flops = 0, 0.0

    @property
    def seconds(self) -> float:
        """Of all blocks."""
        return self._marks[-1] - self._marks[0]

    @property
    def ms_per_step(self) -> list[float]:
        """Of each block."""
        spans = zip(self._ends, self._ends[1:], self._marks, self._marks[1:], strict=False)
        return [1e3 * (mark - before) / (end - start) for start, end, before, mark in spans]

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in self._ends:
            synchronize(self._device)
            self._marks.append(time.perf_counter())

    def on_training_iterations(self, args, state, rows):
        for row in rows:
            if row["iter"] > self._warmup:
                self.tokens += row["tokens"]
                self.flops += row.get("flops") or 0.0


def make_trainer(
    size: tuple[int, int, int, int],
    side: str,
    compiled: bool,
    given: argparse.Namespace,
    device: torch.device,
    folder: str,
    steps: int,
    callbacks: Sequence[TrainerCallback],
    **arguments: Any,
) -> DiffusionTrainer:
    """A Trainer of one side; ``arguments`` go to the Trainer, over those of the benchmark."""
    width, layers, heads, rows = size
    tokenizer = load_tokenizer("bytes")
    options = ModelOptions(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        attn_implementation=given.attention,
        backbone_config={"vocab_size": 512 if given.toy else VOCABULARY},
    )
    objective = "ar" if side == "ar" else "mdlm"
    set_seed(0)
    build: Any = build_causal_lm if objective == "ar" else build_denoiser
    model = build(options, tokenizer, given.length)
    if side == "full":
        set_seed(0)  # the same weights
        model = FullHead(model.config)
    settings: dict[str, Any] = {
        "output_dir": folder,
        "objective": objective,
        "per_device_train_batch_size": rows,
        "max_steps": steps,
        "logging_steps": steps,  # nothing waits for the device in between
        "logging_first_step": True,  # a step that logs has a graph of its own: it is compiled in the warm-up
        "bf16": True,
        "torch_compile": compiled,
        "torch_compile_mode": given.compile_mode if compiled and given.compile_mode != "default" else None,
        "torch_compile_backend": given.backend if compiled else None,
        "static_shapes": compiled and objective == "mdlm",
        "use_liger_kernel": given.liger,
        "tf32": True if device.type == "cuda" else None,
        "dataloader_num_workers": 0 if given.toy else 4,
        "eval_strategy": "no",
        "save_strategy": "no",
        "save_log_to_json": False,
        "disable_tqdm": True,
        "use_cpu": device.type == "cpu",
    }
    data = Tokens(rows * (steps + 1), given.length, tokenizer)
    trainer = DiffusionTrainer(
        model, DiffusionTrainingArguments(**settings | arguments), data, None, tokenizer, callbacks=list(callbacks)
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def train_once(
    size: tuple[int, int, int, int], side: str, compiled: bool, given: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Train so many steps and say how fast."""
    clock = _Clock(given.warmup, given.steps, device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(size, side, compiled, given, device, folder, given.warmup + given.steps, [clock])
        forget(device)
        trainer.train()
    loss = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-1]
    return {
        "parameters": trainer.model.num_parameters(),
        "tokens": clock.tokens,
        "seconds": clock.seconds,
        "ms_per_step": clock.ms_per_step,
        "flops": clock.flops,
        "peak_memory": peak_memory(device),
        "loss": loss,
    }


def measure(
    size: tuple[int, int, int, int],
    side: str,
    compiled: bool,
    given: argparse.Namespace,
    device: torch.device,
    card: dict[str, Any],
) -> dict[str, Any]:
    """What one row says; the micro-batch is halved while it does not fit.

    Raises:
        RuntimeError: not even one sequence fits.
    """
    width, layers, heads, rows = size
    too_large = []
    while True:
        try:
            done = train_once((width, layers, heads, rows), side, compiled, given, device)
            break
        except torch.cuda.OutOfMemoryError:
            too_large.append(rows)
            if rows == 1:
                raise RuntimeError("not even one sequence fits") from None
            rows //= 2
        finally:
            torch._dynamo.reset()
            gc.collect()
            forget(device)
    rate = done["flops"] / done["seconds"]
    return {
        "length": given.length,
        "parameters": done["parameters"],
        "micro_batch": rows,
        "too_large": too_large,
        "ms_per_step": round(statistics.median(done["ms_per_step"]), 3),
        "ms_per_step_of_blocks": [round(ms, 3) for ms in done["ms_per_step"]],
        "scored_tokens_per_sec": round(done["tokens"] / done["seconds"], 1),
        "tokens_per_sec": round(rows * given.length * given.steps / done["seconds"], 1),
        "model_flops_per_sec": rate,
        "mfu_percent": mfu(done["flops"], done["seconds"], 1, card["peak_flops"]),
        "percent_of_product": 100 * rate / card["product_flops_per_sec"],
        "peak_memory": done["peak_memory"],
        "loss": done["loss"],
    }


def claims(result: dict) -> list[Claim]:
    """What the compiled rows say of the claims; nothing of rows that are not there, and no MFU without a known peak."""
    rows = {(row["size"], row["side"]): row for row in result["rows"] if row["compile"] and "error" not in row}
    made = []
    for size, percent in MFU_ASKED.items():
        ours, full = rows.get((size, "labelled")), rows.get((size, "full"))
        what = f"training at {size}, length {result['length']}, bf16, compiled, vocabulary {result['vocabulary']:,}"
        if ours is not None and ours["mfu_percent"] is not None:
            rates = {
                f"{side}, {row['tokens_per_sec']:,.0f} tokens/s": round(row["mfu_percent"], 2)
                for side in SIDES
                if (row := rows.get((size, side))) is not None
            }
            made.append(Claim(what, rates, "% MFU", "labelled, % MFU", ours["mfu_percent"], f">= {percent}"))
        if ours is not None and full is not None and ours["micro_batch"] == full["micro_batch"]:
            sides = {"full": full["ms_per_step"], "labelled": ours["ms_per_step"]}
            faster = full["ms_per_step"] / ours["ms_per_step"]
            made.append(Claim(f"{what}: the head", sides, "ms a step", "full / labelled", faster, ">= 1.2"))
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--quick", action="store_true", help="few steps")
    parser.add_argument("--steps", type=int, help="steps that count")
    parser.add_argument("--warmup", type=int, help="steps before them; torch.compile does its work in them")
    parser.add_argument("--length", type=int, help="tokens of a sequence (default: 1024)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--no-eager", action="store_true", help="leave out what is not compiled")
    parser.add_argument("--compile-mode", choices=MODES, default="default", help="reduce-overhead: CUDA graphs")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--attention", default="sdpa", help="attn_implementation")
    parser.add_argument("--liger", action="store_true", help="with Liger's kernels, where the package is installed")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    given = parser.parse_args()
    given.steps = given.steps or (2 if given.toy else 10 if given.quick else 30)
    given.warmup = given.warmup or (2 if given.toy else 8)
    given.length = given.length or (32 if given.toy else 1024)
    device = asked_device(parser, given)
    card = measured(device, given.toy)
    head = {
        **card,
        "precision": "bf16 autocast, float32 weights",
        "attention": given.attention,
        "compile_mode": given.compile_mode,
        "liger": given.liger,
        "length": given.length,
        "flops": CONVENTION,
        "vocabulary": 512 if given.toy else VOCABULARY,
        "steps": given.steps,
        "warmup": given.warmup,
    }
    kept = Kept("gpu_train", given, head, claims)
    sizes = TOY if given.toy else {name: SIZES[name] for name in given.sizes}
    for compiled in ([] if given.no_compile else [True]) + ([] if given.no_eager else [False]):
        for name, size in sizes.items():
            for side in given.sides:
                kept.measure(
                    {"size": name, "side": side, "compile": compiled},
                    lambda size=size, side=side, compiled=compiled: measure(size, side, compiled, given, device, card),
                )
    return kept.finish()


if __name__ == "__main__":
    raise SystemExit(main())
