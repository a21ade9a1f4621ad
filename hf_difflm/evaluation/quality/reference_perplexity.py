"""How likely a reference causal LM finds texts - and how varied they are, without which that says nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ...errors import UserError
from .reference_model import ReferenceModel
from .text_statistics import unigram_entropy


@dataclass(frozen=True)
class ReferencePerplexity:
    """Perplexity and unigram entropy of texts, which belong together.

    Text that says the same few tokens over and over has a low perplexity under any language model: sharper sampling
    lowers the perplexity and the entropy at once (arXiv 2409.02908), so the one without the other misleads.

    Attributes:
        perplexity: exp of the mean nats per scored token; None where no token was scored.
        unigram_entropy: nats, of the tokens of each text by the reference's tokenizer, the mean over texts that have any.
        nats: total negative log-likelihood of the scored tokens.
        tokens: how many were scored.
        first_token_scored: whether the first token of a text without context counts; it has no probability where the
            tokenizer has neither BOS nor EOS to begin with.
        reference: name of the model.
    """

    perplexity: float | None
    unigram_entropy: float | None
    nats: float
    tokens: int
    first_token_scored: bool
    reference: str

    def as_dict(self) -> dict[str, str | float | None]:
        """Return perplexity, entropy and model as the run log has them."""
        return {
            "reference_perplexity": self.perplexity,
            "reference_entropy": self.unigram_entropy,
            "reference_model": self.reference,
        }

    def __str__(self) -> str:
        if self.perplexity is None or self.unigram_entropy is None:
            return f"reference perplexity unknown: no token to score under {self.reference}"
        return (
            f"reference perplexity {self.perplexity:.2f} at unigram entropy {self.unigram_entropy:.2f} nats "
            f"({self.tokens} tokens under {self.reference})"
        )


def reference_perplexity(
    texts: Sequence[str], reference: ReferenceModel, *, contexts: Sequence[str] | None = None, batch_size: int = 8
) -> ReferencePerplexity:
    """Return perplexity and entropy of all texts together; each token weighs the same."""
    return pooled(reference_perplexities(texts, reference, contexts=contexts, batch_size=batch_size), reference.name)


@torch.no_grad()
def reference_perplexities(
    texts: Sequence[str], reference: ReferenceModel, *, contexts: Sequence[str] | None = None, batch_size: int = 8
) -> list[ReferencePerplexity]:
    """Return perplexity and entropy of each text.

    A text begins after BOS (or EOS, where there is no BOS) and its context, and only its own tokens are scored; text
    and context are encoded apart. A text longer than the model takes is read in windows that overlap by half. No random
    number is drawn.

    Args:
        texts: any strings; empty ones have no perplexity.
        reference: see :func:`load_reference`.
        contexts: what each text goes on from, e.g. its prompt.
        batch_size: windows a forward.

    Raises:
        UserError: contexts and texts differ in number, or batch_size is below 1.
    """
    contexts = [""] * len(texts) if contexts is None else contexts
    if len(contexts) != len(texts):
        raise UserError(f"there are {len(texts)} texts but {len(contexts)} contexts; give one for each")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; give at least 1")
    start = [] if reference.first_token is None else [reference.first_token]
    own = [reference.encode(text) for text in texts]
    before = [start + reference.encode(context) for context in contexts]
    windows: list[list[int]] = []
    scored: list[tuple[int, int]] = []  # which text, and how many tokens at the end of the window count
    for place in range(len(texts)):
        for ids, count in _windows(before[place], own[place], reference.limit()):
            windows.append(ids)
            scored.append((place, count))
    nats, tokens = [0.0] * len(texts), [0] * len(texts)
    for places, ids_BL, mask_BL in reference.batches(windows, batch_size):
        logits_BLV = reference.model(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False).logits[:, :-1]
        nll_BL = F.cross_entropy(logits_BLV.float().transpose(1, 2), ids_BL[:, 1:], reduction="none").double().cpu()
        for row, window in enumerate(places):
            text, count = scored[window]
            end = len(windows[window]) - 1
            nats[text] += float(nll_BL[row, end - count : end].sum())
            tokens[text] += count
    return [
        ReferencePerplexity(
            perplexity=_perplexity(nats[place], tokens[place]),
            unigram_entropy=unigram_entropy(own[place]),
            nats=nats[place],
            tokens=tokens[place],
            first_token_scored=bool(start),
            reference=reference.name,
        )
        for place in range(len(texts))
    ]


def pooled(singles: Sequence[ReferencePerplexity], reference: str) -> ReferencePerplexity:
    """Return what several texts have together: perplexity weighted by tokens, entropy the mean over texts."""
    nats, tokens = math.fsum(single.nats for single in singles), sum(single.tokens for single in singles)
    entropies = [single.unigram_entropy for single in singles if single.unigram_entropy is not None]
    return ReferencePerplexity(
        perplexity=_perplexity(nats, tokens),
        unigram_entropy=math.fsum(entropies) / len(entropies) if entropies else None,
        nats=nats,
        tokens=tokens,
        first_token_scored=all(single.first_token_scored for single in singles),
        reference=reference,
    )


def _perplexity(nats: float, tokens: int) -> float | None:
    if not tokens:
        return None
    mean = nats / tokens
    return math.exp(mean) if mean < 700 else math.inf


def _windows(before: list[int], own: list[int], limit: int | None) -> list[tuple[list[int], int]]:
    """Cut one text into (ids, tokens at their end that are scored); the first token of all is not scored."""
    ids = before + own
    count = len(own) if before else len(own) - 1
    if count < 1:
        return []
    if limit is None or len(ids) <= limit:
        return [(ids, count)]
    windows = []
    done = len(ids) - count
    while done < len(ids):
        # The first window is full, each that follows goes on by half its length.
        end = min(max(limit, done + max(limit // 2, 1)), len(ids))
        windows.append((ids[max(end - limit, 0) : end], end - done))
        done = end
    return windows
