from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from hf_difflm.data import load_tokenizer
from hf_difflm.data.encoding import DocumentEncoder, bytes_of_tokens
from hf_difflm.errors import UserError

UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
BYTES = load_tokenizer("bytes")
HARD_TEXTS = [
    "[MASK]",
    "a [BOS][EOS] <|endoftext|> b",
    "\r\n\ttab  two  spaces ",
    "\ufeffmark",
    "👩‍👩‍👧 é e\u0301",
    "\x00\x7f",
]


@given(UNICODE)
def test_byte_tokenizer_round_trips_any_unicode_text_as_its_utf8_bytes(text: str) -> None:
    ids = BYTES(text, split_special_tokens=True)["input_ids"]
    assert ids == list(text.encode("utf-8"))
    assert BYTES.decode(ids) == text


def test_byte_tokenizer_has_four_distinct_special_tokens_after_the_bytes() -> None:
    special = [BYTES.bos_token_id, BYTES.eos_token_id, BYTES.pad_token_id, BYTES.mask_token_id]
    assert special == [256, 257, 258, 259]
    assert len(BYTES) == 260


def test_byte_tokenizer_loads_elsewhere_without_our_code(tmp_path: Path) -> None:
    BYTES.save_pretrained(tmp_path)
    script = (
        "import sys, json; from transformers import AutoTokenizer; t = AutoTokenizer.from_pretrained(sys.argv[1]);"
        "ids = [t(text, split_special_tokens=True)['input_ids'] for text in json.loads(sys.argv[2])];"
        "print(json.dumps([ids, [t.decode(i) for i in ids], t('a[MASK]')['input_ids'], 'hf_difflm' in sys.modules]))"
    )
    command = [sys.executable, "-c", script, str(tmp_path), json.dumps(HARD_TEXTS[:-1])]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    ids, texts, masked, imported = json.loads(result.stdout)
    assert ids == [list(text.encode("utf-8")) for text in HARD_TEXTS[:-1]]
    assert texts == HARD_TEXTS[:-1]
    assert (masked, imported) == ([97, 259], False)


def test_saved_and_loaded_tokenizers_encode_with_the_same_fingerprint(tmp_path: Path, gpt2_like: Path) -> None:
    for number, name in enumerate(["bytes", str(gpt2_like)]):
        tokenizer = load_tokenizer(name)
        tokenizer.save_pretrained(tmp_path / str(number))
        again = load_tokenizer(str(tmp_path / str(number)))
        assert DocumentEncoder(again).fingerprint == DocumentEncoder(tokenizer).fingerprint


def test_gpt2_like_tokenizer_gets_a_mask_and_keeps_endoftext_for_all_other_roles(
    gpt2_like: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    PreTrainedTokenizerFast(tokenizer_file=str(gpt2_like), eos_token="<|endoftext|>").save_pretrained(tmp_path)
    size = len(AutoTokenizer.from_pretrained(tmp_path))
    with caplog.at_level(logging.WARNING):
        tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.bos_token == tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"
    assert (tokenizer.mask_token, tokenizer.mask_token_id, len(tokenizer)) == ("[MASK]", size, size + 1)
    assert "mask_token to '[MASK]' (a new token)" in caplog.text


def test_tokenizer_file_without_any_role_gets_tokens_for_all(gpt2_like: Path) -> None:
    size = len(PreTrainedTokenizerFast(tokenizer_file=str(gpt2_like)))
    tokenizer = load_tokenizer(str(gpt2_like))
    assert [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id] == [size, size + 1, size + 2]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_bert_like_tokenizer_uses_cls_and_sep_as_its_ends_and_adds_nothing(bert_like: Path, tmp_path: Path) -> None:
    roles = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    original = PreTrainedTokenizerFast(tokenizer_file=str(bert_like), unk_token="[UNK]", **roles)
    original.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("[CLS]", "[SEP]")
    assert len(tokenizer) == len(original)


@pytest.mark.parametrize("kind", ["bytes", "gpt2_like", "bert_like"])
def test_text_of_special_tokens_becomes_ordinary_tokens(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = load_tokenizer(kind if kind == "bytes" else str(request.getfixturevalue(kind)))
    specials = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id, tokenizer.convert_tokens_to_ids("[UNK]")}
    for ids, _ in DocumentEncoder(tokenizer).encode([*HARD_TEXTS, "".join(tokenizer.all_special_tokens)]):
        assert specials.isdisjoint(ids.tolist())


def test_encoding_ignores_padding_and_truncation_others_switched_on(gpt2_like: Path) -> None:
    tokenizer = load_tokenizer(str(gpt2_like))
    before = DocumentEncoder(tokenizer)
    tokenizer(["the cat", "the"], padding=True, truncation=True, max_length=1)
    after = DocumentEncoder(tokenizer)
    assert after.fingerprint == before.fingerprint
    assert [len(ids) for ids, _ in after.encode(["the cat sat there too"] * 2)] == [
        len(before.encode(["the cat sat there too"])[0][0])
    ] * 2


@pytest.mark.parametrize("kind", ["bytes", "gpt2_like", "bert_like"])
@settings(max_examples=50)
@given(text=st.one_of(UNICODE, st.sampled_from(HARD_TEXTS)))
def test_bytes_of_tokens_sum_to_the_bytes_of_the_text(kind: str, text: str, request: pytest.FixtureRequest) -> None:
    tokenizer = load_tokenizer(kind if kind == "bytes" else str(request.getfixturevalue(kind)))
    ((ids, token_bytes),) = DocumentEncoder(tokenizer).encode([text])
    assert len(ids) == len(token_bytes)
    assert (token_bytes >= 0).all()
    assert token_bytes.sum() == (len(text.encode("utf-8")) if len(ids) else 0)


def test_a_character_cut_into_several_tokens_gives_its_bytes_to_the_first() -> None:
    # "é" twice, the first in two tokens; then one space that no token covers.
    assert bytes_of_tokens("éé ", ends=[1, 1, 2]).tolist() == [2, 0, 3]


def test_the_general_way_and_the_table_of_bytes_give_the_same_ids() -> None:
    encoder = DocumentEncoder(BYTES)
    quick = [ids.tolist() for ids, _ in encoder.encode(HARD_TEXTS)]
    encoder._ids_of_bytes = None
    assert [ids.tolist() for ids, _ in encoder.encode(HARD_TEXTS)] == quick


def test_a_tokenizer_that_makes_masks_of_plain_text_is_refused(tmp_path: Path) -> None:
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "[MASK]": 1, "word": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.save(str(tmp_path / "tokenizer.json"))
    encoder = DocumentEncoder(load_tokenizer(str(tmp_path / "tokenizer.json")))
    assert encoder.encode(["word"])[0][0].tolist() == [2]
    with pytest.raises(UserError, match=r"mask token \(id 1\)"):
        encoder.encode(["word [MASK]"])


def test_a_pickled_encoder_still_reads_special_tokens_as_text(gpt2_like: Path) -> None:
    encoder = DocumentEncoder(load_tokenizer(str(gpt2_like)))
    ((ids, _),) = pickle.loads(pickle.dumps(encoder)).encode(["a <|endoftext|> b"])
    assert ids.tolist() == encoder.encode(["a <|endoftext|> b"])[0][0].tolist()
    assert encoder.fingerprint == pickle.loads(pickle.dumps(encoder)).fingerprint


def test_a_tokenizer_without_a_fast_form_is_refused(tmp_path: Path) -> None:
    ByT5Tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no fast form"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("name", ["./nowhere", "byte", "no-such-folder/tokenizer.json"])
def test_a_tokenizer_that_is_not_there_is_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=name) as error:
        load_tokenizer(name)
    assert "\n" not in str(error.value)
    assert "bytes" in str(error.value)


@pytest.mark.parametrize("name", ["nowhere.json", "./nowhere", "~/nowhere", "/no/where", "a/b/c", r"tokens\\mine"])
def test_what_can_only_be_a_path_is_not_asked_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object, **__: object) -> None:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("hf_difflm.data.tokenizers.AutoTokenizer.from_pretrained", ask)
    with pytest.raises(UserError, match=r"no such tokenizer file or folder: .*; check the path"):
        load_tokenizer(name)
    with pytest.raises(UserError, match="the Hub was asked"):
        load_tokenizer("owner/name")


def test_a_broken_tokenizer_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot load tokenizer"):
        load_tokenizer(str(tmp_path / "tokenizer.json"))
