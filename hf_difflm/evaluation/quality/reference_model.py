"""A causal LM that judges texts, with its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ...data.text_ids import TextIds
from ...errors import UserError, first_line
from ...models.backbones.check import verdict_on
from ...models.backbones.sentences import refuse_unfit
from ...models.hub_source import hub_folder
from ...models.untrusted import refuse_unsafe


@dataclass(frozen=True)
class ReferenceModel:
    """A causal LM ready to judge.

    Attributes:
        model: in evaluation mode.
        tokenizer: its own; texts are encoded with it whatever wrote them.
        name: what to call it.
    """

    model: Any
    tokenizer: Any
    name: str

    @property
    def first_token(self) -> int | None:
        """Id that every text starts with (BOS, else EOS as in GPT-2); None where the tokenizer has neither."""
        return TextIds.of(self.tokenizer, trained_here=True).start_token_id

    def encode(self, text: str) -> list[int]:
        """Ids of a text without special tokens; what has no UTF-8 becomes U+FFFD."""
        return TextIds.of(self.tokenizer, trained_here=True).letters(text)

    def limit(self) -> int | None:
        """Return how many tokens the model takes; None where it does not say."""
        return getattr(self.model.config, "max_position_embeddings", None)

    def batches(
        self, rows: Sequence[list[int]], batch_size: int
    ) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """Yield (places in ``rows``, ids (B, L), attention mask (B, L)), the longest rows first, padded on the right."""
        order = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            longest = len(rows[places[0]])
            # A causal LM does not see what follows: any id will do as padding.
            ids_BL = torch.tensor([rows[place] + [0] * (longest - len(rows[place])) for place in places])
            mask_BL = torch.tensor([[1] * len(rows[place]) + [0] * (longest - len(rows[place])) for place in places])
            yield places, ids_BL.to(self.model.device), mask_BL.to(self.model.device)


def load_reference(name: str, device: torch.device | str = "cpu") -> ReferenceModel:
    """Load a causal LM and its tokenizer from a folder or the Hub; in float32, for its perplexity is told as exact.

    Raises:
        UserError: it cannot be loaded as a causal LM, or reads the token that it predicts.
    """
    with _loading(name):
        place = _causal_place(name)
        model: Any = AutoModelForCausalLM.from_pretrained(
            place, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    return ReferenceModel(model.to(device).eval(), tokenizer, name)


def check_reference(name: str) -> None:
    """Find out, before anything is trained, whether there is such a model; its weights are downloaded, but not loaded.

    Raises:
        UserError: there is none, or it is no causal LM.
    """
    with _loading(name):
        _causal_place(name)


def _causal_place(name: str) -> Path:
    """The folder of the model; raises ValueError where it is of another kind, UserError where it reads ahead."""
    place = _place(name)
    config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"it is a {config.model_type} model")
    if (verdict := verdict_on(config, causal=True, whole=False)) is not None:
        refuse_unfit(verdict)
    return place


def _place(name: str) -> Path:
    """The folder of the model: of a run that of its best weights, of a name on the Hub the one it was downloaded to."""
    best, folder = Path(name) / "best", Path(name)
    if (best / "config.json").exists():
        folder = best
    elif not folder.exists():
        return hub_folder(name)
    refuse_unsafe(folder, name)
    return folder


@contextmanager
def _loading(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the reference model {name!r} cannot be loaded as a causal LM ({first_line(error)}); give a run, a model folder "
            "or a Hub name"
        ) from error
