"""MAUVE: how close the distribution of generated texts is to that of real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...errors import UserError
from .reference_model import ReferenceModel

_FEWEST = 2  # texts a side; fewer have no distribution


@dataclass(frozen=True)
class MauveScore:
    """MAUVE of Pillutla et al. 2021 (arXiv 2102.01454), and what it depends on.

    Attributes:
        mauve: in (0, 1]; 1 where the two cannot be told apart.
        generated, real: number of texts; the score means little below about a thousand of each.
        num_buckets: clusters the features were quantised to.
        reference: name of the model whose hidden states are the features; scores under other models do not compare.
    """

    mauve: float
    generated: int
    real: int
    num_buckets: int
    reference: str

    def __str__(self) -> str:
        return (
            f"MAUVE {self.mauve:.4f} ({self.generated} generated and {self.real} real texts, {self.num_buckets} buckets, "
            f"features of {self.reference})"
        )


def mauve_score(
    generated: Sequence[str], real: Sequence[str], reference: ReferenceModel, *, batch_size: int = 8, seed: int = 25
) -> MauveScore:
    """Compare generated texts with real ones.

    Args:
        generated: what a model wrote.
        real: texts of the same kind and length.
        reference: its hidden states are the features; see :func:`text_features`.
        batch_size: texts a forward.
        seed: of the clustering; no global random number is drawn.

    Raises:
        UserError: the package ``mauve-text`` is missing, or a side has fewer than two texts.
    """
    if min(len(generated), len(real)) < _FEWEST:
        raise UserError(
            f"MAUVE compares distributions, but there are {len(generated)} generated and {len(real)} real texts; give "
            f"at least {_FEWEST} of each, better a thousand"
        )
    try:
        from mauve import compute_mauve
    except ImportError as error:
        raise UserError("MAUVE needs the package mauve-text; pip install 'hf_difflm[eval]'") from error
    found = compute_mauve(
        p_features=text_features(generated, reference, batch_size=batch_size),
        q_features=text_features(real, reference, batch_size=batch_size),
        seed=seed,
        verbose=False,
    )
    return MauveScore(float(found.mauve), len(generated), len(real), int(found.num_buckets), reference.name)


@torch.no_grad()
def text_features(texts: Sequence[str], reference: ReferenceModel, *, batch_size: int = 8) -> np.ndarray:
    """Return (texts, width) float32: the last hidden state at the last token of each text, cut to the model's length.

    Raises:
        UserError: an empty text, and the reference's tokenizer has neither BOS nor EOS.
    """
    start = [] if reference.first_token is None else [reference.first_token]
    rows = [(start + reference.encode(text))[: reference.limit()] for text in texts]
    if not all(rows):
        raise UserError("an empty text has no features under a tokenizer without BOS and EOS; leave it out")
    features: dict[int, np.ndarray] = {}
    for places, ids_BL, mask_BL in reference.batches(rows, batch_size):
        output = reference.model(input_ids=ids_BL, attention_mask=mask_BL, output_hidden_states=True, use_cache=False)
        last_B = mask_BL.sum(-1) - 1
        hidden_BD = output.hidden_states[-1][torch.arange(len(places), device=last_B.device), last_B]
        features.update(zip(places, hidden_BD.float().cpu().numpy(), strict=True))
    return np.stack([features[place] for place in range(len(rows))])
