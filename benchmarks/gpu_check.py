"""Is what runs on the GPU what runs on the CPU? One row a check, each a number and what was asked of it.

The CPU is the reference, in float32, and the network small: both sides have the same weights, rows and noise. What cannot be
asked of a CPU (waits of the host) has a row that says so where ``--device cpu`` tries the checks out.
Claims: loss, gradient and NELBO within 1e-4; the same noise, the same generated tokens, the same bits after a resume; no wait
between logging steps; compiled within 1e-4 of eager; an ``IterableDataset`` trains to the weights of the same rows in a list.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS begins: the resume asks for equal bits

import numpy as np
import torch
from _card import asked_device, describe
from _claims import Claim
from _kept import Kept, add_arguments
from torch.utils.data import IterableDataset
from transformers import PrinterCallback, TrainerCallback, set_seed

from hf_difflm import DiffusionTrainer, DiffusionTrainingArguments
from hf_difflm.data import Collator, load_tokenizer
from hf_difflm.evaluation.likelihood.evaluate import evaluate_likelihood
from hf_difflm.models.build import build_causal_lm, build_denoiser
from hf_difflm.models.masked_diffusion.sampler_names import OWN_SAMPLERS
from hf_difflm.models.options import ModelOptions
from hf_difflm.objectives import (
    BlockDiffusionObjective,
    CausalObjective,
    MaskedDiffusionObjective,
    NoiseKey,
    Objective,
)
from hf_difflm.objectives.packed_documents import SideBySide, documents_apart, numbered

ROWS, LENGTH = 16, 64
SIZE = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
STEPS, EVERY = 8, 4  # of the trainings, and between their logging steps
CLOSE, CLOSE_BF16 = 1e-4, 0.05
CPU = torch.device("cpu")
Row = dict[str, Any]


def rows(count: int) -> list[dict[str, list[int]]]:
    """Rows of bytes after a BOS, of which a few are frequent: there is something to learn."""
    generator = np.random.default_rng(0)
    return [
        {"input_ids": [256, *(97 + generator.geometric(0.3, LENGTH - 1).clip(max=20)).tolist()]} for _ in range(count)
    ]


def network(objective: str, **more: Any) -> Any:
    """The denoiser or its causal twin, the same weights each time."""
    set_seed(0)
    build: Any = build_causal_lm if objective == "ar" else build_denoiser
    return build(ModelOptions(**SIZE), load_tokenizer("bytes"), LENGTH, **more)


def objective_of(model: Any, **more: Any) -> Objective:
    mask = getattr(model.config, "mask_token_id", None)
    return CausalObjective() if mask is None else MaskedDiffusionObjective(mask, **more)


def row(what: str, value: float, asked: str | None, unit: str, measure: str, **sides: float) -> Row:
    """What a check found; without ``asked`` it is told and claims nothing."""
    return {"what": what, "value": value, "asked": asked, "unit": unit, "measure": measure, "sides": sides}


def step(
    model: Any,
    device: torch.device,
    objective: Objective,
    autocast: bool = False,
    backend: str | None = None,
    documents: str | None = None,
) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients, on the host in float64, of one optimiser batch; rows may be documents, ``packed`` or ``alone``."""
    batch = Collator(load_tokenizer("bytes"))(rows(ROWS))
    key = NoiseKey(seed=0, step=0, places_B=np.arange(ROWS), size=ROWS)
    model = copy.deepcopy(model).to(device).train()
    if backend is not None:
        model.compile(dynamic=False, backend=backend)  # of a copy: copying would undo it
    called = model
    if documents is not None:  # two of each row, the second without a BOS of its own
        batch["piece_ids"] = torch.arange(2 * ROWS).view(-1, 2).repeat_interleave(LENGTH // 2, dim=1)
        batch["labels"][:, LENGTH // 2] = -100
        apart, layout = documents_apart(batch)
        if documents == "alone" or not objective.reads_rows:
            batch, key = apart, numbered(key, layout, layout.piece_D)
            called = model if documents == "alone" else SideBySide(model, layout, device)
    with torch.autocast(device.type, torch.bfloat16) if autocast else nullcontext():
        loss = objective(called, batch, key, int((batch["labels"] != -100).sum()), device).loss
    loss.backward()
    return float(loss.detach()), [p.grad.double().cpu() for p in model.parameters() if p.grad is not None]


def distance(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """The largest, over tensors, of ||a - b|| / ||b||."""
    return max(float((a - b).norm() / b.norm().clamp(min=1e-30)) for a, b in zip(ours, theirs, strict=True))


# ---- the checks ----


def one_step(objective: str, autocast: bool) -> Callable[[argparse.Namespace, torch.device], list[Row]]:
    def check(given: argparse.Namespace, device: torch.device) -> list[Row]:
        model = network(objective)
        (expected, reference), (loss, gradients) = (
            step(model, CPU, objective_of(model)),
            step(model, device, objective_of(model), autocast),
        )
        kind, close = ("bf16", CLOSE_BF16) if autocast else ("float32", CLOSE)
        asked, sides = f"<= {close:g}", {"CPU, float32": expected, f"device, {kind}": loss}
        return [
            row(
                f"loss of a step, {objective}, {kind}",
                abs(loss / expected - 1),
                asked,
                "nats/token",
                "relative",
                **sides,
            ),
            row(
                f"gradient, {objective}, {kind}", distance(gradients, reference), asked, "", "largest ||a - b|| / ||b||"
            ),
        ]

    return check


def blocks(given: argparse.Namespace, device: torch.device) -> list[Row]:
    """A step of block diffusion: two passes with sdpa, one forward with flex_attention's mask of blocks."""
    found = []
    model = network("mdlm", diffusion_block_size=16)
    objective = BlockDiffusionObjective(model.config.mask_token_id, 16)
    expected, reference = step(model, CPU, objective)
    for kernel in ("sdpa", "flex_attention"):
        if device.type != "cuda" and kernel == "flex_attention":
            found.append({"what": "a step of bd3lm, flex_attention", "skipped": "has no backward pass on a CPU"})
            continue
        there = copy.deepcopy(model)
        there.set_attn_implementation(kernel)
        found += _as_on_cpu(f"a step of bd3lm, {kernel}", expected, reference, *step(there, device, objective))
    return found


def packed(given: argparse.Namespace, device: torch.device) -> list[Row]:
    """A step on rows of several documents, against the documents alone on the CPU."""
    found = []
    for objective in ("mdlm", "ar"):
        model = network(objective)
        expected, reference = step(model, CPU, objective_of(model), documents="alone")
        for kernel in ("sdpa", "flex_attention"):
            what = f"a step of {objective} on packed documents, {kernel}"
            if device.type != "cuda" and kernel == "flex_attention":
                found.append({"what": what, "skipped": "has no backward pass on a CPU"})
                continue
            there = copy.deepcopy(model)
            there.set_attn_implementation(kernel)
            taken = step(there, device, objective_of(model), documents="packed")
            found += _as_on_cpu(what, expected, reference, *taken)
    return found


def _as_on_cpu(
    what: str, expected: float, reference: list[torch.Tensor], loss: float, gradients: list[torch.Tensor]
) -> list[Row]:
    asked, sides = f"<= {CLOSE:g}", {"CPU": expected, "device": loss}
    return [
        row(f"loss of {what}", abs(loss / expected - 1), asked, "nats/token", "relative", **sides),
        row(f"gradient of {what}", distance(gradients, reference), asked, "", "largest ||a - b|| / ||b||"),
    ]


def noise(given: argparse.Namespace, device: torch.device) -> list[Row]:
    """What the model is called with."""
    seen: dict[str, dict[str, torch.Tensor]] = {}
    model = network("mdlm")
    for name, where in (("CPU", CPU), ("device", device)):
        there = copy.deepcopy(model)
        there.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: seen.update({name: kwargs}), with_kwargs=True
        )
        step(there, where, objective_of(model))
    different = sum(
        int((value.cpu() != seen["CPU"][name]).sum())
        for name, value in seen["device"].items()
        if isinstance(value, torch.Tensor)
    )
    hidden = {name: float((inputs["input_ids"] == model.config.mask_token_id).sum()) for name, inputs in seen.items()}
    what = "noise of a step: ids, labels, weights, positions"
    return [row(what, different, "<= 0", "hidden tokens", "that differ", **hidden)]


def nelbo(objective: str) -> Callable[[argparse.Namespace, torch.device], list[Row]]:
    def check(given: argparse.Namespace, device: torch.device) -> list[Row]:
        model, found = network(objective), {}
        batch = Collator(load_tokenizer("bytes"))(rows(ROWS))
        batch["index"] = torch.arange(ROWS)
        for name, where in (("CPU", CPU), ("device", device)):
            evaluated = objective_of(model).for_evaluation()
            found[name] = evaluate_likelihood(
                copy.deepcopy(model).to(where), evaluated, [batch], ROWS, replicates=4, device=where
            ).nll
        apart, asked = abs(found["device"] - found["CPU"]), f"<= {CLOSE:g}"
        return [row(f"eval_nll, {objective}, float32", apart, asked, "nats/token", "difference", **found)]

    return check


def trained(
    given: argparse.Namespace, device: torch.device, data: Any = None, objective: str = "mdlm", **more: Any
) -> DiffusionTrainer:
    """A Trainer of the small network, which has trained unless it is told where to begin."""
    callbacks, resume = more.pop("callbacks", []), more.pop("resume", None)
    folder = more.pop("folder", None)
    with nullcontext(folder) if folder else tempfile.TemporaryDirectory() as place:
        settings = {
            "output_dir": place,
            "objective": objective,
            "per_device_train_batch_size": 4,
            "max_steps": STEPS,
            "logging_steps": EVERY,
            "learning_rate": 1e-3,
            "warmup_steps": 0,
            "eval_strategy": "no",
            "save_strategy": "no",
            "save_log_to_json": False,
            "disable_tqdm": True,
            "use_cpu": device.type == "cpu",
        }
        arguments = DiffusionTrainingArguments(**settings | more)
        data = rows(8 * ROWS) if data is None else data
        trainer = DiffusionTrainer(
            network(objective), arguments, data, None, load_tokenizer("bytes"), callbacks=callbacks
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights(trainer: DiffusionTrainer) -> list[torch.Tensor]:
    return [p.detach().double().cpu() for p in trainer.model.parameters()]


def resume(given: argparse.Namespace, device: torch.device) -> list[Row]:
    """Four steps, a checkpoint, and four more in another Trainer, against eight; last of the checks, as it sets switches."""
    found = []
    for deterministic in (False, True):
        more = {"full_determinism": deterministic, "ema_decay": 0.9}
        with tempfile.TemporaryDirectory() as folder:
            saving = {"folder": folder, "save_strategy": "steps", "save_steps": EVERY}
            whole = trained(given, device, **saving, **more)
            going_on = trained(given, device, resume=str(Path(folder) / f"checkpoint-{EVERY}"), **saving, **more)
        different = sum(int((a != b).sum()) for a, b in zip(weights(going_on), weights(whole), strict=True))
        kind = "full_determinism" if deterministic else "as by default"
        asked = "<= 0" if deterministic else None
        found.append(
            row(f"a resumed training against one without a break, {kind}", different, asked, "", "weights that differ")
        )
    torch.use_deterministic_algorithms(False)
    return found


class _Watch(TrainerCallback):
    """Turns torch's watch for waits on between logging steps, the fetching of batches included."""

    def on_step_end(self, args, state, control, **kwargs):
        logs = state.global_step % EVERY == 0 or (state.global_step + 1) % EVERY == 0  # this step, or the next one
        torch.cuda.set_sync_debug_mode("default" if logs else "warn")

    def on_log(self, args, state, control, **kwargs):  # the window has been fetched by now
        if state.global_step < state.max_steps:
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_end(self, args, state, control, **kwargs):
        torch.cuda.set_sync_debug_mode("default")


def waits(objective: str) -> Callable[[argparse.Namespace, torch.device], list[Row]]:
    def check(given: argparse.Namespace, device: torch.device) -> list[Row]:
        what = f"waits of the host between logging steps, {objective}"
        if device.type != "cuda":
            return [{"what": what, "skipped": "only torch.cuda tells"}]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trained(given, device, objective=objective, callbacks=[_Watch()], ema_decay=0.9)
        said = [one for one in caught if "synchroniz" in str(one.message)]
        where = Counter("/".join(Path(one.filename).parts[-3:]) + f":{one.lineno}" for one in said)
        steps = STEPS - STEPS // EVERY - 1
        # transformers' causal models look for packed sequences, once a forward: docs/performance.md
        asked = "<= 0" if objective == "mdlm" else None
        return [row(what, len(said) / steps, asked, "", "waits a step") | {"where": dict(where)}]

    return check


def compiled(given: argparse.Namespace, device: torch.device) -> list[Row]:
    model = network("mdlm")
    expected, reference = step(model, device, objective_of(model, static_shapes=True))
    loss, gradients = step(model, device, objective_of(model, static_shapes=True), backend=given.backend)
    asked = f"<= {CLOSE:g}"
    sides = {"eager": expected, f"compiled, {given.backend}": loss}
    return [
        row("loss of a step, compiled, float32", abs(loss / expected - 1), asked, "nats/token", "relative", **sides),
        row("gradient, compiled, float32", distance(gradients, reference), asked, "", "largest ||a - b|| / ||b||"),
    ]


class _Stream(IterableDataset):
    """Rows one after the other."""

    def __init__(self, data: list[dict[str, list[int]]]) -> None:
        self._data = data

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        return iter(self._data)


def iterable(given: argparse.Namespace, device: torch.device) -> list[Row]:
    """The order of a list is the Trainer's own: the stream is made in it."""
    from_list = trained(given, device)
    data = rows(8 * ROWS)
    assert from_list._train_order is not None
    from_list._train_order.set_epoch(0)
    from_stream = trained(given, device, _Stream([data[i] for i in from_list._train_order]))
    apart = distance(weights(from_stream), weights(from_list))
    what = "weights after a stream against a list of the same rows"
    return [row(what, apart, f"<= {CLOSE:g}", "", "largest ||a - b|| / ||b||")]


def generation(given: argparse.Namespace, device: torch.device) -> list[Row]:
    """By a network that has learned a little: of a random one every order is a tie."""
    model = trained(given, CPU, max_steps=STEPS if given.toy else 60).model.eval()
    there = copy.deepcopy(model).to(device)
    prompt_BP, found = torch.full((4, 1), 256), []
    for sampler in OWN_SAMPLERS:
        asked = {"max_new_tokens": 31, "max_denoising_steps": 31, "sampler": sampler, "seed": 0}
        expected, tokens = model.generate(prompt_BP, **asked), there.generate(prompt_BP.to(device), **asked).cpu()
        found.append(row(f"generated tokens, {sampler}", int((tokens != expected).sum()), "<= 0", "", "that differ"))
    return found


CHECKS: dict[str, Callable[[argparse.Namespace, torch.device], list[Row]]] = {
    "step mdlm": one_step("mdlm", autocast=False),
    "step ar": one_step("ar", autocast=False),
    "step mdlm bf16": one_step("mdlm", autocast=True),
    "step bd3lm": blocks,
    "packed documents": packed,
    "noise": noise,
    "nelbo mdlm": nelbo("mdlm"),
    "nelbo ar": nelbo("ar"),
    "iterable": iterable,
    "waits mdlm": waits("mdlm"),
    "waits ar": waits("ar"),
    "generation": generation,
    "compiled": compiled,
    "resume": resume,
}


def claims(result: dict[str, Any]) -> list[Claim]:
    """What was asked of a check's number."""
    found = [found for done in result["rows"] for found in done.get("found", [])]
    return [
        Claim(f"on a GPU: {one['what']}", *(one[name] for name in ("sides", "unit", "measure", "value", "asked")))
        for one in found
        if one.get("asked") is not None
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--checks", nargs="+", choices=CHECKS, default=list(CHECKS))
    given = parser.parse_args()
    device = asked_device(parser, given)
    torch.set_float32_matmul_precision("highest")
    kept = Kept("gpu_check", given, {**describe(device), "precision": "float32"}, claims)
    for name in given.checks:
        kept.measure({"check": name}, lambda name=name: {"found": CHECKS[name](given, device)})
    return kept.finish()


if __name__ == "__main__":
    raise SystemExit(main())
