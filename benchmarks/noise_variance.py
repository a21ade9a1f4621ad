"""How much the noise of masked diffusion makes loss, gradient and evaluation vary, at equal forwards, on a trained model.

A byte-level denoiser (hidden 128, 4 layers, length 128) is trained, and then only read. Each way to draw the noise gets the
same 32 forwards: 32 sequences, or 16 in complementary pairs. Measured over many draws: the standard deviation of the loss of
an optimiser batch, the same sequences each time (fixed: the noise alone) or others (fresh: what training sees); the trace
of the covariance of its gradient over its squared mean; and the standard error of an evaluation of K = 8 forwards a sequence.
Bernoulli masks have times in (0.001, 1], as MDLM has them, without which their variance has no bound.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _alternate import write
from _bare_loop import bare_loop
from _claims import Claim
from transformers import set_seed

from hf_difflm import data as texts
from hf_difflm.data import Collator, load_tokenizer
from hf_difflm.experiments.recipe_settings import load_settings
from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.models.build import build_denoiser
from hf_difflm.objectives import CountLaw, MaskedDiffusionObjective, NoiseKey
from hf_difflm.objectives.masked_diffusion import Corruption
from hf_difflm.objectives.noise import row_uniforms

SMALLEST_TIME = 1e-3
FORWARDS, MICRO_BATCH, REPLICATES = 32, 8, 8
PLAIN, STRATIFIED, PAIRS = "i.i.d. times, Bernoulli", "stratified counts", "stratified counts in pairs"
IMPORTANCE = "stratified counts by importance"  # what evaluations draw


class BernoulliMasks(MaskedDiffusionObjective):
    """The time form with the times of other projects: one uniform number in each of so many equal strata, shuffled.

    Args:
        mask_token_id: id of the mask token.
        strata: sequences that are stratified together; 1: independent times.
    """

    def __init__(self, mask_token_id: int, strata: int) -> None:
        super().__init__(mask_token_id, "time", "iid")
        self._strata = strata

    def corrupt(self, scored_BL: np.ndarray, key: NoiseKey) -> Corruption:
        rows = row_uniforms(key, scored_BL.sum(-1))
        orders = np.random.default_rng((key.seed, int(key.step))).permuted(
            np.tile(np.arange(self._strata), (-(-len(rows) // self._strata), 1)), axis=1
        )
        u_B = (orders.ravel()[: len(rows)] + [row[0] for row in rows]) / self._strata
        scores_BL = np.full(scored_BL.shape, np.inf)
        scores_BL[scored_BL] = np.concatenate([row[1:] for row in rows])
        return self._bernoulli((1 - SMALLEST_TIME) * u_B, scores_BL, scored_BL.sum(-1))


def sides(mask_token_id: int) -> dict[str, MaskedDiffusionObjective]:
    """The ways to draw the noise."""
    return {
        PLAIN: BernoulliMasks(mask_token_id, 1),
        f"antithetic times of {MICRO_BATCH} (MDLM), Bernoulli": BernoulliMasks(mask_token_id, MICRO_BATCH),
        f"stratified times of {FORWARDS} (Duo), Bernoulli": BernoulliMasks(mask_token_id, FORWARDS),
        "i.i.d. counts": MaskedDiffusionObjective(mask_token_id, noise_sampling="iid"),
        STRATIFIED: MaskedDiffusionObjective(mask_token_id),
        PAIRS: MaskedDiffusionObjective(mask_token_id, noise_sampling="pairs"),
        IMPORTANCE: MaskedDiffusionObjective(mask_token_id, count_law=CountLaw("importance")),
    }


class Reader:
    """Losses and gradients of one model on rows of one data set."""

    def __init__(self, model: Any, tokenizer: Any, dataset: Any) -> None:
        self.model, self.size = model, len(dataset)
        self._parameters = list(model.parameters())
        self._device = self._parameters[0].device
        self._batch = Collator(tokenizer)([dataset[i] for i in range(self.size)])

    def loss(self, noise: MaskedDiffusionObjective, rows: np.ndarray, step: int, places: np.ndarray, size: int) -> Any:
        """Nats per token of some rows; ``places`` of ``size`` name their noise."""
        batch = {name: values[torch.from_numpy(rows)] for name, values in self._batch.items()}
        scored = int((batch["labels"] != -100).sum())
        return noise(self.model, batch, NoiseKey(0, step, places, size), scored, self._device).loss

    def nats_per_token(self, noise: MaskedDiffusionObjective) -> float:
        """Of the whole set, by one draw."""
        everything = np.arange(self.size)
        with torch.no_grad():
            return float(self.loss(noise, everything, 0, everything, self.size))

    def batches(self, noise: MaskedDiffusionObjective, fresh: bool) -> Iterator[tuple[np.ndarray, int]]:
        """Rows and step of one optimiser batch after the other, the same for every side but for their number."""
        count = FORWARDS // noise.reads
        for step in itertools.count():
            order = np.random.default_rng(step).permutation(self.size if fresh else count)
            yield order[:count], step

    def spread(self, noise: MaskedDiffusionObjective, fresh: bool, draws: int) -> float:
        """Standard deviation of the loss."""
        with torch.no_grad():
            losses = [
                self.loss(noise, rows, step, np.arange(len(rows)), len(rows)).double()
                for rows, step in itertools.islice(self.batches(noise, fresh), draws)
            ]
        return float(torch.stack(losses).std())

    def gradient_noise(self, noise: MaskedDiffusionObjective, fresh: bool, draws: int) -> float:
        """Trace of the covariance of the gradient over the squared norm of its mean, both without bias."""
        total: Any = None
        squares = 0.0
        for rows, step in itertools.islice(self.batches(noise, fresh), draws):
            loss = self.loss(noise, rows, step, np.arange(len(rows)), len(rows))
            gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, self._parameters)])
            squares += float(gradient.square().sum(dtype=torch.float64))
            total = gradient.double() if total is None else total + gradient
        of_mean = float((total / draws).square().sum())
        trace = (squares - draws * of_mean) / (draws - 1)
        return trace / (of_mean - trace / draws)

    def standard_error(self, noise: MaskedDiffusionObjective, draws: int) -> float:
        """Of an evaluation of the whole set by ``REPLICATES`` forwards a sequence, from the spread of single ones."""
        parts = np.split(np.arange(self.size), range(FORWARDS, self.size, FORWARDS))
        means = []
        with torch.no_grad():
            for step in range(draws // noise.reads):
                losses = [len(part) * self.loss(noise, part, step, part, self.size).double() for part in parts]
                means.append(torch.stack(losses).sum() / self.size)
        return float(torch.stack(means).std()) / math.sqrt(REPLICATES / noise.reads)


def trained(given: argparse.Namespace, settings: Any, tokenizer: Any, dataset: Any, device: torch.device) -> Any:
    """The denoiser, from ``--model`` where it is there, else trained (and kept there)."""
    if given.model is not None and (given.model / "config.json").is_file():
        return MaskedDiffusionForMaskedLM.from_pretrained(given.model).to(device)
    set_seed(0)
    model = build_denoiser(settings.model, tokenizer, settings.data.block_size).to(device)
    noise = MaskedDiffusionObjective(tokenizer.mask_token_id)
    bare_loop(model, noise, tokenizer, dataset, FORWARDS, given.steps, learning_rate=2e-3, device=device)()
    if given.model is not None:
        model.save_pretrained(given.model)
    return model


def claims(result: dict[str, Any]) -> list[Claim]:
    """What the numbers of a run say of the claims."""
    rows, plain = result["sides"], result["sides"][PLAIN]
    loss, error = "standard deviation of the loss of a batch of 32 forwards", "standard error of an evaluation"
    compared = [
        (f"{loss}, fresh data", STRATIFIED, "loss_std_fresh", "<= 0.45"),
        (f"{loss}, the same data", STRATIFIED, "loss_std_fixed", "<= 0.45"),
        (f"{error}, {REPLICATES} forwards a sequence", IMPORTANCE, "evaluation_stderr", "<= 0.4"),
    ]
    return [
        Claim(
            what=what,
            sides={side: rows[side][name], PLAIN: plain[name]},
            unit="nats/token",
            measure=f"{side} / {PLAIN}",
            value=rows[side][name] / plain[name],
            asked=asked,
        )
        for what, side, name, asked in compared
    ]


def print_table(result: dict[str, Any]) -> None:
    """One line a side: every number, and in brackets its ratio to that of independent times."""
    names = [name for name in result["sides"][PLAIN] if name != "sequences"]
    print(f"{'noise':44}" + "".join(f"{name:>24}" for name in names))
    for side, row in result["sides"].items():
        cells = [f"{row[name]:.4f} ({row[name] / result['sides'][PLAIN][name]:.2f} x)" for name in names]
        print(f"{side:44}" + "".join(f"{cell:>24}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", help="text to train on and to read (default: the demo's)")
    parser.add_argument(
        "--model", type=Path, help="folder of the denoiser: read if it is there, else trained and kept there"
    )
    parser.add_argument("--steps", type=int, default=400, help="training steps")
    parser.add_argument("--draws", type=int, default=80, help="of each loss; a quarter of them of each gradient")
    parser.add_argument("--toy", action="store_true", help="a tiny network, few draws, nothing kept: to try this out")
    given = parser.parse_args()
    flags: dict[str, Any] = {} if given.dataset is None else {"dataset": given.dataset}
    if given.toy:
        flags |= {"dataset": "markov", "block_size": 33, "hidden_size": 32, "num_hidden_layers": 1}
        flags |= {"num_attention_heads": 2}
        given.steps, given.draws = 10, 24
    settings = load_settings("demo", flags)
    tokenizer = load_tokenizer(settings.data.tokenizer)
    data = texts.prepare_data(settings.data, tokenizer)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    start = time.perf_counter()
    model = trained(given, settings, tokenizer, data.train, device).eval()
    seconds = {"training": time.perf_counter() - start}
    held_out = Reader(model, tokenizer, data.eval.select(range(min(len(data.eval), 256))))
    few = Reader(model, tokenizer, data.eval.select(range(min(len(data.eval), 64))))
    table = {}
    for name, noise in sides(tokenizer.mask_token_id).items():
        begin = time.perf_counter()
        table[name] = {
            "sequences": FORWARDS // noise.reads,
            "loss_std_fresh": held_out.spread(noise, True, given.draws),
            "loss_std_fixed": held_out.spread(noise, False, given.draws),
            "gradient_noise_fresh": held_out.gradient_noise(noise, True, given.draws // 4),
            "gradient_noise_fixed": held_out.gradient_noise(noise, False, given.draws // 4),
            "evaluation_stderr": few.standard_error(noise, given.draws),
        }
        seconds[name] = time.perf_counter() - begin
    result = {
        "data": settings.data.dataset,
        "parameters": model.num_parameters(),
        "nats_per_token": few.nats_per_token(MaskedDiffusionObjective(tokenizer.mask_token_id)),
        "forwards": FORWARDS,
        "draws": given.draws,
        "relative_error_of_a_standard_deviation": 1 / math.sqrt(2 * (given.draws - 1)),
        "evaluated_sequences": few.size,
        "sides": table,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }
    print_table(result)
    if given.toy:
        return
    write("noise_variance", result, claims(result))


if __name__ == "__main__":
    main()
