from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from hf_difflm.data.sources.local_files import load_local
from hf_difflm.errors import UserError


def texts(path: Path, column: str = "text", split: str = "train") -> list[str]:
    splits, bad = load_local(path, column)
    if bad:
        raise UserError(bad[0])
    return splits[split]["text"][:]


def test_a_txt_file_is_one_document_kept_byte_for_byte(tmp_path: Path) -> None:
    content = "first\r\nsecond\n\n\tnaïve 😀\r \x00\x0c\u2028 end \n"
    (tmp_path / "a.txt").write_bytes(content.encode("utf-8"))
    assert texts(tmp_path / "a.txt") == [content]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbftext")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "line"}\r\n')
    assert texts(tmp_path) == ["text", "line"]


def test_a_folder_may_mix_kinds_in_subfolders_and_ignores_others(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.jsonl").write_text('{"body": "from jsonl", "n": 1}\n\n{"body": null}\n', encoding="utf-8")
    (tmp_path / "a.txt").write_text("from txt")
    (tmp_path / "d.json").write_text('[{"body": "from json"}]')
    (tmp_path / "e.csv").write_text('body,n\n"from\r\ncsv",1\nNA,2\n', newline="")
    datasets.Dataset.from_dict({"body": ["from parquet"]}).to_parquet(str(tmp_path / "f.parquet"))
    (tmp_path / "g.pdf").write_bytes(b"%PDF")
    (tmp_path / ".hidden.txt").write_text("hidden")
    expected = ["from txt", "from json", "from\r\ncsv", "NA", "from jsonl", "", "from parquet"]
    assert texts(tmp_path, "body") == expected


@pytest.mark.parametrize(
    "content", ['{"text": "one"}', '{"text": "one"}\n{"text": "two"}\n', '[{"text": "one"}]', " \n"]
)
def test_json_may_be_an_array_an_object_or_lines(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    expected = [word for word in ("one", "two") if word in content]
    assert texts(tmp_path / "a.json") == (expected or [""])


def test_files_named_like_splits_are_splits(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert texts(tmp_path) == ["train-00000-of-00002", "train-00001-of-00002"]
    assert (texts(tmp_path, split="validation"), texts(tmp_path, split="test")) == (["valid"], ["test"])
    (tmp_path / "notes.txt").write_text("one file of another name, and all are one split")
    assert len(texts(tmp_path)) == 5


def test_saved_data_sets_load_with_their_splits(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"body": ["a", "b"], "label": [0, 1]})
    rows.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(str(tmp_path / "several"))
    assert texts(tmp_path / "one", "body") == ["a", "b"]
    assert texts(tmp_path / "several", "body", "test") == ["a"]
    with pytest.raises(UserError, match=r"column 'label' of .* holds int64, not text"):
        texts(tmp_path / "one", "label")
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(UserError, match="save it again"):
        texts(tmp_path / "one", "body")


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "old"}')
    assert texts(tmp_path / "a.jsonl") == ["old"]
    (tmp_path / "a.jsonl").write_text('{"text": "newer"}')
    assert texts(tmp_path / "a.jsonl") == ["newer"]


def jsonl(*lines: str | bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "a.jsonl"
        path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
        return path

    return write


def file(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return write


GOOD = json.dumps({"text": "good"})


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (jsonl(GOOD, "", '{"text": "cut', GOOD), r"line 3 of .*a\.jsonl is not valid JSON \(Unterminated string"),
        (jsonl(GOOD, "[" * 100_000), r"line 2 of .*a\.jsonl is not usable JSON"),
        (jsonl(GOOD, "1" * 5000), r"line 2 of .*a\.jsonl (is not usable JSON|holds int)"),
        (jsonl(GOOD, b'{"text": "\xff"}'), r"line 2 of .*a\.jsonl is not UTF-8 text \(byte 10 is 0xff\)"),
        (jsonl(GOOD, '["text"]'), r"line 2 of .*a\.jsonl holds list, not an object"),
        (jsonl(GOOD, '{"txt": "", "n": 1}'), r"no column 'text', its columns are txt, n; did you mean 'txt'\?"),
        (jsonl(GOOD, "{}"), r"line 2 of .*a\.jsonl has no column 'text', its columns are \(none\)"),
        (jsonl(GOOD, '{"text": 5}'), r"column 'text' in line 2 of .*a\.jsonl holds int, not text"),
        (jsonl(GOOD, r'{"text": "\ud83d"}'), r"line 2 of .*a\.jsonl holds half of a surrogate pair"),
        (file("a.json", b'[{"text": "a"}, {"body": "b"}]'), r"record 2 of .*a\.json has no column 'text'"),
        (file("a.json", b'[{"text": "a"},'), r"line 1 of .*a\.json is not valid JSON"),
        (file("a.txt", b"text \xfe\x00 noise"), r"a\.txt is not UTF-8 text \(byte 5 is 0xfe\): convert it"),
        (file("a.txt", "utf-16".encode("utf-16")), r"a\.txt is not UTF-8 text \(byte 0 is 0xff\)"),
        (file("a.csv", b"txt,n\na,1\n"), r"no column 'text', its columns are txt, n; did you mean 'txt'\?"),
        (file("a.csv", b"text,n\n1,1\n2,1\n"), r"column 'text' of .*a\.csv holds numbers, not text"),
        (file("a.csv", b"text\n\xff\xfe\n"), r"row 1 of .*a\.csv is not UTF-8 text"),
        (file("a.csv", b""), r"cannot read .*a\.csv as \.csv: it has no header"),
        (file("a.parquet", b"noise"), r"cannot read .*a\.parquet as \.parquet"),
        (file("a.pdf", b"%PDF"), r"cannot read .*a\.pdf: rename it to one of \.txt, \.jsonl"),
    ],
)
def test_bad_files_are_one_sentence_that_says_where(
    write: Callable[[Path], Path], sentence: str, tmp_path: Path
) -> None:
    path = write(tmp_path)
    with pytest.raises(UserError, match=sentence) as error:
        texts(path)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that even root cannot read")
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to("/proc/self/mem")
    with pytest.raises(UserError, match=r"cannot read .* \(Input/output error\)"):
        texts(tmp_path)


def test_a_folder_without_readable_files_says_what_would_be(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(UserError, match=r"holds no readable file: put \.txt, \.jsonl"):
        texts(tmp_path)
