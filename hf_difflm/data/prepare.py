"""From options to blocks: the whole way of the data, for training and for evaluation."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hf_difflm.errors import UserError

from .caching import check_cache
from .conversations.sft import SftPreparation
from .conversations.streamed import SftStreamPreparation
from .mixtures import prepare_mixture
from .options import APART, CONCAT, LAST, PACKINGS, TURNS, DataOptions, mixture_of
from .prepare_held import Preparation
from .prepare_stream import StreamPreparation
from .prepared import PreparedData
from .prepared_folder import is_prepared, load_prepared
from .text_ids import TextIds

logger = logging.getLogger(__name__)


def prepare_data(
    options: DataOptions,
    tokenizer: PreTrainedTokenizerBase,
    *,
    need_train: bool = True,
    text: TextIds | None = None,
    tell: bool = True,
) -> PreparedData:
    """Load the documents, keep training and evaluation apart, tokenise and pack; cached by `datasets`.

    The evaluation documents are, the first of these that applies: those of ``eval_dataset``; of ``eval_split``; of
    the data set's validation or test split; a share held out by content hash; the end of the text, if it is one
    document. Where a share is held out, another one (``test_fraction``) is for the test, which ``eval_split="test"`` gives
    without training data. A training document that is also an evaluation document is dropped (not for synthetic text, where
    equal documents are independent draws).
    ``max_train_blocks``, ``max_chunks`` and ``max_eval_blocks`` keep the first blocks.

    With ``streaming`` the training text is never held, see `StreamPreparation`; a folder of prepared blocks is used as it
    is, see `load_prepared`.

    Under several processes the first of each machine prepares while the others wait, then find its cache files; build
    the TrainingArguments before, since they decide the device and with it the backend the processes talk over.

    With ``sft`` the documents are conversations, see `SftPreparation`; a tokenizer without a chat template is given one.

    Args:
        options: see `DataOptions`; ``options.tokenizer`` is not read.
        tokenizer: as from `load_tokenizer`.
        need_train: whether to make training blocks at all.
        text: what a block begins with; None: BOS, as in training. Held running text alone is made otherwise.
        tell: log each of the notes as a warning, on the first process; off where the caller shows them.

    Raises:
        UserError: for whatever is wrong with the data.
    """
    options = replace(options, dataset=_name(options.dataset, "dataset"))
    if options.eval_dataset is not None:
        options = replace(options, eval_dataset=_name(options.eval_dataset, "eval_dataset"))
    _check_tokenizer(tokenizer, begins_with_bos=text is None)
    if options.block_size < 2:
        raise UserError(
            f"block_size is {options.block_size}: a block needs BOS and at least one token, so give 2 or more"
        )
    if not 0 < options.eval_fraction < 1:
        raise UserError(f"eval_fraction is {options.eval_fraction:g}: give a share above 0 and below 1")
    if not 0 <= options.share_for_test < 1 - options.eval_fraction:
        raise UserError(
            f"test_fraction {options.share_for_test:g} and eval_fraction {options.eval_fraction:g} leave no text to train "
            "on: lower one of them"
        )
    _check_sft(options)
    _check_packing(options)
    with _first_local_process_goes_first():
        data = _prepared(options, tokenizer, need_train, text)
    if tell and int(os.environ.get("RANK", "0")) == 0:
        for note in data.notes:
            logger.warning("%s", note)
    return data


def _prepared(
    options: DataOptions, tokenizer: PreTrainedTokenizerBase, need_train: bool, text: TextIds | None
) -> PreparedData:
    if mixture_of(options.dataset):
        return prepare_mixture(options, tokenizer, need_train)
    if is_prepared(options.dataset):
        return load_prepared(options, tokenizer, need_train=need_train)
    check_cache()
    if options.sft:
        made = SftStreamPreparation if options.streaming else SftPreparation
        return made(options, tokenizer).run(need_train)
    if options.streaming:
        return StreamPreparation(options, tokenizer).run(need_train)
    return Preparation(options, tokenizer, text).run(need_train)


def _name(dataset: Any, called: str) -> str:
    """A name or path as text; raises UserError for rows in memory, and for a mixture that is no text."""
    if isinstance(dataset, (str, os.PathLike)):
        return os.fspath(dataset)
    if isinstance(dataset, Mapping) and all(isinstance(share, (int, float)) for share in dataset.values()):
        said = " ".join(f"{name}={share}" for name, share in dataset.items())
        raise UserError(f"{called} is a dict of shares; write them as text: {called}={said!r}")
    raise UserError(
        f"{called} is a {type(dataset).__name__}, but what is prepared is read by name; save it with "
        f"save_to_disk(FOLDER) and give {called}=FOLDER"
    )


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, *, begins_with_bos: bool) -> None:
    """Raise UserError where a tokenizer lacks what blocks are made of."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(
            f"the tokenizer is a {type(tokenizer).__name__}, which has no fast form (tokenizer.json); load it with "
            "hf_difflm.data.load_tokenizer"
        )
    if begins_with_bos:
        for role in ("bos", "eos"):
            if getattr(tokenizer, f"{role}_token_id") is None:
                raise UserError(
                    f"the tokenizer has no {role.upper()} token; load it with hf_difflm.data.load_tokenizer, which adds one"
                )


def _check_sft(options: DataOptions) -> None:
    """Raise UserError where conversations are asked for in a way that only running text can be read."""
    if options.sft_fill_eos and not options.sft:
        raise UserError("sft_fill_eos fills up the answers of conversations; add sft, or leave it out")
    if options.sft_turns not in TURNS:
        raise UserError(f"sft_turns is {options.sft_turns!r}; give one of {', '.join(TURNS)}")
    if options.sft_turns != LAST and not options.sft:
        raise UserError(
            f"sft_turns {options.sft_turns} is about the answers of conversations; add sft, or leave it out"
        )
    if options.sft and is_prepared(options.dataset):
        raise UserError(
            f"sft needs conversations, and {options.dataset} holds prepared blocks; give the data set itself"
        )


def _check_packing(options: DataOptions) -> None:
    """Raise UserError where a packing is none, or does not go with the rest."""
    packing = options.packing
    if packing not in PACKINGS:
        raise UserError(f"packing is {packing!r}; give one of {', '.join(PACKINGS)}")
    if packing == CONCAT:
        return
    if options.sft and packing not in APART:
        raise UserError(f"packing {packing} is of running text; conversations are packed with {' or '.join(APART)}")
    if options.sft_fill_eos and packing in APART:
        raise UserError(
            f"sft_fill_eos fills each row up, so that none has room for another answer, but packing is {packing}; leave one "
            "of them out"
        )
    if mixture_of(options.dataset):
        raise UserError(
            f"packing {packing} is of one data set, and {options.dataset!r} is several; set packing to concat"
        )


def _first_local_process_goes_first() -> AbstractContextManager[None]:
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return nullcontext()
    from accelerate import PartialState

    return PartialState().local_main_process_first()
