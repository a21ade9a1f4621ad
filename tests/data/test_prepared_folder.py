"""Prepared blocks are those that would be made anew; a folder that is not what it says is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from streams import joined, stream, texts, write_jsonl

from hf_difflm.data import DataOptions, load_tokenizer, prepare_data
from hf_difflm.data.prepared_folder import CARD, write_prepared
from hf_difflm.errors import UserError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "corpus.jsonl", texts(200))


@pytest.fixture
def prepared(tmp_path, corpus, byte_level):
    """``prepared(**options)``: the folder of prepared blocks, what they were made from, and the options."""

    def make(tokenizer=byte_level, **options):
        settings = DataOptions(dataset=str(corpus), **({"block_size": 16} | options))
        data = prepare_data(settings, tokenizer)
        write_prepared(data, tmp_path / "blocks", settings, tokenizer)
        return tmp_path / "blocks", data

    return make


def load(folder: Path, with_tokenizer, **options):
    return prepare_data(DataOptions(dataset=str(folder), **({"block_size": 16} | options)), with_tokenizer)


def assert_same(ours, theirs) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip((ours[i] for i in range(len(ours))), (theirs[i] for i in range(len(theirs))), strict=True):
        for name in mine:
            np.testing.assert_array_equal(mine[name], other[name])


def test_the_blocks_are_those_of_the_data_set(prepared, byte_level):
    folder, data = prepared()
    found = load(folder, byte_level)
    assert_same(found.train, data.train)
    assert_same(found.eval, data.eval)
    assert set(found.eval[0]) == {"input_ids", "num_bytes", "document_ids", "index"}
    assert (found.counts, found.fingerprint, found.notes) == (data.counts, data.fingerprint, data.notes)
    assert (folder / "train-input_ids.bin").stat().st_size == len(data.train) * 16 * 2  # ids of two bytes


def test_ids_of_a_large_vocabulary_fit(prepared, gpt2_like, byte_level):
    tokenizer = load_tokenizer(str(gpt2_like))
    tokenizer.add_tokens([f"<{number}>" for number in range(1 << 16)])
    folder, data = prepared(tokenizer=tokenizer)
    found = load(folder, tokenizer)
    assert_same(found.train, data.train)
    assert (folder / "train-input_ids.bin").stat().st_size == len(data.train) * 16 * 4


def test_a_stream_is_prepared_as_one_pass_over_its_text(tmp_path, corpus, byte_level):
    settings = DataOptions(dataset=str(corpus), streaming=True, block_size=16, shuffle_window=8, max_eval_blocks=4)
    data = prepare_data(settings, byte_level)
    counts = write_prepared(data, tmp_path / "blocks", settings, byte_level)
    found = load(tmp_path / "blocks", byte_level, streaming=True)  # as a recipe may say
    again = stream(corpus, byte_level, max_eval_blocks=4).train
    assert len(found.train) == counts["train"].blocks > 500
    assert_same(found.train, [again[index] for index in range(len(found.train))])
    kept = [text for text in texts(200) if text not in again.left_out]
    assert len(found.train) == len(joined(kept)) // 15
    assert_same(found.eval, data.eval)


def test_a_budget_limits_what_is_prepared_and_what_is_used(tmp_path, corpus, byte_level):
    settings = DataOptions(dataset=str(corpus), streaming=True, block_size=16, max_chunks=5, tokens_per_chunk=160)
    write_prepared(prepare_data(settings, byte_level), tmp_path / "blocks", settings, byte_level)
    assert len(load(tmp_path / "blocks", byte_level).train) == 50
    part = load(tmp_path / "blocks", byte_level, max_chunks=2, tokens_per_chunk=160, max_eval_blocks=3)
    assert (len(part.train), part.counts["train"].blocks, len(part.eval)) == (20, 20, 3)
    assert part.counts["eval"].num_bytes == sum(int(part.eval[i]["num_bytes"]) for i in range(3))


def test_workers_get_the_paths_and_not_the_blocks(prepared, byte_level):
    train = load(prepared()[0], byte_level).train
    packed = pickle.dumps(train)
    assert len(packed) < 1000
    assert_same(pickle.loads(packed), train)


def test_a_trainer_trains_on_prepared_blocks_as_on_the_data_set(prepared, byte_level, make_diffusion_trainer):
    folder, data = prepared()
    trainers = [
        make_diffusion_trainer(train=one.train, save_log_to_json=False) for one in (data, load(folder, byte_level))
    ]
    for trainer in trainers:
        trainer.train()
    ours, theirs = (dict(trainer.model.named_parameters()) for trainer in trainers)
    assert all((ours[name] == theirs[name]).all() for name in ours)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"block_size": 17}, "was prepared with block_size 16, not 17"),
        ({"eval_split": "test"}, "was prepared with eval_split None, not test"),
        ({"eval_fraction": 0.2}, "was prepared with eval_fraction 0.05, not 0.2"),
    ],
)
def test_other_options_are_refused(prepared, byte_level, options, sentence):
    folder, _ = prepared()
    with pytest.raises(UserError, match=sentence):
        load(folder, byte_level, **options)


def test_another_tokenizer_is_refused(prepared, gpt2_like):
    folder, _ = prepared()
    with pytest.raises(UserError, match="was prepared with tokenizer bytes, not gpt2-like"):
        load(folder, load_tokenizer(str(gpt2_like)), tokenizer="gpt2-like")


def truncate(folder: Path) -> None:
    path = folder / "train-input_ids.bin"
    path.write_bytes(path.read_bytes()[:-2])


def flip(folder: Path) -> None:
    path = folder / "eval-document_ids.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def unfinish(folder: Path) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | {"finished": False}))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (truncate, "train-input_ids.bin is damaged"),
        (flip, "eval-document_ids.bin is damaged"),
        (lambda folder: (folder / "train-input_ids.bin").unlink(), "train-input_ids.bin is missing"),
        (lambda folder: (folder / CARD).write_text("{"), "prepared.json is damaged"),
        (unfinish, "was never finished"),
    ],
)
def test_a_damaged_or_unfinished_folder_is_refused(prepared, byte_level, damage, sentence):
    folder, _ = prepared()
    damage(folder)
    with pytest.raises(UserError, match=sentence):
        load(folder, byte_level)


def test_what_a_folder_holds_is_not_overwritten_unasked(prepared, byte_level, corpus, tmp_path):
    folder, data = prepared()
    options = DataOptions(dataset=str(corpus), block_size=16)
    with pytest.raises(UserError, match="holds prepared blocks already"):
        write_prepared(data, folder, options, byte_level)
    write_prepared(data, folder, options, byte_level, overwrite=True)
    unfinish(folder)
    write_prepared(data, folder, options, byte_level)  # what was broken off is begun again
    with pytest.raises(UserError, match="is not empty and holds no prepared blocks"):
        write_prepared(data, tmp_path, options, byte_level, overwrite=True)
    again = DataOptions(dataset=str(folder), block_size=16)
    with pytest.raises(UserError, match="is prepared already"):
        write_prepared(data, tmp_path / "other", again, byte_level)


@pytest.mark.borders
@pytest.mark.parametrize(("kind", "known"), [("byte_level", True), ("gpt2_like", False)])
def test_a_folder_of_before_has_no_bytes_of_text_that_may_not_come_back(prepared, request, kind, known):
    tokenizer = request.getfixturevalue(kind)
    tokenizer = tokenizer if known else load_tokenizer(str(tokenizer))
    folder, _ = prepared(tokenizer)
    assert load(folder, tokenizer).counts["eval"].num_bytes > 0
    card = json.loads((folder / CARD).read_text())
    del card["round_trip"]  # as an earlier version wrote it
    (folder / CARD).write_text(json.dumps(card))
    for limit in (None, 2):
        found = load(folder, tokenizer, max_eval_blocks=limit)
        assert ("num_bytes" in found.eval[0]) == known
        assert (found.counts["eval"].num_bytes is not None) == known
        assert any("it has no bits per byte; prepare the data again" in note for note in found.notes) != known
