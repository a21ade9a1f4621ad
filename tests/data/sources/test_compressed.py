"""Compressed shards are read as the text that they hold; what tells of the data is no text, and what is not read is named."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pytest

from hf_difflm.data import DataOptions, load_tokenizer, prepare_data
from hf_difflm.data.conversations.rows import load_conversations
from hf_difflm.data.sources.folders import find_files, left_out
from hf_difflm.data.sources.local_files import load_local
from hf_difflm.data.streaming.files import Files
from hf_difflm.data.streaming.open import open_stream
from hf_difflm.data.streaming.sources import TextColumn
from hf_difflm.errors import UserError

pytestmark = pytest.mark.borders

COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}
ROWS = "".join(json.dumps({"text": f"row {i} " + "é😀 words " * (i % 40)}) + "\n" for i in range(3000)).encode()
TEXT = ("a line of text, é😀\n" * 5000 + "one long line " * 9000).encode()
LICENCE = "Permission is hereby granted, free of charge, to any person"


def shards(folder: Path, suffix: str) -> Path:
    """Two shards, one of two members, beside what belongs to no data set."""
    folder.mkdir()
    lines = ROWS.splitlines(keepends=True)
    parts = [b"".join(lines[start:stop]) for start, stop in ((0, 700), (700, 1200), (1200, 3000))]
    compress = COMPRESS[suffix]
    (folder / f"shard-0.jsonl{suffix}").write_bytes(compress(parts[0]) + compress(parts[1]))
    (folder / f"shard-1.jsonl{suffix}").write_bytes(compress(parts[2]))
    (folder / "LICENSE.txt").write_text(LICENCE)
    (folder / "README.md").write_text("About")
    (folder / "old.parquet.gz").write_bytes(b"")
    return folder


@pytest.mark.parametrize("suffix", COMPRESS)
def test_shards_are_read_and_the_licence_is_not(tmp_path, suffix):
    folder = shards(tmp_path / "data", suffix)
    expected = [json.loads(line)["text"] for line in ROWS.decode().splitlines()]
    assert load_local(folder, "text")[0]["train"]["text"][:] == expected
    assert [
        piece.text for piece in open_stream(str(folder), None, TextColumn("text")).source("train").pieces()
    ] == expected
    assert left_out(folder) == f"left out 3 files of {folder}: LICENSE.txt, README.md, old.parquet.gz"


def test_what_was_left_out_is_a_note_of_the_data(tmp_path):
    folder = shards(tmp_path / "data", ".gz")
    note = left_out(folder)
    for streaming in (False, True):
        options = DataOptions(dataset=str(folder), block_size=64, streaming=streaming, max_eval_blocks=8)
        assert f"note: {note}" in prepare_data(options, load_tokenizer("bytes")).summary()


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_stream_goes_on_at_any_piece(tmp_path, suffix):
    for name, content in (("rows.jsonl", ROWS), ("text.txt", TEXT)):
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"{name}{suffix}").write_bytes(COMPRESS[suffix](content))
        plain = list(Files("x", (tmp_path / name,), TextColumn("text")).pieces())
        source = Files("x", (tmp_path / f"{name}{suffix}",), TextColumn("text"))
        assert list(source.pieces()) == plain
        for place in (1, len(plain) // 2, len(plain) - 1):
            assert list(source.pieces(plain[place].position)) == plain[place:]


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("kind", [".txt", ".json", ".csv"])
def test_other_kinds_may_be_compressed_too(tmp_path, kind, suffix):
    long = "x" * 200_000
    content = {".txt": long, ".json": json.dumps([{"text": long}]), ".csv": f'n,text\n1,"{long}"\n'}[kind]
    (tmp_path / f"a{kind}{suffix}").write_bytes(COMPRESS[suffix](content.encode()))
    assert load_local(tmp_path / f"a{kind}{suffix}", "text")[0]["train"]["text"][:] == [long]


def test_splits_are_told_by_names_with_two_suffixes(tmp_path):
    for name in ("train-00000-of-00001", "valid"):
        (tmp_path / f"{name}.jsonl.zst").write_bytes(COMPRESS[".zst"](json.dumps({"text": name}).encode()))
    assert list(load_local(tmp_path, "text")[0]) == ["train", "validation"]


def test_conversations_may_be_compressed(tmp_path):
    row = json.dumps({"prompt": "2 + 2 =", "completion": "4"}) + "\n"
    (tmp_path / "chats.jsonl.xz").write_bytes(COMPRESS[".xz"](row.encode() * 3))
    (tmp_path / "LICENSE.txt").write_text(LICENCE)
    assert len(load_conversations(str(tmp_path)).splits["train"]) == 3


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_damaged_file_is_one_sentence(tmp_path, suffix):
    for name, content in (("cut", COMPRESS[suffix](ROWS)[:-30]), ("other", b"no such format")):
        path = tmp_path / f"{name}.jsonl{suffix}"
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.jsonl{suffix} cannot be decompressed"):
            load_local(path, "text")
        with pytest.raises(UserError, match=f"{name}.jsonl{suffix} cannot be decompressed"):
            list(Files("x", (path,), TextColumn("text")).pieces())


def test_a_folder_of_licences_and_a_licence_by_its_name_are_text(tmp_path):
    (tmp_path / "LICENSE-MIT.txt").write_text(LICENCE)
    assert load_local(tmp_path, "text")[0]["train"]["text"][:] == [LICENCE]
    assert left_out(tmp_path) == ""
    (tmp_path / "licensed.txt").write_text("text")
    assert [file.name for file in find_files(tmp_path)] == ["licensed.txt"]
    assert find_files(tmp_path / "LICENSE-MIT.txt") == [tmp_path / "LICENSE-MIT.txt"]


def test_of_many_files_kinds_are_counted(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    for name in ("1.md", "2.md", "3.md", "4.md", "5.md", "6.pdf", "Makefile"):
        (tmp_path / name).write_text("x")
    assert left_out(tmp_path).endswith(": 1.md, 2.md, 3.md, 2 more .md, 1 more .pdf, 1 more without a suffix")
