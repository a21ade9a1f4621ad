"""From options to blocks: the whole way of the data, for training and for evaluation."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

from transformers import PreTrainedTokenizerBase

from hf_difflm.errors import UserError

from .caching import check_cache
from .conversations.sft import SftPreparation
from .conversations.streamed import SftStreamPreparation
from .mixtures import prepare_mixture
from .options import LAST, TURNS, DataOptions, mixture_of
from .prepare_held import Preparation
from .prepare_stream import StreamPreparation
from .prepared import PreparedData
from .prepared_folder import is_prepared, load_prepared
from .text_ids import TextIds


def prepare_data(
    options: DataOptions,
    tokenizer: PreTrainedTokenizerBase,
    *,
    need_train: bool = True,
    text: TextIds | None = None,
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

    Raises:
        UserError: for whatever is wrong with the data.
    """
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
    with _first_local_process_goes_first():
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


def _first_local_process_goes_first() -> AbstractContextManager[None]:
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return nullcontext()
    from accelerate import PartialState

    return PartialState().local_main_process_first()
