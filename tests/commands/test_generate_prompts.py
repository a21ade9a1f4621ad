"""``generate``: prompts from everywhere, holes, JSON lines that come out one by one."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_difflm.evaluation.generation.options import GenerationOptions
from hf_difflm.evaluation.generation.texts import generate_samples
from hf_difflm.evaluation.quality.text_statistics import text_quality
from hf_difflm.evaluation.targets import load_target

CLI = Path(__file__).parents[2] / "cli.py"
SHORT = ["--max-new-tokens", "6", "--use-cpu"]


@pytest.fixture
def lines(hf):
    """The JSON lines of a command; nothing else may be on stdout."""

    def call(*args):
        result = hf("generate", *args, "--jsonl", "--use-cpu")
        assert result.code == 0, result.err
        return [json.loads(line) for line in result.out.splitlines()]

    return call


@pytest.fixture
def stdin(monkeypatch):
    def give(text):
        content = text if isinstance(text, bytes) else text.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))

    return give


@pytest.mark.parametrize("kind", ["trained", "trained_ar"])
def test_prompts_of_a_json_file_keep_what_else_stands_beside_them(lines, request, kind, tmp_path):
    run = request.getfixturevalue(kind)
    (tmp_path / "in.jsonl").write_text('{"id": 7, "prompt": "two\\nlines", "tags": ["x"]}\n"a string"\n')
    found = lines(run, "--prompt-file", "in.jsonl", "--num-samples", "2", *SHORT)
    assert [(row.get("id"), row["prompt"], row.get("tags")) for row in found] == [
        (7, "two\nlines", ["x"]),
        (7, "two\nlines", ["x"]),
        (None, "a string", None),
        (None, "a string", None),
    ]


def test_lines_end_at_newlines_alone_and_blank_ones_of_json_are_no_prompts(lines, hf, trained, stdin, tmp_path):
    content = '\ufeff{"prompt": "a\u2028b"}\r\n\n  \n{"prompt": "c\x85d"}\n\n'
    (tmp_path / "in.jsonl").write_text(content, encoding="utf-8")
    assert [row["prompt"] for row in lines(trained, "--prompt-file", "in.jsonl", *SHORT)] == ["a\u2028b", "c\x85d"]
    stdin(content)
    found = lines(trained, "--prompt-file", "-", "--prompt-format", "jsonl", *SHORT)
    assert [row["prompt"] for row in found] == ["a\u2028b", "c\x85d"]
    (tmp_path / "in.txt").write_text("\ufeffone\x0cpage\n\ntwo", encoding="utf-8")
    assert [row["prompt"] for row in lines(trained, "--prompt-file", "in.txt", *SHORT)] == ["one\x0cpage", "", "two"]
    (tmp_path / "blank.jsonl").write_text("\n \n")
    assert "prompt file blank.jsonl is empty" in hf("generate", trained, "--prompt-file", "blank.jsonl", *SHORT).err


def test_a_result_given_back_as_a_prompt_hands_on_no_old_result(lines, trained, tmp_path):
    old = '{"id": 7, "prompt": "ab", "text": "old", "fills": ["old"], "ids": [1], "quality": {}}'
    (tmp_path / "in.jsonl").write_text(old + "\n")
    (found,) = lines(trained, "--prompt-file", "in.jsonl", *SHORT)
    assert set(found) == {"id", "prompt", "text"}
    assert found["text"] != "old"


def test_ids_and_quality_come_on_wish(lines, trained):
    (plain,) = lines(trained, *SHORT)
    assert set(plain) == {"prompt", "text"}
    (rich,) = lines(trained, *SHORT, "--ids", "--quality")
    assert rich["text"] == plain["text"]
    assert load_target(str(trained), use_cpu=True).tokenizer.decode(rich["ids"]) == rich["text"]
    assert rich["quality"] == pytest.approx(text_quality(rich["ids"]).as_dict())


def test_the_texts_of_a_denoiser_do_not_depend_on_how_many_are_generated_at_once(lines, trained):
    flags = ["--prompt", "a", "--prompt", "a longer prompt", "--num-samples", "2", *SHORT]
    assert lines(trained, *flags, "--batch-size", "1") == lines(trained, *flags, "--batch-size", "3")


def test_batches_of_a_causal_lm_do_not_repeat_each_other(lines, trained_ar):
    texts = [row["text"] for row in lines(trained_ar, "--num-samples", "4", "--batch-size", "1", *SHORT)]
    assert len(set(texts)) == 4


def test_holes_are_filled_in_place_and_what_is_given_stays(lines, trained):
    prompt = "To be [MASK]{12} not [MASK][MASK]!"
    (found,) = lines(trained, "--prompt", prompt, "--ids")
    first, second = found["fills"]
    assert found["text"] == f"To be {first} not {second}!"
    assert found["prompt"] == prompt
    assert bytes(found["ids"][:6]) == b"To be "
    assert bytes(found["ids"][18:23]) == b" not "
    assert len(found["ids"]) == len("To be  not !") + 14
    (longer,) = lines(trained, "--prompt", prompt, "--ids", "--max-new-tokens", "5")
    assert len(longer["ids"]) == len(found["ids"]) + 5


def test_prompts_with_and_without_holes_go_together(lines, trained):
    together = lines(trained, "--prompt", "a", "--prompt", "b[MASK]c", "--prompt", "d", *SHORT[2:])
    assert [row["prompt"] for row in together] == ["a", "b[MASK]c", "d"]
    assert len(together[1]["text"]) >= 3
    assert ["fills" in row for row in together] == [False, True, False]


def test_a_hole_is_text_where_it_is_not_wanted_or_the_model_is_causal(hf, trained, trained_ar):
    off = hf("generate", trained, "--prompt", "a[MASK]b", "--no-infill", *SHORT)
    assert off.out.startswith("a[MASK]b")
    assert hf("generate", trained_ar, "--prompt", "a[MASK]b", *SHORT).out.startswith("a[MASK]b")


def test_all_of_stdin_is_one_prompt_or_a_prompt_a_line(hf, lines, trained, stdin):
    stdin("two\nlines\n")
    (found,) = lines(trained, "--prompt", "-", *SHORT)
    assert found["prompt"] == "two\nlines"
    stdin("two\r\n\nlines")
    assert [row["prompt"] for row in lines(trained, "--prompt-file", "-", *SHORT)] == ["two", "", "lines"]
    stdin('{"prompt": "x", "id": 1}\n')
    found = lines(trained, "--prompt-file", "-", "--prompt-format", "jsonl", *SHORT)
    assert [(row["prompt"], row["id"]) for row in found] == [("x", 1)]


@pytest.mark.slow
def test_a_pipe_gets_its_answer_before_it_asks_again(trained):
    command = [sys.executable, str(CLI), "generate", str(trained), "--prompt-file", "-", "--batch-size", "1"]
    answers = []
    with subprocess.Popen(
        [*command, "--jsonl", *SHORT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        for prompt in ("first", "second"):
            process.stdin.write(f"{prompt}\n")
            process.stdin.flush()
            answers.append(json.loads(process.stdout.readline()))  # waits for ever if the answer is held back
        process.stdin.close()
        assert process.stdout.read() == ""
        assert process.wait(timeout=300) == 0
    assert [answer["prompt"] for answer in answers] == ["first", "second"]


def test_options_of_generating_reach_the_model(lines, trained):
    target = load_target(str(trained), use_cpu=True)
    wanted = GenerationOptions(
        max_new_tokens=24, block_length=8, guidance_scale=2.0, repetition_penalty=1.5, max_denoising_steps=12, seed=3
    )
    (expected,) = generate_samples(target.model, target.tokenizer, ["abc"], wanted)
    flags = "--max-new-tokens 24 --block-length 8 --guidance-scale 2 --repetition-penalty 1.5 --seed 3"
    flags += " --max-denoising-steps 12 --prompt abc"
    assert lines(trained, *flags.split())[0]["text"] == expected.text
    for option in ("block_length", "guidance_scale", "repetition_penalty"):
        value = {"repetition_penalty": "1"}.get(option)
        other = lines(trained, *flags.split(), f"--{option.replace('_', '-')}", value or "none")
        assert other[0]["text"] != expected.text


def test_blocks_let_a_text_be_longer_than_the_context(hf, lines, trained):
    flags = [trained, "--max-new-tokens", "1100", "--max-denoising-steps", "4"]
    assert "exceed the 1024 tokens" in hf("generate", *flags).err
    (found,) = lines(*flags, "--block-length", "550", "--ids")
    assert 0 < len(found["ids"]) <= 1100


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--json --jsonl", "--json and --jsonl exclude each other"),
        ("--ids", "add --json or --jsonl"),
        ("--prompt - --prompt-file -", "stdin can be read once"),
        ("--prompt-format jsonl", "--prompt-file, which is missing"),
        ("--prompt-file bad.jsonl", "line 2 of prompt file bad.jsonl is no JSON"),
        ("--prompt-file none.jsonl", "line 1 of prompt file none.jsonl has no prompt"),
        ("--prompt-file - --prompt-format text", "no prompt on stdin"),
        ("--prompt -", "stdin is empty"),
        ("--max-new-tokens 0", "no hole to fill"),
        ("--max-denoising-steps 0", "max_denoising_steps must be a positive integer, or none, got 0"),
        ("--sampler low_confidense", "did you mean 'low_confidence'?"),
        ("--prompt [MASK]{0}", "is no hole"),
        ("--prompt [MASK]{99999999999}", "the model takes 1024"),
        ("--block-length 1024 --max-new-tokens 2000", "block_length 1024 leaves no room"),
        ("--block-length 1 --max-new-tokens 64 --max-denoising-steps 2", "fewer than the 64 blocks"),
        ("--repetition-penalty 0", "repetition_penalty must be a number above 0"),
        ("--html nowhere.d/page.html/x", "(Not a directory); name another --html"),
        ("--html nowhere.d", "(Is a directory); name another --html"),
    ],
)
def test_bad_input_is_one_sentence(hf, trained, stdin, tmp_path, flags, sentence):
    stdin("")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "x"}\n{"prompt": \n')
    (tmp_path / "none.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "nowhere.d").mkdir()
    (tmp_path / "nowhere.d" / "page.html").write_text("a file")
    result = hf("generate", trained, "--use-cpu", *flags.split())
    assert result.code == 2
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    assert not result.out  # nothing was generated that is then lost


def test_stdin_that_is_no_text_is_a_sentence_and_what_came_before_is_out(hf, trained, stdin):
    stdin(b"fine\n\xff\xfe\n")
    result = hf("generate", trained, "--prompt-file", "-", "--batch-size", "1", "--jsonl", *SHORT)
    assert result.code == 2
    assert "stdin is not UTF-8 text" in result.err
    assert json.loads(result.out)["prompt"] == "fine"


@pytest.mark.parametrize("flag", ["--block-length 4", "--guidance-scale 2"])
def test_what_only_denoisers_know_is_refused_by_a_causal_lm(hf, trained_ar, flag):
    result = hf("generate", trained_ar, *flag.split(), *SHORT)
    assert result.code == 2
    assert "is for masked diffusion models" in result.err
