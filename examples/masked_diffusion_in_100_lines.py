"""Masked diffusion language modelling in one file of plain torch; docs/in-one-file.md walks through it."""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

# Shapes: B sequences of L tokens, V kinds of token and the mask, whose id comes after theirs; D width, H heads of C channels.
B, L, V, D, H, LAYERS = 64, 64, 8, 64, 4, 2
MASK = V


# ---- 1. The forward process: how many tokens are hidden, and which ---------------------------------------------------
# Of L tokens k are replaced by the mask: k is uniform on 1..L, and the hidden set is uniform among all sets of k tokens
# (any-order view: arXiv 2110.02037). The time t that the papers draw is the share k / L, up to chance.


def counts(B: int, L: int) -> torch.Tensor:
    # (B,) k, stratified: u_j = (U + j/B) mod 1 with one U for the whole batch. Each k is uniform by itself, and every batch
    # has few and many hidden tokens in equal parts, so its loss varies less. With B = L each count comes exactly once.
    u_B = (torch.rand((), dtype=torch.float64) + torch.arange(B, dtype=torch.float64) / B) % 1
    return 1 + (u_B * L).long()


def masks(k_B: torch.Tensor, L: int) -> torch.Tensor:
    # (B, L) bool: random numbers, sorted, give a uniform permutation, and its k smallest are in a uniform set of k places.
    order_BL = torch.rand(len(k_B), L).argsort(-1)
    return order_BL < k_B[:, None]


# ---- 2. The denoiser, under SUBS (MDLM, arXiv 2406.07524, section 3.2.3) ---------------------------------------------


def log_mu(network: nn.Module, z_BL: torch.Tensor) -> torch.Tensor:
    # (B, L, V + 1) log mu(x^i | z): the network's guess at every token of the partly hidden text z, but two things are known.
    logits_BLV = network(z_BL)
    is_mask_V = torch.arange(logits_BLV.shape[-1]) == MASK
    guessed_BLV = logits_BLV.masked_fill(is_mask_V, -torch.inf).log_softmax(-1)  # no text has a mask in it,
    copied_BLV = F.one_hot(z_BL, logits_BLV.shape[-1]).to(logits_BLV.dtype).log()  # and a visible token is what it is
    return torch.where((z_BL == MASK)[..., None], guessed_BLV, copied_BLV)


# ---- 3. The bound: what is minimised and what is reported ------------------------------------------------------------
# NELBO(x) = L E_k E_M [ (1/k) sum_{i in M} -log mu(x^i | z) ] >= -log p(x), M being the k hidden places
# (arXiv 2406.03736, eq. 2.6). It is MDLM's integral of 1/t sum_{i hidden} -log mu over t, without a small t to divide by.


def nelbo(network: nn.Module, x_BL: torch.Tensor, masked_BL: torch.Tensor) -> torch.Tensor:
    # (B,) an unbiased estimate for each text, in nats per token: (1/L) (L/k) sum -log mu.
    z_BL = x_BL.masked_fill(masked_BL, MASK)
    nll_BL = -log_mu(network, z_BL).gather(-1, x_BL[..., None]).squeeze(-1)  # 0 where x is visible: SUBS copies it
    # The mean over the hidden tokens of each text; one mean over all hidden tokens of the batch would be another number.
    return nll_BL.sum(-1) / masked_BL.sum(-1)


@torch.no_grad()
def evaluate(network: nn.Module, source: Markov, replicates: int) -> tuple[float, float]:
    # The bound and its standard error. Replicates, with texts and masks of their own, are independent and unbiased, so their
    # spread says how far off the mean may be. Each call draws the same ones, and disturbs no numbers that training draws.
    with torch.random.fork_rng():
        torch.manual_seed(1)
        drawn = [(source.draw(B, L), masks(counts(B, L), L)) for _ in range(replicates)]
    bound_K = torch.stack([nelbo(network, x_BL, masked_BL).mean() for x_BL, masked_BL in drawn])
    return bound_K.mean().item(), (bound_K.std() / replicates**0.5).item()


def train(network: nn.Module, source: Markov, steps: int) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 50, 1 - step / steps))
    for step in range(1, steps + 1):
        loss = nelbo(network, source.draw(B, L), masks(counts(B, L), L)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step == 1 or step % max(steps // 6, 1) == 0:
            bound, stderr = evaluate(network, source, replicates=16)
            print(f"step {step:4d}   bound {bound:.3f} ± {stderr:.3f}   limit {source.entropy(L):.3f}", flush=True)


# ---- 4. The sampler: the process backwards, from nothing but masks ---------------------------------------------------
# First hitting (arXiv 2409.02908): in continuous time no two tokens appear at once, and they appear in a uniform order,
# whatever is drawn. One a forward is exact: such texts have the very p(x) whose -log the NELBO bounds. Several together are
# drawn as if they were independent: fewer forwards, and worse texts.


@torch.no_grad()
def sample(network: nn.Module, B: int, L: int, together: int = 1) -> torch.Tensor:
    z_BL = torch.full((B, L), MASK)
    order_BL = torch.rand(B, L).argsort(-1)  # in which the tokens of each text appear
    for first in range(0, L, together):
        mu_NV = log_mu(network, z_BL).double().exp().flatten(0, 1)
        drawn_BL = torch.multinomial(mu_NV, num_samples=1).view(B, L)
        z_BL = torch.where((order_BL >= first) & (order_BL < first + together), drawn_BL, z_BL)
    return z_BL


# ---- 5. What it is tried on: a transformer that reads in both directions ... -----------------------------------------


class Denoiser(nn.Sequential):
    # Takes no time: which tokens are hidden has nothing to do with x, so p(x^i | z) is the same at all times (2406.03736).
    def __init__(self) -> None:
        blocks = [Block() for _ in range(LAYERS)]
        super().__init__(nn.Embedding(V + 1, D), *blocks, nn.LayerNorm(D), nn.Linear(D, V + 1))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(D), nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.mlp = nn.Sequential(nn.LayerNorm(D), nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D))

    def forward(self, h_BLD: torch.Tensor) -> torch.Tensor:
        q_BHLC, k_BHLC, v_BHLC = self.qkv(self.norm(h_BLD)).unflatten(-1, (3, H, D // H)).permute(2, 0, 3, 1, 4)
        # is_causal is False: every place sees every other. A causal language model differs in this word and its targets.
        seen_BHLC = F.scaled_dot_product_attention(rotate(q_BHLC), rotate(k_BHLC), v_BHLC, is_causal=False)
        h_BLD = h_BLD + self.out(seen_BHLC.transpose(1, 2).flatten(2))
        return h_BLD + self.mlp(h_BLD)


def rotate(x_BHLC: torch.Tensor) -> torch.Tensor:
    # Rotary positions (arXiv 2104.09864): attention sees how far apart two places are. 100 is enough for short texts.
    length, half = x_BHLC.shape[-2], x_BHLC.shape[-1] // 2
    angle = torch.arange(length)[:, None] * 100.0 ** (-torch.arange(half) / half)
    a, b = x_BHLC.chunk(2, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)


# ---- ... and texts whose entropy is known ----------------------------------------------------------------------------


class Markov:
    # Eight letters, each drawn given the one before it: the chain of hf_difflm's data set `markov`.
    def __init__(self) -> None:
        logits_VV = torch.from_numpy(np.random.Generator(np.random.Philox(1)).standard_normal((V, V)))
        self.next_VV = (1.29 * logits_VV).softmax(-1)
        self.first_V = torch.linalg.matrix_power(self.next_VV, 1000)[0]  # the stationary distribution

    def draw(self, B: int, L: int) -> torch.Tensor:
        letters = [torch.multinomial(self.first_V, B, replacement=True)]
        while len(letters) < L:
            letters.append(torch.multinomial(self.next_VV[letters[-1]], num_samples=1).squeeze(-1))
        return torch.stack(letters, dim=-1)

    def nll(self, x_BL: torch.Tensor) -> torch.Tensor:
        # (B,) exact, in nats per token
        log_p_BL = torch.cat([self.first_V[x_BL[:, :1]], self.next_VV[x_BL[:, :-1], x_BL[:, 1:]]], dim=-1).log()
        return -log_p_BL.mean(-1)

    def entropy(self, L: int) -> float:
        # Nats per token of a text of L tokens: no bound is below. The first token has none before it, so this is a little
        # more than the entropy rate, to which it falls as L grows.
        first, later = torch.special.entr(self.first_V).sum(), self.first_V @ torch.special.entr(self.next_VV).sum(-1)
        return ((first + (L - 1) * later) / L).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400, help="optimiser steps; 400 take about a minute")
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    source, network, start = Markov(), Denoiser(), time.perf_counter()
    print(f"nats per token: entropy rate {source.entropy(10**9):.3f}; of texts of {L} tokens {source.entropy(L):.3f}")
    train(network, source, steps)
    print(f"trained in {time.perf_counter() - start:.0f} s")
    bound, stderr = evaluate(network, source, replicates=128)
    print(f"at the end  bound {bound:.3f} ± {stderr:.3f}   limit {source.entropy(L):.3f}")
    for together in (1, 8, L):
        x_BL = sample(network, 128, L, together)
        nll_B = source.nll(x_BL)  # an IndexError if a mask were left
        print(f"{together:2d} together: nll under the source {nll_B.mean():.3f} ± {nll_B.std() / 128**0.5:.3f}, e.g.")
        print("  " + "".join("abcdefgh"[letter] for letter in x_BL[0]))


if __name__ == "__main__":
    main()
