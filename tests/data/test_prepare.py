from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_difflm.data import Collator, DataOptions, MarkovSource, PreparedData, load_tokenizer, prepare_data
from hf_difflm.data.prepared import SideCounts
from hf_difflm.errors import UserError

Prepare = Callable[..., PreparedData]


def words(number: int) -> str:
    return f"document number {number} says {'na ' * (number % 5 + 1)}"


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def text_of(blocks: datasets.Dataset) -> list[str]:
    """The documents in packed blocks of bytes, the last one perhaps cut."""
    ids = np.concatenate([row["input_ids"][1:] for row in blocks])
    return bytes(np.where(ids == 257, 0xFF, ids).astype(np.uint8)).decode("latin-1").split("\xff")


def test_documents_are_held_out_where_there_is_no_evaluation_split(prepare: Prepare, tmp_path: Path) -> None:
    texts = [words(number) for number in range(40)]
    data = prepare(write_jsonl(tmp_path / "a.jsonl", [*texts, *texts[:10]]), eval_fraction=0.25)
    train, evaluation, test = (set(text_of(blocks)[:-1]) for blocks in (data.train, data.eval, data.test))
    assert train.isdisjoint(evaluation | test)
    assert test.isdisjoint(evaluation)
    assert len(evaluation) in (9, 10)  # the last one may have lost its end
    assert len(test) in (9, 10)
    assert sum(count.documents for count in data.counts.values()) == 50
    assert any("has no evaluation split: held out" in note for note in data.notes)


def test_counts_add_up_and_the_summary_says_them(prepare: Prepare, tmp_path: Path) -> None:
    texts = [words(number) for number in range(40)]
    path = write_jsonl(tmp_path / "a.jsonl", [*texts, ""])
    data = prepare(path)
    total = sum(len(text) for text in texts)
    documents, tokens = (
        sum(getattr(count, name) for count in data.counts.values()) for name in ("documents", "tokens")
    )
    dropped = sum(count.dropped_tokens for count in data.counts.values())
    assert documents == 40
    assert tokens + dropped == total + 37  # an EOS between documents on each side
    for side, blocks in (("train", data.train), ("eval", data.eval), ("test", data.test)):
        count = data.counts[side]
        assert (count.blocks, count.tokens) == (len(blocks), 7 * len(blocks))
        assert count.num_bytes == sum(row["num_bytes"] for row in blocks)
    assert f"train: 36 documents, {data.counts['train'].blocks:,} blocks of 8 tokens" in data.summary()
    assert "left out 1 empty document of split 'train' of data set" in data.summary()


def test_summary_of_large_numbers_has_commas_and_singulars() -> None:
    counts = {"train": SideCounts(812, 15200, 1930400, 1, 1900000), "eval": SideCounts(1, 1, 127, 0, 100)}
    empty = datasets.Dataset.from_dict({})
    assert PreparedData(None, empty, 1.5, "f", counts, 128, ["a note"]).summary().splitlines() == [
        "train: 812 documents, 15,200 blocks of 128 tokens, 1,930,400 scored tokens, 1,900,000 bytes "
        "(1 token dropped at the end)",
        "eval: 1 document, 1 block of 128 tokens, 127 scored tokens, 100 bytes",
        "the source itself has 1.5000 nats per token on the evaluation blocks",
        "note: a note",
    ]


def test_one_text_file_trains_on_its_beginning_and_evaluates_on_its_end(prepare: Prepare, tmp_path: Path) -> None:
    content = "".join(chr(ord("a") + number % 26) for number in range(1000))
    (tmp_path / "a.txt").write_text(content)
    data = prepare(tmp_path / "a.txt", eval_fraction=0.1)
    assert "".join(text_of(data.train)) == content[: 800 // 7 * 7]
    assert "".join(text_of(data.test)) == content[800 : 800 + 100 // 7 * 7]
    assert "".join(text_of(data.eval)) == content[900 : 900 + 100 // 7 * 7]
    assert any("is one document: its last 10 % are for evaluation, the 10 % before them" in note for note in data.notes)
    assert data.counts["train"].dropped_tokens == 800 % 7
    whole = prepare(tmp_path / "a.txt", eval_fraction=0.1, test_fraction=0.0)
    assert "".join(text_of(whole.train)) == content[: 900 // 7 * 7]
    assert (text_of(whole.eval), whole.test) == (text_of(data.eval), None)


@pytest.mark.borders
def test_the_test_that_was_held_out_is_found_again_by_its_name(prepare: Prepare, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [words(number) for number in range(40)])
    data = prepare(path, eval_fraction=0.25)
    again = prepare(path, eval_fraction=0.25, eval_split="test", need_train=False)
    assert text_of(again.eval) == text_of(data.test) != text_of(data.eval)
    assert again.test is None
    validation = prepare(path, eval_fraction=0.25, eval_split="validation", need_train=False)
    assert text_of(validation.eval) == text_of(data.eval)
    with pytest.raises(UserError, match="has no split 'test'"):  # which would choose the weights and be the headline
        prepare(path, eval_fraction=0.25, eval_split="test")
    with pytest.raises(UserError, match="test_fraction 0 holds none out"):
        prepare(path, test_fraction=0.0, eval_split="test", need_train=False)
    with pytest.raises(UserError, match="leave no text to train on"):
        prepare(path, eval_fraction=0.5, test_fraction=0.5)


@pytest.mark.borders
def test_too_little_text_for_a_test_is_trained_on_and_a_set_with_splits_keeps_the_evaluation_set_it_has(
    prepare: Prepare, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("abcdefghij" * 10)
    data = prepare(tmp_path / "a.txt", eval_fraction=0.1, test_fraction=0.03)  # 3 characters, and a block has 7
    assert data.test is None
    assert "".join(text_of(data.train)) == ("abcdefghij" * 9)[: 90 // 7 * 7]
    assert "too little text to hold out a test" in data.summary()
    folder = save_splits(
        tmp_path / "s", train=[words(n) for n in range(20)], validation=[words(n) for n in range(30, 35)]
    )
    assert prepare(folder).test is None
    assert prepare("markov", block_size=8).test is None


def save_splits(folder: Path, **splits: list[str]) -> Path:
    rows = {name: datasets.Dataset.from_dict({"text": texts}) for name, texts in splits.items()}
    datasets.DatasetDict(rows).save_to_disk(str(folder))
    return folder


@pytest.mark.parametrize(
    ("options", "train", "evaluation"),
    [
        ({}, "train text", "validation"),
        ({"eval_split": "test"}, "train text", "test text"),
        ({"train_split": "validation"}, "validation", "test text"),
        ({"train_split": "train+validation", "eval_split": "test"}, "train text", "test text"),
    ],
)
def test_the_evaluation_split_is_the_given_one_else_validation_else_test(
    options: dict[str, str], train: str, evaluation: str, prepare: Prepare, tmp_path: Path
) -> None:
    splits = {"train": ["train text"], "validation": ["validation"], "test": ["test text"]}
    data = prepare(save_splits(tmp_path / "d", **splits), block_size=4, **options)
    assert text_of(data.train)[0].startswith(train[:9])
    assert text_of(data.eval)[0].startswith(evaluation[:9])


def test_documents_in_both_splits_are_dropped_from_training_and_noted(prepare: Prepare, tmp_path: Path) -> None:
    folder = save_splits(tmp_path / "d", train=["shared text", "only for training"], test=["shared text"])
    data = prepare(folder)
    assert "shared" not in "".join(text_of(data.train))
    assert text_of(data.eval)[0] == "shared "
    assert any("left out 1 training document of 2" in note for note in data.notes)


def test_a_slice_that_is_trained_and_evaluated_keeps_them_apart(prepare: Prepare, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [words(number) for number in range(10)])
    data = prepare(path, train_split="train[:80%]", eval_split="train[70%:]")
    assert (data.counts["train"].documents, data.counts["eval"].documents) == (7, 3)
    with pytest.raises(UserError, match="every document of split 'train' is an evaluation document, too"):
        prepare(path, eval_split="train")


def test_another_data_set_can_be_evaluated_on(prepare: Prepare, tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", ["a training document", "a shared document"])
    evaluation = write_jsonl(tmp_path / "other.jsonl", ["something else", "a shared document"])
    data = prepare(train, eval_dataset=str(evaluation))
    assert text_of(data.eval)[0] == "something else"
    assert data.counts["train"].documents == 1


def test_evaluation_alone_gives_the_same_blocks_and_reads_no_training_set(prepare: Prepare, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [words(number) for number in range(40)])
    both, alone = prepare(path), prepare(path, need_train=False)
    assert alone.train is None
    assert list(alone.counts) == ["eval"]
    assert [row["input_ids"].tolist() for row in alone.eval] == [row["input_ids"].tolist() for row in both.eval]
    assert len(prepare("missing.txt", eval_dataset=str(path), need_train=False).eval) > 0


def test_limits_keep_the_first_blocks(prepare: Prepare, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [words(number) for number in range(40)])
    whole, limited = prepare(path), prepare(path, max_train_blocks=3, max_eval_blocks=2)
    assert (len(limited.train), len(limited.eval)) == (3, 2)
    assert [row["input_ids"].tolist() for row in limited.train] == [
        row["input_ids"].tolist() for row in whole.train.select(range(3))
    ]
    assert limited.counts["eval"].blocks == 2
    assert any("train: used the first 3 of" in note for note in limited.notes)
    held = len({id for row in limited.eval for id in row["document_ids"].tolist()} - {-1})
    assert any("eval: used the first 2 of" in note and f"of {held} of" in note for note in limited.notes)


@pytest.mark.parametrize("block_size", [2, 16])
def test_markov_documents_are_blocks_whose_exact_likelihood_is_reported(prepare: Prepare, block_size: int) -> None:
    data = prepare("markov", block_size=block_size, max_eval_blocks=100)
    ids = np.array([row["input_ids"] for row in data.eval])
    assert (ids[:, 0] == 256).all()
    assert set(ids[:, 1:].reshape(-1).tolist()) <= set(b"abcdefgh")
    expected = MarkovSource().sequence_nll(ids[:, 1:] - ord("a")).sum() / (100 * (block_size - 1))
    assert data.source_nll == pytest.approx(expected, abs=1e-12)
    assert data.counts["train"] == SideCounts(8192, 8192, 8192 * (block_size - 1), 0, 8192 * (block_size - 1))


def test_markov_is_never_evaluated_on_what_it_trains_on(prepare: Prepare) -> None:
    assert prepare("markov", train_split="train[:50%]", eval_split="train[50%:]").counts["eval"].documents == 4096
    for eval_split in ("train", "train[50%:]+test"):
        with pytest.raises(UserError, match="of 'markov' share documents"):
            prepare("markov", eval_split=eval_split)


def test_markov_needs_one_token_per_letter(prepare: Prepare, tmp_path: Path) -> None:
    tokenizer = load_tokenizer("bytes")
    tokenizer.save_pretrained(tmp_path)
    assert prepare("markov", load_tokenizer(str(tmp_path))).source_nll == prepare("markov").source_nll
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.save(str(tmp_path / "words.json"))
    with pytest.raises(UserError, match="set tokenizer to bytes"):
        prepare("markov", load_tokenizer(str(tmp_path / "words.json")))


def test_any_tokenizer_accounts_for_every_byte(prepare: Prepare, tmp_path: Path, gpt2_like: Path) -> None:
    texts = [f"The cat 😀 {words(number)} naïve\r\n" for number in range(40)]
    tokenizer = load_tokenizer(str(gpt2_like))
    data = prepare(write_jsonl(tmp_path / "a.jsonl", texts), tokenizer, block_size=2)  # blocks of one token: no tail
    assert sum(count.num_bytes for count in data.counts.values()) == sum(len(text.encode("utf-8")) for text in texts)
    assert all(row["input_ids"][0] == tokenizer.bos_token_id for row in data.eval)


def test_the_fingerprint_changes_with_text_tokenizer_and_block_size(
    prepare: Prepare, tmp_path: Path, gpt2_like: Path
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [words(number) for number in range(40)])
    other = write_jsonl(tmp_path / "b.jsonl", [words(number) for number in range(41)])
    runs = [
        prepare(path),
        prepare(path, block_size=9),
        prepare(other),
        prepare(path, load_tokenizer(str(gpt2_like))),
        prepare(path, eval_fraction=0.2),
    ]
    assert len({data.fingerprint for data in runs}) == 5
    assert prepare(path).fingerprint == runs[0].fingerprint


def test_blocks_collate_without_padding(prepare: Prepare, tmp_path: Path) -> None:
    tokenizer = load_tokenizer("bytes")
    data = prepare(write_jsonl(tmp_path / "a.jsonl", [words(number) for number in range(40)]))
    batch = Collator(tokenizer)([data.eval[1], data.eval[0]])
    assert batch["index"].tolist() == [1, 0]
    assert batch["document_ids"].shape == batch["labels"].shape == (2, 8)
    assert (batch["document_ids"] == -1).sum() == (batch["labels"] == -100).sum() == 2


RUN = """
import json, sys
import datasets
from hf_difflm.data import DataOptions, load_tokenizer, prepare_data
from hf_difflm.data import encoding
from hf_difflm.data.packing import blocks
from hf_difflm.data.sources import documents, local_files
if sys.argv[1] == "cached":
    def refuse(*args):
        raise SystemExit("computed again")
    encoding.DocumentEncoder.__call__ = blocks.Packer.__call__ = documents._hash_table = local_files._texts = refuse
tokenizer = load_tokenizer(sys.argv[2])
for dataset in sys.argv[3:]:
    chosen = load_tokenizer("bytes") if dataset == "markov" else tokenizer
    data = prepare_data(DataOptions(dataset=dataset, block_size=8), chosen)
    print(json.dumps([data.fingerprint, data.notes, [row["input_ids"].tolist() for row in data.eval]]))
"""


@pytest.mark.slow
def test_a_second_process_finds_everything_in_the_cache(tmp_path: Path, gpt2_like: Path) -> None:
    lines = write_jsonl(tmp_path / "a.jsonl", [words(number) for number in range(40)])
    saved = save_splits(tmp_path / "saved", train=[words(number) for number in range(40)])
    (tmp_path / "lone.txt").write_text(words(1) * 50)
    environment = {
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": ":".join(sys.path),
        "OMP_NUM_THREADS": "1",
    }
    outputs = []
    for run in ("first", "cached"):
        command = [sys.executable, "-c", RUN, run, gpt2_like, "markov", lines, saved, tmp_path / "lone.txt"]
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr
        outputs.append(result.stdout)
    assert outputs[0] == outputs[1]
    assert len(outputs[0].splitlines()) == 4
    assert not list(saved.rglob("cache-*")), "the user's folder stays as it was"


TWO_PROCESSES = """
import os
from accelerate import PartialState
from hf_difflm.data import DataOptions, encoding, load_tokenizer, prepare_data
encode = encoding.DocumentEncoder.__call__
def say(self, table):
    print("encoding in rank", os.environ["RANK"], flush=True)
    return encode(self, table)
encoding.DocumentEncoder.__call__ = say
PartialState(cpu=True)
data = prepare_data(DataOptions(dataset="markov", block_size=8), load_tokenizer("bytes"))
print("prepared", data.fingerprint, flush=True)
os._exit(0)  # a thread of gloo may abort a process that is taken down
"""


@pytest.mark.slow
def test_of_two_processes_the_first_prepares_and_the_other_finds_it(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(TWO_PROCESSES)
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node=2",
            str(tmp_path / "script.py"),
        ],
        capture_output=True,
        text=True,
        check=True,
        env={
            "PATH": os.environ["PATH"],
            "HF_DATASETS_CACHE": str(tmp_path / "cache"),
            "PYTHONPATH": ":".join(sys.path),
            "OMP_NUM_THREADS": "1",
        },
    )
    lines = result.stdout.splitlines()
    assert "encoding in rank 0" in lines
    assert "encoding in rank 1" not in lines
    prepared = [line for line in lines if line.startswith("prepared")]
    assert len(prepared) == 2
    assert len(set(prepared)) == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"block_size": 1}, "block_size is 1"),
        ({"eval_fraction": 0.0}, "eval_fraction is 0"),
        ({"eval_fraction": float("nan")}, "eval_fraction is nan"),
        ({"train_split": "trian"}, r"no split 'trian', its splits are train; did you mean 'train'\?"),
        ({"eval_split": "valid"}, "no split 'valid', its splits are train"),
        ({"text_column": "body"}, "no column 'body', its columns are text"),
        ({"block_size": 100_000}, r"the training text has 1,\d\d\d tokens, fewer than one block of 100,000 needs"),
        ({"block_size": 500}, r"the evaluation text has \d+ tokens, .* lower block_size to at most \d+"),
    ],
)
def test_bad_options_are_one_sentence(
    options: dict[str, object], sentence: str, prepare: Prepare, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [words(number) for number in range(40)])
    with pytest.raises(UserError, match=sentence) as error:
        prepare(path, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("", "only empty documents"), ("x", "too short to hold out"), ("xy", "fewer than one block")],
)
def test_too_little_text_is_one_sentence(content: str, sentence: str, prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(UserError, match=sentence):
        prepare(tmp_path / "a.txt")


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = (
        "import sys, hf_difflm.data; hf_difflm.data.DataOptions();"
        "print([name for name in ('torch', 'transformers', 'datasets', 'numpy', 'tokenizers') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert result.stdout.strip() == "[]"


def test_what_was_decided_on_the_way_is_logged_once(tmp_path, prepare, caplog):
    path = tmp_path / "text.jsonl"
    path.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in ["", *("abcdefgh" * n for n in range(1, 60))])
    )
    with caplog.at_level(logging.WARNING, "hf_difflm.data.prepare"):
        data = prepare(path, max_train_blocks=3)
    assert any("left out 1 empty document" in note for note in data.notes)
    assert [record.getMessage() for record in caplog.records] == data.notes


def test_a_tokenizer_that_lacks_what_blocks_are_made_of_is_refused(tmp_path, gpt2_like):
    path = write_jsonl(tmp_path / "a.jsonl", [words(number) for number in range(40)])
    bare = PreTrainedTokenizerFast(tokenizer_file=str(gpt2_like))
    with pytest.raises(
        UserError, match=r"has no BOS token; load it with hf_difflm\.data\.load_tokenizer, which adds one"
    ):
        prepare_data(DataOptions(dataset=str(path), block_size=8), bare)
    bare.bos_token = "<|endoftext|>"
    with pytest.raises(UserError, match="has no EOS token"):
        prepare_data(DataOptions(dataset=str(path), block_size=8), bare)
    with pytest.raises(UserError, match="is a object, which has no fast form"):
        prepare_data(DataOptions(dataset=str(path), block_size=8), object())


def test_rows_in_memory_are_refused_and_a_path_is_taken(tmp_path, byte_level):
    rows = datasets.Dataset.from_list([{"text": words(number) * 9} for number in range(60)])
    for options in (DataOptions(dataset=rows), DataOptions(dataset="markov", eval_dataset=rows)):
        with pytest.raises(UserError, match=r"dataset is a Dataset, .* save_to_disk\(FOLDER\)"):
            prepare_data(options, byte_level)
    with pytest.raises(UserError, match=r"write them as text: dataset='a=0\.7 b=0\.3'"):
        prepare_data(DataOptions(dataset={"a": 0.7, "b": 0.3}), byte_level)
    rows.save_to_disk(tmp_path / "rows")
    named = [prepare_data(DataOptions(dataset=name, block_size=8), byte_level)
             for name in (tmp_path / "rows", str(tmp_path / "rows"))]  # fmt: skip
    assert named[0].fingerprint == named[1].fingerprint
