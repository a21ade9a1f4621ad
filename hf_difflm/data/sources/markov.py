"""A synthetic source whose exact negative log-likelihood is known: what a perfect model would score."""

from __future__ import annotations

import numpy as np
from datasets import Dataset, DatasetDict

_NUM_STATES = 8
_LOGIT_SCALE = 1.29  # with _CHAIN_SEED: an entropy rate of 1.5 nats (uniform: ln 8 = 2.08), least probability 0.0014
_CHAIN_SEED = 1
_SPLIT_SIZES = {"train": 8192, "validation": 512, "test": 512}  # documents
_FIRST_LETTER = ord("a")


class MarkovSource:
    """First-order chain over eight states (the letters a-h), started from its stationary distribution.

    The transition matrix ``transitions`` (8, 8), rows summing to 1, is a softmax of fixed Gaussian logits;
    ``stationary`` (8,) is its left eigenvector. All randomness is keyed (Philox), none of it is global.
    """

    def __init__(self) -> None:
        logits = np.random.Generator(np.random.Philox(_CHAIN_SEED)).standard_normal((_NUM_STATES, _NUM_STATES))
        unnormalised = np.exp(_LOGIT_SCALE * logits)
        self.transitions = unnormalised / unnormalised.sum(axis=1, keepdims=True)
        # pi (P - I) = 0 together with sum(pi) = 1, solved as one least-squares system.
        system = np.vstack([self.transitions.T - np.eye(_NUM_STATES), np.ones(_NUM_STATES)])
        self.stationary = np.linalg.lstsq(system, np.append(np.zeros(_NUM_STATES), 1.0), rcond=None)[0]

    def entropy_rate(self) -> float:
        """Return the entropy of the next state given the last, in nats."""
        return float(-(self.stationary[:, None] * self.transitions * np.log(self.transitions)).sum())

    def sequence_nll(self, states: np.ndarray) -> np.ndarray:
        """Return the exact negative log-likelihood in nats of whole sequences: states (..., L) of 0..7 -> (...)."""
        states = np.asarray(states)
        steps = np.log(self.transitions[states[..., :-1], states[..., 1:]]).sum(axis=-1)
        return -(np.log(self.stationary[states[..., 0]]) + steps)

    def sample(self, num_sequences: int, length: int, *, seed: int) -> np.ndarray:
        """Draw sequences of states, (num_sequences, length) of 0..7; the same seed gives the same ones."""
        uniform = np.random.Generator(np.random.Philox(seed)).random((length, num_sequences, 1))
        cumulative = self.transitions.cumsum(axis=1)
        # Inverse of the cumulative distribution; the minimum guards the last bin against rounding of its sum.
        state = np.minimum((uniform[0] > self.stationary.cumsum()).sum(axis=1), _NUM_STATES - 1)
        states = [state]
        for uniform_step in uniform[1:]:
            state = np.minimum((uniform_step > cumulative[state]).sum(axis=1), _NUM_STATES - 1)
            states.append(state)
        return np.stack(states, axis=1)


def markov_documents(source: MarkovSource, length: int) -> DatasetDict:
    """Return train, validation and test documents of exactly ``length`` letters each (column ``text``)."""
    splits = {}
    for seed, (split, num_documents) in enumerate(_SPLIT_SIZES.items(), start=1000):
        letters = (source.sample(num_documents, length, seed=seed) + _FIRST_LETTER).astype(np.uint8)
        splits[split] = Dataset.from_dict({"text": [row.tobytes().decode("ascii") for row in letters]})
    return DatasetDict(splits)


def markov_states(texts: list[str]) -> np.ndarray:
    """Return the states (N, L) behind N documents of one length."""
    letters = np.frombuffer("".join(texts).encode("ascii"), dtype=np.uint8)
    return (letters.reshape(len(texts), -1) - _FIRST_LETTER).astype(np.int64)
