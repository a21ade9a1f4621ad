"""Text to ids: what a text begins with, control tokens, and parts around holes as the whole text has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_difflm.data import load_tokenizer
from hf_difflm.data.text_ids import TextIds
from hf_difflm.errors import UserError

pytestmark = pytest.mark.borders

TEXT = ["To be or not to be, that is the question of the day.", "The answer, my friend, is to be or not to be."] * 8
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "[MASK]"]


def trained(kind: str, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer of the kinds that stock models have, trained on a few words."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    alphabet = []
    if kind == "gpt2":
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    elif kind == "llama2":  # a blank is a letter of its word, and one is put before each text
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.decoder = decoders.Replace("▁", " ")
    elif kind == "t5":
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        backend.decoder = decoders.Metaspace()
    if kind == "t5":
        trainer: Any = trainers.UnigramTrainer(vocab_size=80, special_tokens=SPECIAL, unk_token="<unk>")
    else:
        trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet)
    # A word a text for the SentencePiece kinds, which keep words apart by their blank.
    backend.train_from_iterator(TEXT if kind != "llama2" else [w for line in TEXT for w in line.split()], trainer)
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", mask_token="[MASK]"
    )


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    return tokenizer.convert_ids_to_tokens(ids)


@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_stock_model_gets_what_its_tokenizer_makes_of_text(adds_bos: bool) -> None:
    tokenizer = trained("gpt2", adds_bos)
    text = TextIds.of(tokenizer)
    for prompt in ("To be", "<|im_start|>to be", "<s>To be"):
        own = tokenizer(prompt)["input_ids"]
        assert text.prompt(prompt) == (own[1:] if own[:2] == [1, 1] else own)  # BOS once, as in the harness
    assert text.facts == {"add_bos": adds_bos, "bos_token": "<s>" if adds_bos else None}
    assert text.prompt("") == [1]


def test_a_tokenizer_that_was_made_ready_to_train_begins_texts_with_bos_wherever_it_is_saved(tmp_path: Path) -> None:
    trained("gpt2").save_pretrained(tmp_path / "stock")
    load_tokenizer(str(tmp_path / "stock")).save_pretrained(tmp_path / "ours")
    stock, ours = (TextIds.of(AutoTokenizer.from_pretrained(tmp_path / name)) for name in ("stock", "ours"))
    assert (stock.bos_token_id, ours.bos_token_id) == (None, 1)
    assert ours.running("<|im_start|>") == ours.letters("<|im_start|>") != [3]
    assert stock.running("<|im_start|>") == ours.written("<|im_start|>") == [3]


def test_flags_say_otherwise_and_what_cannot_be_is_a_sentence() -> None:
    tokenizer = trained("gpt2", adds_bos=True)
    assert TextIds.of(tokenizer, add_bos=False).prompt("To")[0] != 1
    assert TextIds.of(tokenizer, bos_token="</s>").prompt("To")[0] == 2
    with pytest.raises(UserError, match="leave one of them out"):
        TextIds.of(tokenizer, add_bos=False, bos_token="</s>")
    with pytest.raises(UserError, match=r"'\[BOS\]' is no token of the tokenizer"):
        TextIds.of(tokenizer, bos_token="[BOS]")
    tokenizer.bos_token = None
    with pytest.raises(UserError, match="no BOS token to begin a text with"):
        TextIds.of(tokenizer, add_bos=True)


def test_the_mask_token_is_letters_beside_control_tokens_too() -> None:
    tokenizer = trained("gpt2")
    text = TextIds.of(tokenizer)
    assert text.written("be [MASK]") == text.letters("be [MASK]")
    found = text.written("<|im_start|>be[MASK]")
    assert found[0] == 3
    assert tokenizer.mask_token_id not in found
    assert tokenizer.decode(found) == "<|im_start|>be[MASK]"


@pytest.mark.parametrize("kind", ["gpt2", "llama2", "t5"])
@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        (["To be or ", " to be"], "To be or not to be"),
        (["To be", " not to be"], "To be or not to be"),
        (["", " or not to be"], "To be or not to be"),
        (["to be, that ", " the ", " of the day."], "to be, that is the question of the day."),
        (["is ", ""], "is to"),
    ],
)
def test_around_holes_stand_the_tokens_of_the_whole_text(kind: str, parts: list[str], whole: str) -> None:
    tokenizer = trained(kind)
    found = TextIds.of(tokenizer).around_holes(parts)
    whole_ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    ids = list(whole_ids)
    assert ids[: len(found[0])] == found[0], pieces(tokenizer, found[0])
    for part in found[1:-1]:
        assert any(ids[i : i + len(part)] == part for i in range(len(ids))), pieces(tokenizer, part)
    assert ids[len(ids) - len(found[-1]) :] == found[-1], pieces(tokenizer, found[-1])
    blanks = {tokenizer.convert_tokens_to_ids(blank) for blank in ("Ġ", "▁")}
    assert not blanks & {ids[-1] for ids in found[:-1] if ids}


def test_inside_a_word_no_blank_is_put_behind_a_hole() -> None:
    tokenizer = trained("llama2")
    before, behind = TextIds.of(tokenizer).around_holes(["To b", "e or"])
    assert pieces(tokenizer, before)[0] == "▁To"
    assert pieces(tokenizer, behind) == ["e", "▁or"]


def test_a_blank_that_is_a_token_of_its_own_stays_before_a_hole() -> None:
    text = TextIds.of(load_tokenizer("bytes"))
    assert text.around_holes(["To be ", " b"]) == [list(b"To be "), list(b" b")]


def test_of_words_without_blanks_the_parts_stay_words(bert_like: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(bert_like), mask_token="[MASK]", unk_token="[UNK]")
    found = TextIds.of(tokenizer).around_holes(["the cat ", " on the mat"])
    assert [pieces(tokenizer, ids) for ids in found] == [["the", "cat"], ["on", "the", "mat"]]
