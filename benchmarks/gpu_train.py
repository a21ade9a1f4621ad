"""Training on a GPU: tokens/s and model FLOPs utilisation at 124M and 350M, length 1024, bf16, masked diffusion and its twin.

Each row is a real training by DiffusionTrainer on synthetic tokens: noise, forward, backward, clipping, AdamW. The steps
after the warm-up count, between two waits for the device. FLOPs are those really required: forward and twice that for the
backward pass, head at labelled positions only, the whole square of attention for masked diffusion and its causal half for
its twin (``hf_difflm/runs/flops.py``). MFU is against the card's dense peak; beside it the rate of a plain matrix product on
the same card. A micro-batch that does not fit is halved and said. Every row is printed, and kept, as soon as it is known.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _alternate import RESULTS
from _card import describe, forget, peak_memory, product_rate, synchronize
from torch.utils.data import Dataset
from transformers import PrinterCallback, TrainerCallback, set_seed

from hf_difflm import DiffusionTrainer, DiffusionTrainingArguments
from hf_difflm.data import load_tokenizer
from hf_difflm.models.build import build_causal_lm, build_denoiser
from hf_difflm.models.options import ModelOptions
from hf_difflm.runs.flops import mfu

# GPT-2's sizes in the Llama block, with its 50,257 tokens, a mask token, and none left over: the sizes of the recipes.
VOCABULARY = 50_258
SIZES = {"124M": (768, 12, 12, 32), "350M": (1024, 24, 16, 16)}  # width, layers, heads, micro-batch
TOY = {"toy": (32, 2, 2, 4)}
CONVENTION = (
    "3 x forward; a multiply-add is 2; LM head at labelled positions only; attention over all pairs (mdlm) or the causal "
    "half (ar); no recomputation counted"
)


class _Tokens(Dataset):
    """Uniform random tokens after a BOS, the same at each look-up."""

    def __init__(self, count: int, length: int, tokenizer: Any) -> None:
        self._count, self._length, self._bos, self._high = count, length, tokenizer.bos_token_id, 256

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        tokens = np.random.default_rng(index).integers(0, self._high, self._length - 1)
        return {"input_ids": [self._bos, *tokens.tolist()]}


class _Clock(TrainerCallback):
    """Times the steps after the warm-up as one, and sums what they did."""

    def __init__(self, warmup: int, device: torch.device) -> None:
        self._warmup, self._device, self._start = warmup, device, 0.0
        self.seconds, self.tokens, self.flops = 0.0, 0, 0.0

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self._warmup:
            synchronize(self._device)
            self._start = time.perf_counter()
        elif state.global_step == state.max_steps:
            synchronize(self._device)
            self.seconds = time.perf_counter() - self._start

    def on_training_iterations(self, args, state, rows):
        for row in rows:
            if row["iter"] > self._warmup:
                self.tokens += row["tokens"]
                self.flops += row.get("flops") or 0.0


def train_once(
    size: tuple[int, int, int, int], objective: str, compiled: bool, given: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Train so many steps and say how fast."""
    width, layers, heads, rows = size
    tokenizer = load_tokenizer("bytes")
    options = ModelOptions(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        backbone_config={"vocab_size": 512 if given.toy else VOCABULARY},
    )
    set_seed(0)
    build: Any = build_causal_lm if objective == "ar" else build_denoiser
    model = build(options, tokenizer, given.length)
    steps = given.warmup + given.steps
    clock = _Clock(given.warmup, device)
    with tempfile.TemporaryDirectory() as folder:
        arguments = DiffusionTrainingArguments(
            output_dir=folder,
            objective=objective,
            per_device_train_batch_size=rows,
            max_steps=steps,
            logging_steps=steps,  # nothing waits for the device in between
            bf16=True,
            torch_compile=compiled,
            tf32=True if device.type == "cuda" else None,
            dataloader_num_workers=0 if given.toy else 4,
            eval_strategy="no",
            save_strategy="no",
            save_log_to_json=False,
            disable_tqdm=True,
            use_cpu=device.type == "cpu",
        )
        data = _Tokens(rows * (steps + 1), given.length, tokenizer)
        trainer = DiffusionTrainer(model, arguments, data, None, tokenizer, callbacks=[clock])
        trainer.remove_callback(PrinterCallback)
        forget(device)
        trainer.train()
    loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    return {
        "parameters": model.num_parameters(),
        "tokens": clock.tokens,
        "seconds": clock.seconds,
        "flops": clock.flops,
        "peak_memory": peak_memory(device),
        "loss": loss,
    }


def measure(
    name: str,
    size: tuple[int, int, int, int],
    objective: str,
    compiled: bool,
    given: argparse.Namespace,
    device: torch.device,
    card: dict[str, Any],
) -> dict[str, Any]:
    """One row of the result; the micro-batch is halved while it does not fit."""
    width, layers, heads, rows = size
    row: dict[str, Any] = {"size": name, "objective": objective, "compile": compiled, "length": given.length}
    too_large = []
    while True:
        try:
            done = train_once((width, layers, heads, rows), objective, compiled, given, device)
            break
        except torch.cuda.OutOfMemoryError:
            too_large.append(rows)
            if rows == 1:
                return row | {"error": "not even one sequence fits", "too_large": too_large}
            rows //= 2
        except Exception as error:  # one row that fails must not take the others with it
            return row | {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        finally:
            torch._dynamo.reset()
            gc.collect()
            forget(device)
    rate = done["flops"] / done["seconds"]
    return row | {
        "parameters": done["parameters"],
        "micro_batch": rows,
        "too_large": too_large,
        "ms_per_step": round(1e3 * done["seconds"] / given.steps, 3),
        "scored_tokens_per_sec": round(done["tokens"] / done["seconds"], 1),
        "tokens_per_sec": round(rows * given.length * given.steps / done["seconds"], 1),
        "model_flops_per_sec": rate,
        "mfu_percent": mfu(done["flops"], done["seconds"], 1, card["peak_flops"]),
        "percent_of_product": 100 * rate / card["product_flops_per_sec"],
        "peak_memory": done["peak_memory"],
        "loss": done["loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--toy", action="store_true", help="a tiny network, to try this out on a CPU")
    parser.add_argument("--quick", action="store_true", help="124M alone, and few steps")
    parser.add_argument("--steps", type=int, help="steps that count")
    parser.add_argument("--warmup", type=int, help="steps before them; torch.compile does its work in them")
    parser.add_argument("--length", type=int, help="tokens of a sequence (default: 1024)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--budget", type=float, default=460, help="seconds after which no further row is begun")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/gpu_train.json; with --toy: none")
    given = parser.parse_args()
    given.steps = given.steps or (2 if given.toy else 10 if given.quick else 30)
    given.warmup = given.warmup or (2 if given.toy else 8)
    given.length = given.length or (32 if given.toy else 1024)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --device cpu --toy tries the benchmark out")
    device = torch.device(given.device)
    begin = time.perf_counter()
    card = describe(device)
    product = (64, 64, 64) if given.toy else (8192, 8192, 8192)
    card["product_flops_per_sec"] = product_rate(device, product, repeats=2 if given.toy else 7)
    result: dict[str, Any] = {
        "benchmark": "gpu_train",
        "command": " ".join(["python", f"benchmarks/{Path(__file__).name}", *sys.argv[1:]]),
        **card,
        "product_sizes": product,
        "torch": torch.__version__,
        "precision": "bf16 autocast, float32 weights",
        "flops": CONVENTION,
        "vocabulary": 512 if given.toy else VOCABULARY,
        "steps": given.steps,
        "warmup": given.warmup,
        "rows": [],
        "not_begun": [],
    }
    sizes = TOY if given.toy else {"124M": SIZES["124M"]} if given.quick else SIZES
    output = given.output or (None if given.toy else RESULTS / "gpu_train.json")
    for compiled in (False, True)[: 1 if given.no_compile else 2]:
        for name, size in sizes.items():
            for objective in ("mdlm", "ar"):
                if time.perf_counter() - begin > given.budget:
                    result["not_begun"].append([name, objective, compiled])
                    continue
                row = measure(name, size, objective, compiled, given, device, card)
                result["rows"].append(row)
                print(json.dumps(row), flush=True)
                if output is not None:
                    output.parent.mkdir(exist_ok=True)
                    output.write_text(json.dumps(result, indent=2) + "\n")
    result["seconds"] = round(time.perf_counter() - begin, 1)
    if output is not None:
        output.write_text(json.dumps(result, indent=2) + "\n")
    if all("error" in row for row in result["rows"]):
        raise SystemExit("no training ran through")


if __name__ == "__main__":
    main()
