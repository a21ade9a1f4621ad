"""What can be audited: a number, the loss whose optimum it is looked at, and the sampler that belongs to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ...errors import UserError
from ...objectives import BlockDiffusionObjective
from .masks import block_numbers, time_nodes
from .numbers import Number, ObjectiveNumber
from .reverse_process import sampler_law
from .tabular import (
    TabularBlockDenoisers,
    TabularCausalModels,
    TabularDenoisers,
    TabularRateHead,
    all_sequences,
    state_numbers,
)

RANDOM_ORDER = "random order, one token at a time"
LEFT_TO_RIGHT = "left to right"
MOST_ENTRIES = 30_000_000
NODES = 12
"""Times that a denoiser which reads the time has tables for."""


@dataclass(frozen=True)
class Subject:
    """A number under audit.

    Args:
        training: whose loss the denoisers are trained to the optimum of.
        reported: whose sums are taken.
        sampler: what the sampler of its bound is called.
        law: (D, S) the probabilities of that sampler, of denoisers that have been read; None: exp(-number).
        reads_time: whether its denoisers read the time.
        causal: whether they are causal models.
        blocks_L: (L,) the diffusion block that each position is in, of models that have such.
        rate_head: what leaves the mask, of P3.
        name: what it is called.
        about: what it is, in a few words.
        notes: what else is to be said of the audit.
    """

    training: ObjectiveNumber
    reported: Number
    sampler: str
    law: Callable[[TabularDenoisers], np.ndarray] | None = None
    reads_time: bool = False
    causal: bool = False
    blocks_L: np.ndarray | None = None
    rate_head: TabularRateHead | None = None
    name: str = ""
    about: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Size:
    """How large an audit is.

    Args:
        vocabulary, length: V and L.
        denoisers: D, trained ones; and as many random ones.
        seed: of sources, random denoisers, orders and schedules.
        tokens_per_step: K of the exact orders, as ``eval --tokens-per-step`` has it.
    """

    vocabulary: int = 2
    length: int = 4
    denoisers: int = 20
    seed: int = 0
    tokens_per_step: str = "1"

    @property
    def sequences(self) -> int:
        """V^L."""
        return self.vocabulary**self.length

    def all_sequences(self) -> np.ndarray:
        """(V^L, L)."""
        return all_sequences(self.length, self.vocabulary)

    @property
    def states(self) -> int:
        """(V + 1)^L partly masked sequences."""
        return (self.vocabulary + 1) ** self.length


def random_tables(size: Size, subject: Subject) -> TabularDenoisers:
    """D denoisers that fit nothing: distributions from Dirichlet(1); where they read the time, they change with it.

    Raises:
        UserError: the tables would be too large.
    """
    entries = size.denoisers * size.states * size.length * size.vocabulary * (NODES if subject.reads_time else 1)
    if entries > MOST_ENTRIES:
        raise UserError(
            f"--vocabulary {size.vocabulary}, --length {size.length} and {size.denoisers} denoisers make tables of "
            f"{entries:,} numbers, more than {MOST_ENTRIES:,}; give fewer of them"
        )
    generator = np.random.default_rng([size.seed, 1])
    shape = (size.denoisers, 1, size.states, size.length)
    logits = np.log(generator.dirichlet(np.ones(size.vocabulary), shape))
    if subject.blocks_L is not None:
        return TabularBlockDenoisers(torch.from_numpy(logits), subject.blocks_L)
    if not subject.reads_time:
        kind = TabularCausalModels if subject.causal else TabularDenoisers
        return kind(torch.from_numpy(logits))
    t_T, _ = time_nodes(NODES)
    slopes = generator.normal(size=logits.shape)
    if subject.rate_head is not None:
        r_hat = np.exp(generator.uniform(-1.3, 1.3, shape))
        s_hat = 1 - t_T[:, None, None] * (1 - r_hat)
        with torch.no_grad():
            subject.rate_head.scores_X.copy_(torch.from_numpy(np.log(s_hat).ravel()))
    return TabularDenoisers(torch.from_numpy(logits + t_T[:, None, None, None] * slopes), t_T)


def objective_subject(training: ObjectiveNumber, reported: Number | None = None) -> Subject:
    """A subject of objectives of uniform masking, in blocks or not, or of a causal one; ``reported``: what is minimised."""
    reported = reported or training
    if isinstance(training.objective, BlockDiffusionObjective):
        blocks_L = block_numbers(training.objective, training.sequences_SL.shape[1])
        sampler = sampler_in_blocks(training.objective)
        return Subject(training, reported, sampler, lambda model: block_law(model, blocks_L), blocks_L=blocks_L)
    if training.objective.name == "ar":
        return Subject(training, reported, LEFT_TO_RIGHT, left_to_right_law, causal=True)
    return Subject(training, reported, RANDOM_ORDER, random_order_law)


def sampler_in_blocks(objective: BlockDiffusionObjective) -> str:
    """What the sampler of block diffusion is called."""
    return LEFT_TO_RIGHT if objective.diffusion_block_size == 1 else f"block after block, each in {RANDOM_ORDER}"


def random_order_law(model: TabularDenoisers) -> np.ndarray:
    """(D, S) probabilities of the sampler that reveals one token at a time, at a place drawn uniformly."""
    return sampler_law(model.log_probabilities().exp().numpy(), model.vocabulary)


def block_law(model: TabularDenoisers, blocks_L: np.ndarray) -> np.ndarray:
    """(D, S) probabilities of the sampler that fills block after block, each one token at a time in random order.

    With S the masks left in a block, q_S(x) = mean over i in S of mu(x_i | S masked) q_{S - i}(x), and q of none is 1.
    """
    sequences = torch.from_numpy(all_sequences(model.length, model.vocabulary))
    mu_DZLV, law_DS = model.log_probabilities()[:, 0].exp(), torch.ones(model.count, len(sequences)).double()
    for number in np.unique(blocks_L):
        block = np.flatnonzero(blocks_L == number)
        before_SL = sequences.masked_fill(torch.from_numpy(blocks_L > number), model.mask_token_id)
        q_DS = {(): torch.ones_like(law_DS)}
        for size in range(1, len(block) + 1):
            for masked in itertools.combinations(block.tolist(), size):
                seen_SL = before_SL.clone()
                seen_SL[:, list(masked)] = model.mask_token_id
                states_S = state_numbers(seen_SL, model.vocabulary)
                ways = (
                    mu_DZLV[:, states_S, i, sequences[:, i]] * q_DS[tuple(j for j in masked if j != i)] for i in masked
                )
                q_DS[masked] = torch.stack(list(ways)).mean(0)
        law_DS *= q_DS[tuple(block.tolist())]
    return law_DS.numpy()


def left_to_right_law(model: TabularDenoisers) -> np.ndarray:
    """(D, S) probabilities of the sampler that draws each token given those before it."""
    sequences = torch.from_numpy(all_sequences(model.length, model.vocabulary))
    log_mu_DZLV = model.log_probabilities()[:, 0]
    log_p_DS = torch.zeros(model.count, len(sequences), dtype=torch.float64)
    for place in range(model.length):
        seen_SL = sequences.clone()
        seen_SL[:, place:] = model.mask_token_id
        log_p_DS += log_mu_DZLV[:, state_numbers(seen_SL, model.vocabulary), place, sequences[:, place]]
    return log_p_DS.exp().numpy()
