"""Documents are cut into pieces that lose nothing, and pieces share rows without overflowing them."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_difflm.data import Collator, DataOptions, load_tokenizer, prepare_data
from hf_difflm.data.packing.paper_blocks import DOCUMENTS_AT_ONCE, PaperPacker
from hf_difflm.data.packing.pieces import PiecePacker
from hf_difflm.data.packing.rows import rows_of
from hf_difflm.errors import UserError

BOS, EOS = 1000, 1001


def table_of(documents):
    lists = pa.array(documents, type=pa.list_(pa.int32()))
    return pa.table({"input_ids": lists, "token_bytes": lists})


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=8),
    st.integers(2, 6),
    st.booleans(),
    st.integers(1, 8),
)
def test_pieces_are_their_documents(documents, block_size, with_eos, at_once):
    packer = PiecePacker(block_size, BOS, EOS if with_eos else None, with_labels=True)
    found = []
    for start in range(0, len(documents), at_once):
        found += packer(table_of(documents[start : start + at_once])).to_pylist()
    assert [row["index"] for row in found] == list(range(len(found)))
    for number, ids in enumerate(documents):
        pieces = [row for row in found if row["document_ids"][1] == number]
        joined = [token for row in pieces for token in row["input_ids"][1:]]
        ends = with_eos and len(ids) % (block_size - 1) != 0
        assert joined == ids + [EOS] * ends
        assert all(len(row["input_ids"]) == block_size for row in pieces[:-1])
        assert sum(row["num_bytes"] for row in pieces) == sum(ids)
    for row in found:
        assert row["input_ids"][0] == BOS
        assert row["labels"] == [-100, *row["input_ids"][1:]]
        assert row["document_ids"][0] == -1


@given(st.lists(st.integers(2, 10), max_size=40), st.sampled_from(["documents", "best-fit"]))
def test_every_piece_is_in_one_row_that_has_room(lengths, how):
    rows = rows_of(lengths, 10, how)
    assert sorted(piece for row in rows for piece in row) == list(range(len(lengths)))
    assert all(sum(lengths[piece] for piece in row) <= 10 for row in rows)
    if how == "documents":  # in their order
        assert [piece for row in rows for piece in row] == list(range(len(lengths)))


@given(st.lists(st.integers(2, 10), max_size=40))
def test_best_fit_takes_the_fullest_row_with_room(lengths):
    """Against the definition, one piece after the other."""
    rows = []
    for piece, length in enumerate(lengths):
        room = [10 - sum(lengths[one] for one in row) for row in rows]
        fitting = [row for row, left in zip(rows, room, strict=True) if left >= length]
        if fitting:
            least = min(10 - sum(lengths[one] for one in row) for row in fitting)
            fullest = [row for row in fitting if 10 - sum(lengths[one] for one in row) == least]
            assert any(
                rows_of(lengths[: piece + 1], 10, "best-fit")[rows.index(row)] == [*row, piece] for row in fullest
            )
        rows = rows_of(lengths[: piece + 1], 10, "best-fit")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for name, numbers in (("train", range(40)), ("validation", range(40, 46))):
        lines = [f'{{"text": "{chr(97 + n % 26) * (3 + 7 * n % 31)}"}}' for n in numbers]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder)


@pytest.mark.parametrize("how", ["documents", "best-fit"])
def test_rows_of_a_data_set(written, how):
    tokenizer = load_tokenizer("bytes")
    data = prepare_data(DataOptions(dataset=written, block_size=16, packing=how), tokenizer)
    counts = data.counts["train"]
    rows = [pickle.loads(pickle.dumps(data.train))[number] for number in range(len(data.train))]
    assert counts.blocks == len(rows)
    assert counts.tokens == sum(int((row["labels"] != -100).sum()) for row in rows)
    pieces = {}
    for row in rows:
        assert len(row["input_ids"]) <= 16
        for number in np.unique(row["piece_ids"]):
            ids = row["input_ids"][row["piece_ids"] == number]
            labels = row["labels"][row["piece_ids"] == number]
            assert ids[0] == tokenizer.bos_token_id
            assert labels.tolist() == [-100, *ids[1:]]
            pieces[int(number)] = ids[1:]
    assert sorted(pieces) == list(range(counts.pieces))
    text = tokenizer.decode(np.concatenate([pieces[number] for number in sorted(pieces)]))
    assert text.replace(tokenizer.eos_token, "") == "".join(chr(97 + n % 26) * (3 + 7 * n % 31) for n in range(40))
    # Evaluations have a row for each piece.
    assert all(row["input_ids"][0] == tokenizer.bos_token_id for row in data.eval)
    assert data.counts["eval"].pieces == len(data.eval)
    batch = Collator(tokenizer)(rows[:4])
    assert (batch["piece_ids"] >= 0).equal(batch["attention_mask"] == 1)


def test_fewer_rows_are_the_first(written):
    tokenizer = load_tokenizer("bytes")
    options = {"dataset": written, "block_size": 16, "packing": "best-fit"}
    every = prepare_data(DataOptions(**options), tokenizer)
    some = prepare_data(DataOptions(**options, max_train_blocks=3, max_eval_blocks=2), tokenizer)
    assert len(some.train) == 3
    assert some.train[2]["input_ids"].tolist() == every.train[2]["input_ids"].tolist()
    assert sum(len(row["input_ids"]) for row in some.eval) <= 2 * 16
    assert some.fingerprint == every.fingerprint
    assert every.fingerprint != prepare_data(DataOptions(dataset=written, block_size=16), tokenizer).fingerprint


def test_blocks_of_the_paper():
    """EOS behind each document and at the end of each block; what fills none at the end of a thousand is dropped."""
    packer = PaperPacker(5, BOS, EOS, with_document_ids=True)
    documents = [[n % 7, n % 5] for n in range(DOCUMENTS_AT_ONCE + 3)]
    found = []
    for start in range(0, len(documents), 256):
        found += packer(table_of(documents[start : start + 256])).to_pylist()
    streams = [[t for ids in part for t in [*ids, EOS]] for part in (documents[:DOCUMENTS_AT_ONCE], documents[1000:])]
    expected = [
        [BOS, *stream[start : start + 3], EOS] for stream in streams for start in range(0, len(stream) // 3 * 3, 3)
    ]
    assert [row["input_ids"] for row in found] == expected
    assert [row["index"] for row in found] == list(range(len(expected)))
    assert found[1]["document_ids"] == [-1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"packing": "tight"}, "packing is 'tight'; give one of concat, documents, best-fit, mdlm"),
        ({"packing": "mdlm", "sft": True}, "packing mdlm is of running text"),
        ({"packing": "best-fit", "sft": True, "sft_fill_eos": True}, "leave one of them out"),
        ({"packing": "documents", "dataset": "a.txt=0.5 b.txt=0.5"}, "set packing to concat"),
        ({"packing": "mdlm", "dataset": "markov"}, "ends each document and each block with EOS"),
    ],
)
def test_what_packing_does_not_go_with(options, sentence):
    with pytest.raises(UserError, match=sentence):
        prepare_data(DataOptions(**{"dataset": "sums", **options}), load_tokenizer("bytes"))


def test_answers_share_rows():
    tokenizer = load_tokenizer("bytes")
    options = {"dataset": "sums", "sft": True, "block_size": 128, "max_eval_blocks": 4}
    alone = prepare_data(DataOptions(**options), tokenizer)
    data = prepare_data(DataOptions(**options, packing="best-fit"), tokenizer)
    row = data.train[0]
    first = row["piece_ids"] == row["piece_ids"][0]
    answer = alone.train[int(row["piece_ids"][0])]
    assert row["input_ids"][first].tolist() == answer["input_ids"].tolist()
    assert row["labels"][first].tolist() == answer["labels"].tolist()
    assert len(np.unique(row["piece_ids"])) > 1
    assert data.counts["train"].answers == alone.counts["train"].answers
    assert data.counts["train"].tokens == alone.counts["train"].tokens
    assert len(data.eval) == len(alone.eval) == 4
