"""A trained model, on the sequences of a small alphabet: its predictions as a table, all other tokens being one outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...errors import UserError
from ...objectives import BlockDiffusionObjective, CausalObjective, MaskedDiffusionObjective, NoiseKey
from ..targets import Target
from .examination import Examination, sampler_test
from .kraft import judge, kraft_sums
from .masks import block_numbers, masks_of
from .numbers import ObjectiveNumber
from .subjects import (
    LEFT_TO_RIGHT,
    RANDOM_ORDER,
    Size,
    block_law,
    left_to_right_law,
    random_order_law,
    sampler_in_blocks,
)
from .tabular import (
    TabularBlockDenoisers,
    TabularCausalModels,
    TabularDenoisers,
    all_sequences,
    state_numbers,
)

MOST_READINGS = 65_536
_ROWS_AT_ONCE = 64
_ROUNDING = 1e-4  # of a sum, as a share: the objective computes in float32


@dataclass(frozen=True)
class Alphabet:
    """The tokens that sequences are made of.

    Args:
        text: its tokens, each once; or
        most_frequent: so many tokens to which the model gives most probability at the first place of a text.
    """

    text: str | None = None
    most_frequent: int | None = None

    def ids(self, target: Target) -> list[int]:
        """The ids, ascending.

        Raises:
            UserError: fewer than two.
        """
        if self.text is not None:
            found = sorted(set(target.tokenizer(self.text, add_special_tokens=False)["input_ids"]))
            if len(found) < 2:
                raise UserError(
                    f"--alphabet {self.text!r} has fewer than two different tokens; give a text that has more"
                )
            return found
        wanted = self.most_frequent or 2
        mask = target.model.config.mask_token_id if target.is_denoiser else None
        log_p_V = _first_token(target)
        if mask is not None:
            log_p_V[mask] = -torch.inf
        if not 2 <= wanted <= len(log_p_V) - 1:
            raise UserError(
                f"--most-frequent must be 2 or more and fewer than the {len(log_p_V)} tokens there are, got {wanted}"
            )
        return sorted(log_p_V.topk(wanted).indices.tolist())


def audit_checkpoint(target: Target, alphabet: Alphabet, length: int) -> Examination:
    """Audit what evaluations report of a model, on all sequences of L tokens of an alphabet after BOS.

    Args:
        target: the model.
        alphabet: its V tokens.
        length: L.

    Raises:
        UserError: no two tokens, or too many sequences.
    """
    ids_V = alphabet.ids(target)
    size = Size(len(ids_V), length, denoisers=1)
    readings = size.states if target.is_denoiser else size.sequences
    if readings > MOST_READINGS:
        what = "partly masked sequences" if target.is_denoiser else "sequences"
        raise UserError(
            f"{len(ids_V)} tokens and --length {length} make {readings:,} {what}, more than {MOST_READINGS:,}; give fewer"
        )
    about = "eval_nll of a masked diffusion model (p0)" if target.is_denoiser else "eval_nll of a causal model"
    if target.is_denoiser and (tokens := target.model.config.diffusion_block_size) is not None:
        about = f"eval_nll of a block diffusion model (bd3lm:{tokens})"
        objective = BlockDiffusionObjective(
            target.model.config.mask_token_id,
            tokens,
            diffusion_block_start=target.model.config.diffusion_block_start,
        )
        values_1DS = _block_values(target, objective, ids_V, length)
        blocks_L = block_numbers(objective, length, _context(target))
        law_DS = block_law(_block_tables(target, blocks_L, ids_V), blocks_L)
        sampler = sampler_test(sampler_in_blocks(objective), law_DS, values_1DS)
    elif target.is_denoiser:
        model = _denoiser_tables(target, ids_V, length)
        values_1DS = ObjectiveNumber(MaskedDiffusionObjective(size.vocabulary), size.all_sequences()).values(model)
        sampler = sampler_test(RANDOM_ORDER, random_order_law(model), values_1DS)
    else:
        if _start(target) is None:
            raise UserError(f"{target.source} has no BOS to predict a first token from; an audit of it needs one")
        values_1DS = _causal_values(target, ids_V, length)
        law_DS = left_to_right_law(_causal_tables(target, ids_V, length))
        sampler = sampler_test(LEFT_TO_RIGHT, law_DS, values_1DS)
    sums = kraft_sums(values_1DS, 1)
    tokens = target.tokenizer.convert_ids_to_tokens(ids_V)
    notes = (
        f"alphabet: {' '.join(map(repr, tokens))}; all other tokens are one outcome, which none of these sequences has",
        "one-sided: a sum above 1 refutes the number; a smaller one tells of this model and these sequences alone, where a "
        f"bound on the nll of its sampler sums to {sampler.most:.3g} at most",
    )
    untold = None
    if sums[0].value > sampler.most * (1 + _ROUNDING):
        untold = (
            f"the sum is above the {sampler.most:.3g} that the sampler gives these sequences, so it is no bound on the nll "
            "of that sampler, and may be one on another's; give an alphabet that holds more"
        )
    verdict = judge(sums, size.sequences, untold)
    return Examination(target.source, about, size, True, {"given": sums}, None, sampler, verdict, notes)


def _denoiser_tables(target: Target, ids_V: list[int], length: int) -> TabularDenoisers:
    size, mask = len(ids_V), target.model.config.mask_token_id
    states_ZL = all_sequences(length, size + 1)
    real_ZL = torch.tensor([*ids_V, mask])[states_ZL]
    table_ZLW = torch.zeros(len(states_ZL), length, size + 1, dtype=torch.float64)
    for first in range(0, len(states_ZL), _ROWS_AT_ONCE):
        rows = real_ZL[first : first + _ROWS_AT_ONCE]
        logits_BLV = _logits(target, rows)
        table_ZLW[first : first + len(rows)] = _restricted(logits_BLV[:, -length:], ids_V)
    return TabularDenoisers(table_ZLW[None, None], vocabulary=size)


def _block_tables(target: Target, blocks_L: np.ndarray, ids_V: list[int]) -> TabularBlockDenoisers:
    """Each block's distributions from the clean blocks before it and what is shown of it: nothing after it is read at all."""
    size, length = len(ids_V), len(blocks_L)
    real_V = torch.tensor([*ids_V, target.model.config.mask_token_id])
    table_ZLW = torch.zeros((size + 1) ** length, length, size + 1, dtype=torch.float64)
    for number in np.unique(blocks_L):
        first, own = int((blocks_L < number).sum()), int((blocks_L == number).sum())
        before, here = all_sequences(first, size), all_sequences(own, size + 1)
        rows_PX = torch.from_numpy(np.hstack([before.repeat(len(here), 0), np.tile(here, (len(before), 1))]))
        states_P = state_numbers(F.pad(rows_PX, (0, length - first - own), value=size), size)
        for start in range(0, len(rows_PX), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            logits_BLV = _logits(target, real_V[rows_PX[rows]])
            table_ZLW[states_P[rows], first : first + own] = _restricted(logits_BLV[:, -own:], ids_V)
    return TabularBlockDenoisers(table_ZLW[None, None], blocks_L, vocabulary=size)


def _block_values(target: Target, objective: BlockDiffusionObjective, ids_V: list[int], length: int) -> np.ndarray:
    """(1, 1, S) what the objective says of the model on whole sequences, every mask in turn."""
    context = _context(target)
    sequences_SL = all_sequences(length, len(ids_V))
    masks = masks_of(objective, sequences_SL, context=context)
    assert masks is not None
    ids_SL, found, cases = torch.tensor(ids_V)[torch.from_numpy(sequences_SL)], [], len(masks.u_C)
    at_once = max(1, _ROWS_AT_ONCE // cases)
    for first in range(0, len(ids_SL), at_once):
        ids_BL = ids_SL[first : first + at_once].repeat_interleave(cases, 0)
        batch = {
            "input_ids": F.pad(ids_BL, (context, 0), value=_start(target) or 0),
            "labels": F.pad(ids_BL, (context, 0), value=-100),
        }
        with torch.no_grad():
            output = objective(target.model, batch, masks.key(len(ids_BL) // cases), 1, target.model.device)
        costs_N = output.token_weights_N * output.token_nll_N.double().cpu().numpy()
        found.append(np.bincount(output.rows_N, costs_N, minlength=len(ids_BL)).reshape(-1, cases) @ masks.chance_SC[0])
    return np.concatenate(found)[None, None]


def _causal_tables(target: Target, ids_V: list[int], length: int) -> TabularCausalModels:
    """Each token's distribution from what comes before it alone: a model that reads ahead finds nothing there."""
    size = len(ids_V)
    table_ZLW = torch.zeros((size + 1) ** length, length, size + 1, dtype=torch.float64)
    for place in range(length):
        before_PC = torch.from_numpy(all_sequences(place, size)).reshape(size**place, place)
        states_P = state_numbers(F.pad(before_PC, (0, length - place), value=size), size)
        for first in range(0, len(before_PC), _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            logits_BLV = _logits(target, torch.tensor(ids_V)[before_PC[rows]])
            table_ZLW[states_P[rows], place] = _restricted(logits_BLV[:, -1:], ids_V)[:, 0]
    return TabularCausalModels(table_ZLW[None, None], vocabulary=size)


def _causal_values(target: Target, ids_V: list[int], length: int) -> np.ndarray:
    """(1, 1, S) what the causal objective says of the model on whole sequences."""
    ids_SL = torch.tensor(ids_V)[torch.from_numpy(all_sequences(length, len(ids_V)))]
    found = []
    for first in range(0, len(ids_SL), _ROWS_AT_ONCE):
        ids_BL = ids_SL[first : first + _ROWS_AT_ONCE]
        batch = {
            "input_ids": F.pad(ids_BL, (1, 0), value=_start(target)),
            "labels": F.pad(ids_BL, (1, 0), value=-100),
        }
        key = NoiseKey(0, 0, np.arange(len(ids_BL)), len(ids_BL), "eval")
        with torch.no_grad():
            output = CausalObjective()(target.model, batch, key, 1, target.model.device)
        found.append(np.bincount(output.rows_N, output.token_nll_N.double().cpu().numpy(), minlength=len(ids_BL)))
    return np.concatenate(found)[None, None]


def _restricted(logits_BLV: torch.Tensor, ids_V: list[int]) -> torch.Tensor:
    """(B, L, V + 1) log-probabilities of the alphabet and of all else."""
    log_p_BLV = logits_BLV.double().cpu().log_softmax(-1)
    kept_BLV = log_p_BLV[..., ids_V]
    log_p_BLV[..., ids_V] = -torch.inf
    return torch.cat([kept_BLV, log_p_BLV.logsumexp(-1, keepdim=True)], dim=-1)


def _first_token(target: Target) -> torch.Tensor:
    if target.is_denoiser:
        mask = target.model.config.mask_token_id
        return _logits(target, torch.full((1, 1), mask))[0, -1].double().cpu().log_softmax(-1)
    return _logits(target, torch.zeros((1, 0), dtype=torch.int64))[0, -1].double().cpu().log_softmax(-1)


@torch.no_grad()
def _logits(target: Target, ids_BL: torch.Tensor) -> torch.Tensor:
    """(B, 1 + L, vocabulary) after BOS, or (B, L, vocabulary) of a model without."""
    start = _start(target)
    rows = ids_BL if start is None else F.pad(ids_BL, (1, 0), value=start)
    given = {}
    if target.is_denoiser and target.model.config.diffusion_block_start == "answer":
        given["answer_starts"] = torch.full((len(rows),), _context(target)).to(target.model.device)
    outputs: Any = target.model(input_ids=rows.to(target.model.device), **given)
    return outputs.logits


def _context(target: Target) -> int:
    """Tokens before a text."""
    return int(_start(target) is not None)


def _start(target: Target) -> int | None:
    return target.text.bos_token_id if target.is_denoiser else target.text.start_token_id
