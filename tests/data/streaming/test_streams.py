"""A stream holds the tokens of its documents, block for block, wherever one begins to read."""

from __future__ import annotations

import logging
import pickle
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from streams import joined, stream, texts, tokens, write_jsonl, write_parquet
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from hf_difflm.data import DataOptions, load_tokenizer, prepare_data
from hf_difflm.data.sources.documents import document_key
from hf_difflm.data.streaming import evaluation as evaluation_of_streams
from hf_difflm.data.streaming import files
from hf_difflm.errors import UserError

WIDTH = 15


@pytest.fixture
def evaluation(tmp_path: Path) -> str:
    return str(write_jsonl(tmp_path / "evaluation.jsonl", ["something else"] * 20))


def write(kind: str, folder: Path, documents: list[str]) -> Path:
    """The documents in two files of a kind."""
    folder.mkdir()
    halves = documents[:100], documents[100:]
    for number, half in enumerate(halves):
        if kind == "jsonl":
            write_jsonl(folder / f"{number}.jsonl", half)
        elif kind == "parquet":
            write_parquet(folder / f"{number}.parquet", half, row_group=17)
    return folder


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("chunk", [1, 50, 4096])
def test_blocks_are_the_tokens_of_the_documents_with_eos_between_pass_after_pass(
    tmp_path, byte_level, evaluation, kind, chunk
):
    documents = texts(150)
    folder = write(kind, tmp_path / "data", documents)
    data = stream(folder, byte_level, eval_dataset=evaluation, tokens_per_chunk=chunk)
    expected = joined([*documents, *documents, *documents])
    count = len(joined([*documents, *documents])) // WIDTH + 5  # beyond the second pass
    assert tokens(data.train, count) == expected[: count * WIDTH]
    assert all(data.train[index]["input_ids"][0] == 256 for index in range(20))


def test_blocks_equal_those_of_the_same_data_held(tmp_path, gpt2_like, evaluation, prepare):
    """With a tokenizer that merges, against the packing of `datasets` tables."""
    tokenizer = load_tokenizer(str(gpt2_like))
    path = write_jsonl(tmp_path / "d.jsonl", texts(60))
    held = prepare(path, tokenizer, block_size=16, eval_dataset=evaluation).train
    train = stream(path, tokenizer, eval_dataset=evaluation).train
    assert len(held) > 100
    for index in range(len(held)):
        assert train[index]["input_ids"].tolist() == held[index]["input_ids"].tolist()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_another_process_goes_on_from_a_position_with_the_same_blocks(tmp_path, byte_level, evaluation, kind):
    folder = write(kind, tmp_path / "data", texts(150))
    options = {"eval_dataset": evaluation}
    first = stream(folder, byte_level, **options).train
    blocks = [first[index]["input_ids"] for index in range(1600)]  # into the third pass
    for index in (0, 7, 8, 100, 617, 1599):
        position = first.position(index)
        assert position["window"] == index // 8
        second = stream(folder, byte_level, **options).train
        second.restore(position)
        for later in range(index, min(index + 20, 1600)):
            np.testing.assert_array_equal(second[later]["input_ids"], blocks[later])


def test_going_on_reads_nothing_before_the_window(tmp_path, byte_level, evaluation):
    path = write_jsonl(tmp_path / "d.jsonl", texts(400))
    first = stream(path, byte_level, eval_dataset=evaluation).train
    expected = first[1000]["input_ids"]
    position = first.position(1000)
    second = stream(path, byte_level, eval_dataset=evaluation).train
    second.restore(position)
    with path.open("r+b") as file:  # what lies before is no JSON any more
        file.write(b"#" * (position["state"]["position"]["offset"] - 1))
    np.testing.assert_array_equal(second[1000]["input_ids"], expected)


def test_a_position_nobody_has_kept_costs_reading_but_gives_the_same(tmp_path, byte_level, evaluation):
    path = write_jsonl(tmp_path / "d.jsonl", texts(100))
    first, second = (stream(path, byte_level, eval_dataset=evaluation).train for _ in range(2))
    for index in (300, 20, 299, 0):
        np.testing.assert_array_equal(second[index]["input_ids"], [first[i]["input_ids"] for i in range(301)][index])


def test_a_position_of_another_text_is_refused(tmp_path, byte_level, evaluation):
    path = write_jsonl(tmp_path / "d.jsonl", texts(100))
    position = stream(path, byte_level, eval_dataset=evaluation).train.position(0)
    write_jsonl(path, texts(100, seed=1))
    with pytest.raises(UserError, match="has changed since the checkpoint"):
        stream(path, byte_level, eval_dataset=evaluation).train.restore(position)


def test_a_text_file_is_one_document_however_it_is_cut(tmp_path, byte_level, evaluation, monkeypatch):
    monkeypatch.setattr(files, "_PIECE", 11)  # within lines and within characters
    text = "\ufeff" + "".join(texts(80)) + "\ufeff\r\n" + "ü" * 100
    path = tmp_path / "d.txt"
    path.write_bytes(text.encode())
    train = stream(path, byte_level, eval_dataset=evaluation).train
    expected = joined([text[1:], text[1:]])  # without the signature
    assert tokens(train, 400) == expected[: 400 * WIDTH]
    second = stream(path, byte_level, eval_dataset=evaluation).train
    second.restore(train.position(300))
    np.testing.assert_array_equal(second[305]["input_ids"], train[305]["input_ids"])


def test_a_text_file_that_ends_within_a_character_is_one_sentence(tmp_path, byte_level, evaluation):
    (tmp_path / "d.txt").write_bytes(b"abc" * 100 + "ü".encode()[:1])
    with pytest.raises(UserError, match="is not UTF-8 text"):
        stream(tmp_path / "d.txt", byte_level, eval_dataset=evaluation).train[0]


def test_a_hub_layout_is_streamed_and_gone_on_with(tmp_path, byte_level, evaluation):
    documents = texts(150)
    folder = write("parquet", tmp_path / "data", documents)
    (folder / "README.md").write_text(
        '---\nconfigs:\n- config_name: c\n  data_files:\n  - split: train\n    path: "*.parquet"\n---\n'
    )
    options = {"dataset_config": "c", "eval_dataset": evaluation}
    train = stream(folder, byte_level, **options).train
    expected = joined([*documents, *documents])
    count = len(expected) // WIDTH
    assert tokens(train, count) == expected[: count * WIDTH]
    for index in (5, 70, count - 30):
        fresh = stream(folder, byte_level, **options).train
        other = pickle.loads(pickle.dumps(fresh))
        other.restore(train.position(index))
        np.testing.assert_array_equal(other[index + 9]["input_ids"], train[index + 9]["input_ids"])


def test_documents_are_held_out_by_hash_and_never_trained_on(tmp_path, byte_level):
    documents = texts(300)
    path = write_jsonl(tmp_path / "d.jsonl", documents * 2)
    data = stream(path, byte_level, eval_fraction=0.2, test_fraction=0.0, max_eval_blocks=3)
    held_out = [text for text in documents if document_key(text) < 0.2 * 2**64]
    kept = [text for text in documents if text not in held_out]
    assert 30 < len(held_out) < 90
    assert [t for row in data.eval for t in row["input_ids"][1:].tolist()] == joined(held_out)[: 3 * WIDTH]
    count = len(joined(kept)) // WIDTH + 10
    assert tokens(data.train, count) == joined(kept * 2)[: count * WIDTH]
    assert "20 % of its documents are held out" in data.summary()


@pytest.mark.borders
def test_a_stream_holds_out_a_test_beside_its_evaluation(tmp_path, byte_level):
    documents = texts(300)
    path = write_jsonl(tmp_path / "d.jsonl", documents)
    data = stream(path, byte_level, eval_fraction=0.2, test_fraction=0.1, max_eval_blocks=3)
    keys = {text: document_key(text) / 2**64 for text in documents}
    test = [text for text in documents if 0.2 <= keys[text] < 0.3]
    assert [t for row in data.test for t in row["input_ids"][1:].tolist()] == joined(test)[: 3 * WIDTH]
    kept = [text for text in documents if keys[text] >= 0.3]
    count = len(joined(kept)) // WIDTH + 10
    assert tokens(data.train, count) == joined(kept * 2)[: count * WIDTH]
    options = {"eval_fraction": 0.2, "test_fraction": 0.1, "max_eval_blocks": 3, "eval_split": "test"}
    options |= {"dataset": str(path), "streaming": True, "block_size": 16}
    again = prepare_data(DataOptions(**options), byte_level, need_train=False)
    assert [row["input_ids"].tolist() for row in again.eval] == [row["input_ids"].tolist() for row in data.test]


def test_an_evaluation_split_is_used_and_its_documents_are_left_out(tmp_path, byte_level):
    folder = tmp_path / "data"
    folder.mkdir()
    shared, *documents = texts(50)
    write_jsonl(folder / "train.jsonl", [documents[0], shared, *documents[1:]])
    write_jsonl(folder / "validation.jsonl", [shared, *texts(5, seed=1)])
    data = stream(folder, byte_level, max_eval_blocks=100)
    assert [t for row in data.eval for t in row["input_ids"][1:].tolist()][: len(shared.encode())] == list(
        shared.encode()
    )
    assert tokens(data.train, 40) == joined(documents)[: 40 * WIDTH]


def test_a_budget_of_chunks_ends_the_stream(tmp_path, byte_level, evaluation, caplog):
    path = write_jsonl(tmp_path / "d.jsonl", texts(30))
    data = stream(path, byte_level, eval_dataset=evaluation, max_chunks=3, tokens_per_chunk=80)
    assert len(data.train) == data.counts["train"].blocks == 3 * 80 // 16
    assert data.train[14]["input_ids"].shape == (16,)
    with pytest.raises(IndexError):
        data.train[15]
    assert not caplog.records
    longer = stream(path, byte_level, eval_dataset=evaluation, max_chunks=100, tokens_per_chunk=80).train
    with caplog.at_level(logging.WARNING):
        for index in range(len(longer)):
            assert longer[index] is not None
    assert caplog.text.count("is read again from its beginning") == 1


@pytest.mark.parametrize(
    ("workers", "start"), [(0, None), (1, "fork"), (2, "fork"), pytest.param(2, "spawn", marks=pytest.mark.slow)]
)
def test_workers_give_the_same_batches_and_their_positions_are_known(tmp_path, byte_level, evaluation, workers, start):
    path = write_jsonl(tmp_path / "d.jsonl", texts(100))
    train = stream(path, byte_level, eval_dataset=evaluation).train
    assert train[0] is not None  # its thread runs when workers are forked
    order = [8 * window + place for window in range(12) for place in (3, 0, 7, 1, 2, 6, 5, 4)]
    context = {"multiprocessing_context": start} if workers else {}
    loader = DataLoader(train, batch_size=5, sampler=order, num_workers=workers, collate_fn=_stacked, **context)
    found = np.concatenate(list(loader))
    alone = stream(path, byte_level, eval_dataset=evaluation).train
    np.testing.assert_array_equal(found, np.stack([alone[index]["input_ids"] for index in order]))
    assert train.position(90)["window"] == 11


def _stacked(rows):
    return np.stack([row["input_ids"] for row in rows])


def test_the_file_of_positions_goes_with_the_stream(tmp_path, byte_level, evaluation):
    train = stream(write_jsonl(tmp_path / "d.jsonl", texts(100)), byte_level, eval_dataset=evaluation).train
    path = train._states.path
    assert path.exists()
    del train
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "content", "options", "sentence"),
    [
        ("d.csv", "text\na\n", {}, "cannot be read as a stream: convert it to .jsonl, .txt or .parquet"),
        ("d.jsonl", '{"text": "a"}\n' * 50 + "{oops\n", {"eval_dataset": "e"}, "the line at byte 700 of"),
        ("d.jsonl", '{"other": "a"}\n', {}, "has no column 'text'"),
        ("d.jsonl", '{"text": "a"}\n', {"train_split": "train[:50%]"}, "a stream has no slices"),
        ("d.jsonl", '{"text": ""}\n', {"eval_dataset": "e"}, "holds no text to train on"),
        ("d.jsonl", '{"text": "a"}\n' * 9, {"eval_fraction": 1e-9}, "to evaluate on"),
        ("d.parquet", "no parquet", {"eval_dataset": "e"}, "cannot read"),
    ],
)
def test_bad_streams_are_one_sentence(tmp_path, byte_level, evaluation, name, content, options, sentence):
    (tmp_path / name).write_text(content)
    if "eval_dataset" in options:
        options = {**options, "eval_dataset": evaluation}
    with pytest.raises(UserError, match=sentence) as caught:
        tokens(stream(tmp_path / name, byte_level, **options).train, 100)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [("python-docs", "leave out streaming"), ("no/such-data", "cannot stream data set 'no/such-data'")],
)
def test_what_is_no_stream_is_refused(dataset, sentence, byte_level, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=sentence):
        stream(dataset, byte_level)


def test_a_save_to_disk_folder_is_refused(tmp_path, byte_level):
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match="leave out streaming"):
        stream(tmp_path / "saved", byte_level)


def test_held_out_documents_are_found_once(tmp_path, byte_level: PreTrainedTokenizerBase, monkeypatch):
    path = write_jsonl(tmp_path / "d.jsonl", texts(200))
    first = stream(path, byte_level, eval_fraction=0.3)
    monkeypatch.setattr(evaluation_of_streams, "_texts", None)  # a second search would fail
    again = stream(path, byte_level, eval_fraction=0.3)
    assert again.fingerprint == first.fingerprint
    assert [row["input_ids"].tolist() for row in again.eval] == [row["input_ids"].tolist() for row in first.eval]
    moved = Path(shutil.copy(path, tmp_path / "other")).rename(tmp_path / "other.jsonl")
    with pytest.raises(TypeError):
        stream(moved, byte_level, eval_fraction=0.3)  # another name: another text, for all one knows
