"""The built-in byte-level tokenizer, and any Hugging Face tokenizer made fit for both objectives."""

from __future__ import annotations

import logging
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hf_difflm.errors import UserError, did_you_mean, first_line

from .text_ids import MARK

logger = logging.getLogger(__name__)

BYTES = "bytes"


def load_tokenizer(
    name: str, mask_token: str | int | None = None, *, needs_mask: bool = True, called: str | None = None
) -> PreTrainedTokenizerBase:
    """Return ``bytes`` (built in) or the Hugging Face tokenizer of that name, folder or tokenizer.json file.

    Mask, BOS, EOS and pad are all set afterwards; what had to be added is logged as a warning. BOS falls back to a
    [CLS] or the EOS there is, EOS to a [SEP] or the BOS, pad to the EOS; only what is left gets a new token, so
    models must take ``len(tokenizer)`` as their vocabulary size. It is marked as made ready to train here, and the mark is
    saved with it: each text of a training begins with BOS (:mod:`~hf_difflm.data.text_ids`).

    Args:
        name: ``bytes``, or what :class:`AutoTokenizer` takes.
        mask_token: the mask token, new or one of the special tokens there are, or the number of one of these; default: its
            own, else a new [MASK].
        needs_mask: off: where there is no mask token, none is added.
        called: what the user knows it as; default: its name.

    Raises:
        UserError: it cannot be found, or has no fast form (tokenizer.json), without which the bytes behind a token
            are unknown; ``mask_token`` is one that text has, too, or a number that no token has.
    """
    tokenizer = byte_tokenizer() if name == BYTES else _load(name)
    name = name if called is None else called
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"tokenizer {name!r} has no fast form (tokenizer.json): convert it, or choose another one")
    if isinstance(mask_token, int):
        mask_token = _token_at(tokenizer, mask_token, name)
    if mask_token is not None:
        _refuse_ordinary(tokenizer, mask_token, name)
        tokenizer.add_special_tokens({"mask_token": mask_token})
    if added := _complete_special_tokens(tokenizer, needs_mask):
        logger.warning("tokenizer %r: set %s", name, ", ".join(added))
    tokenizer.init_kwargs[MARK] = True
    return tokenizer


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer whose ids 0-255 are the bytes of UTF-8; 256-259 are [BOS], [EOS], [PAD] and [MASK].

    Saved, it is a plain tokenizer.json. As with other tokenizers the name of a special token in a text is that token, unless
    ``split_special_tokens=True`` is given; text that is trained on is split by
    :class:`~hf_difflm.data.encoding.DocumentEncoder`, in which "[MASK]" is six bytes.
    """
    vocabulary = {character: byte for byte, character in enumerate(byte_characters())}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["[BOS]", "[EOS]", "[PAD]", "[MASK]"])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="[BOS]",
        eos_token="[EOS]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        clean_up_tokenization_spaces=False,
    )


def byte_characters() -> list[str]:
    """Return the characters that stand for bytes 0-255 in byte-level vocabularies (the GPT-2 convention)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [characters[byte] for byte in range(256)]


def _load(name: str) -> PreTrainedTokenizerBase:
    path = Path(name).expanduser()
    if not path.exists() and _can_only_be_a_path(name):
        raise UserError(f"no such tokenizer file or folder: {name}; check the path, or give {BYTES!r} (built in)")
    try:
        if path.is_file():
            return PreTrainedTokenizerFast(tokenizer_file=str(path))
        return AutoTokenizer.from_pretrained(str(path) if path.exists() else name, trust_remote_code=False)
    except Exception as error:  # hub, network, parsing and format each raise their own; the user needs one sentence
        hint = did_you_mean(name, [BYTES]) or f"; give a Hub name, a folder, a tokenizer.json, or {BYTES!r} (built in)"
        raise UserError(f"cannot load tokenizer {name!r} ({first_line(error)}){hint}") from error


def _can_only_be_a_path(name: str) -> bool:
    """Whether no tokenizer of the Hub can have this name: there it is ``name`` or ``owner/name``."""
    return name.endswith(".json") or name.startswith((".", "~", "/")) or name.count("/") > 1 or "\\" in name


def _token_at(tokenizer: PreTrainedTokenizerFast, number: int, name: str) -> str:
    token = tokenizer.convert_ids_to_tokens(number) if number < len(tokenizer) else None
    if not isinstance(token, str):
        raise UserError(
            f"the mask is token {number}, which tokenizer {name!r} does not have; name the one that the model was trained "
            "with (--tokenizer)"
        )
    return token


def _refuse_ordinary(tokenizer: PreTrainedTokenizerFast, token: str, name: str) -> None:
    """Raises UserError where a token cannot hide others: it is read from text, or has another role."""
    hint = "give --mask-token a new token or a reserved one"
    if not token.strip():
        raise UserError(f"the mask token must not be empty, got {token!r}; {hint}")
    special = {str(added) for added in tokenizer.added_tokens_decoder.values() if added.special}
    if token in tokenizer.get_vocab() and token not in special:
        raise UserError(
            f"{token!r} is an ordinary token of tokenizer {name!r}, which text has too, so it is no mask; {hint}"
        )
    for role in ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token"):
        if getattr(tokenizer, role) == token:
            raise UserError(f"{token!r} is the {role} of tokenizer {name!r} already, so it is no mask; {hint}")


def _complete_special_tokens(tokenizer: PreTrainedTokenizerFast, needs_mask: bool) -> list[str]:
    """Set the special tokens that are missing and return one phrase for each."""
    fallbacks = {
        "bos_token": ["cls_token", "eos_token"],
        "eos_token": ["sep_token", "bos_token"],
        "pad_token": ["eos_token"],
        "mask_token": [],
    }
    # A tokenizer with neither end gets two tokens of its own, not one for both.
    if all(getattr(tokenizer, role) is None for role in ("bos_token", "eos_token", "cls_token", "sep_token")):
        fallbacks |= {"bos_token": [], "eos_token": []}
    if not needs_mask:
        del fallbacks["mask_token"]
    added = []
    for role, others in fallbacks.items():
        if getattr(tokenizer, role) is None:
            known = [getattr(tokenizer, other) for other in others if getattr(tokenizer, other) is not None]
            token = known[0] if known else f"[{role.removesuffix('_token').upper()}]"
            size = len(tokenizer)
            tokenizer.add_special_tokens({role: token})
            added.append(f"{role} to {token!r}" + (" (a new token)" if len(tokenizer) > size else ""))
    return added
