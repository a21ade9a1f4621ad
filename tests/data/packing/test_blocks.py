from __future__ import annotations

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_difflm.data import load_tokenizer
from hf_difflm.data.encoding import DocumentEncoder, encode_documents
from hf_difflm.data.packing.blocks import Packer, pack_documents
from hf_difflm.data.sources.documents import hash_documents
from hf_difflm.errors import UserError

BYTES = load_tokenizer("bytes")
TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=12)


def packed(texts: list[str], block_size: int, eos: int | None = BYTES.eos_token_id) -> tuple[datasets.Dataset, int]:
    documents = hash_documents(datasets.Dataset.from_dict({"text": texts}), "texts")
    encoder = DocumentEncoder(BYTES)
    packer = Packer(block_size, BYTES.bos_token_id, eos, with_document_ids=True)
    key = [documents.fingerprint, encoder.fingerprint]
    return pack_documents(encode_documents(documents, encoder), packer, key=key, where="the text")


def test_blocks_start_with_bos_documents_are_joined_by_eos_and_the_tail_is_dropped() -> None:
    blocks, dropped = packed(["abc", "de", "fghi"], block_size=5)
    a = ord("a")
    assert blocks["input_ids"][:] == [[256, a, a + 1, a + 2, 257], [256, a + 3, a + 4, 257, a + 5]]
    assert blocks["document_ids"][:] == [[-1, 0, 0, 0, 0], [-1, 1, 1, 1, 2]]
    assert blocks["num_bytes"][:] == [3, 3]
    assert blocks["index"][:] == [0, 1]
    assert dropped == 3


def test_without_eos_documents_of_one_length_are_one_block_each() -> None:
    blocks, dropped = packed(["abcd", "efgh"], block_size=5, eos=None)
    assert [bytes(ids[1:]) for ids in blocks["input_ids"]] == [b"abcd", b"efgh"]
    assert (blocks["document_ids"][:], dropped) == ([[-1, 0, 0, 0, 0], [-1, 1, 1, 1, 1]], 0)


@settings(max_examples=30, deadline=None)
@given(TEXTS, st.integers(2, 9))
def test_blocks_and_tail_hold_every_token_and_every_byte_once(texts: list[str], block_size: int) -> None:
    stream = b"\xff".join(text.encode("utf-8") for text in texts)  # 0xff is never in UTF-8: it stands for EOS
    width = block_size - 1
    if len(stream) < width:
        with pytest.raises(UserError, match=f"lower block_size to at most {len(stream) + 1}"):
            packed(texts, block_size)
        return
    blocks, dropped = packed(texts, block_size)
    ids = np.array(blocks["input_ids"][:])
    assert (ids[:, 0] == 256).all()
    tokens = bytes(np.where(ids[:, 1:] == 257, 0xFF, ids[:, 1:]).astype(np.uint8).reshape(-1))
    assert tokens == stream[: len(stream) // width * width]
    assert len(tokens) + dropped == len(stream)
    tail_bytes = len(stream[len(tokens) :].replace(b"\xff", b""))
    assert sum(blocks["num_bytes"]) + tail_bytes == sum(len(text.encode("utf-8")) for text in texts)
    document_ids = np.array(blocks["document_ids"][:])[:, 1:].reshape(-1)
    lengths = [len(text.encode("utf-8")) + 1 for text in texts]
    assert (document_ids == np.repeat(np.arange(len(texts)), lengths)[: len(document_ids)]).all()


def test_blocks_do_not_depend_on_batches_or_workers() -> None:
    texts = [f"document {number} " * (number % 7 + 1) for number in range(600)]  # more than two batches
    documents = hash_documents(datasets.Dataset.from_dict({"text": texts}), "texts")
    stream = b"\xff".join(text.encode() for text in texts)
    blocks, _ = packed(texts, block_size=16)
    ids = np.array(blocks["input_ids"][:])[:, 1:].reshape(-1)
    assert bytes(np.where(ids == 257, 0xFF, ids).astype(np.uint8)) == stream[: len(ids)]
    assert blocks["index"][:] == list(range(len(blocks)))
    two = encode_documents(documents.select(np.arange(600) < 599), DocumentEncoder(BYTES), workers=2)
    one = encode_documents(documents, DocumentEncoder(BYTES))
    assert two["input_ids"][:] == one["input_ids"][:599]
