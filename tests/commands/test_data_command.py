"""``data prepare``, ``train`` on what it made, and ``train --streaming``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hf_difflm.runs import load_run

MODEL = "--hidden-size 32 --num-hidden-layers 1 --num-attention-heads 2 --block-size 33 --use-cpu --viz-interval 0"
RUN = f"{MODEL} --generate-interval 0 --per-device-train-batch-size 4 --eval-steps 4 --save-steps 2 --logging-steps 2"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    letters = np.array([*"abcdefg "])
    documents = ["".join(generator.choice(letters, 200)) for _ in range(300)]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


def train(hf, *flags, output_dir: str = "run"):
    result = hf("train", *RUN.split(), "--max-eval-blocks", 8, "--output-dir", output_dir, *flags)
    assert result.code == 0, result.err
    return result


def losses(folder: str) -> list[float]:
    return [row.loss for row in load_run(Path(folder)).steps]


@pytest.mark.parametrize("streaming", [[], ["--streaming"]], ids=["held", "streamed"])
def test_prepared_blocks_are_trained_on_without_tokenising(hf, corpus, streaming):
    made = hf("data", "prepare", "--dataset", corpus, "--block-size", 33, "--output-dir", "blocks", *streaming)
    assert made.code == 0, made.err
    assert "next: hf-difflm train --dataset blocks --tokenizer bytes --block-size 33" in made.out
    corpus.unlink()
    train(hf, "--dataset", "blocks", "--max-steps", 4)
    assert len(losses("run")) == 4


def test_prepared_blocks_give_the_same_run_as_the_data_set(hf, corpus):
    assert hf("data", "prepare", "--dataset", corpus, "--block-size", 33, "--output-dir", "blocks").code == 0
    train(hf, "--dataset", corpus, "--max-steps", 4, output_dir="one")
    train(hf, "--dataset", "blocks", "--max-steps", 4, output_dir="two")
    assert losses("one") == losses("two")


def test_json_tells_what_was_written(hf, corpus):
    made = hf("data", "prepare", "--dataset", corpus, "--block-size", 33, "--output-dir", "blocks", "--json")
    counts = json.loads(made.out)
    assert counts["train"]["blocks"] * 33 * 2 == Path("blocks/train-input_ids.bin").stat().st_size


def test_recipe_gives_the_options_of_the_data(hf, corpus, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"dataset: {corpus}\nblock_size: 17\nmax_chunks: 2\ntokens_per_chunk: 170\nmax_steps: 3\n")
    assert hf("data", "prepare", "--recipe", recipe, "--output-dir", "blocks").code == 0
    assert Path("blocks/train-input_ids.bin").stat().st_size == 20 * 17 * 2


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--dataset", "nothing.jsonl"], "no such file or folder: nothing.jsonl"),
        (["--block-size", "1"], "block_size"),
        (["--learning-rate", "1"], "--learning-rate is unknown"),
        (["--output-dir", "."], "is not empty"),
    ],
)
def test_bad_input_is_one_sentence(hf, corpus, flags, sentence):
    result = hf("data", "prepare", "--dataset", corpus, "--output-dir", "blocks", *flags)
    assert result.code == 2
    assert sentence in result.err
    assert result.err.count("\n") == 1


def test_a_mismatch_is_one_sentence_and_leaves_no_folder(hf, corpus):
    assert hf("data", "prepare", "--dataset", corpus, "--block-size", 17, "--output-dir", "blocks").code == 0
    result = hf("train", *RUN.split(), "--dataset", "blocks", "--max-steps", 4, "--output-dir", "run")
    assert result.code == 2
    assert "was prepared with block_size 17, not 33" in result.err
    assert not Path("run").exists()


def test_a_streamed_run_resumes_as_if_never_stopped(hf, corpus):
    flags = ["--dataset", corpus, "--streaming", "--shuffle-window", 5, "--max-steps", 6]
    whole = train(hf, *flags, "--save-total-limit", 9, output_dir="whole")
    assert "train: a stream, shuffled within windows of 5 blocks" in whole.out
    train(hf, *flags, output_dir="cut")
    for folder in ("checkpoint-6", "best"):
        for file in sorted(Path("cut", folder).rglob("*")):
            file.unlink()
    Path("cut/checkpoint-6").rmdir()
    resumed = hf("train", "--resume", "--output-dir", "cut")
    assert resumed.code == 0, resumed.err
    assert losses("cut") == losses("whole")


def test_chunks_are_the_budget_of_a_streamed_run(hf, corpus):
    flags = ["--streaming", "--max-chunks", 5, "--tokens-per-chunk", 132, "--num-train-epochs", 2]
    train(hf, "--dataset", corpus, *flags)
    assert len(losses("run")) == 2 * (5 * 132 // 33 // 4)


def test_the_test_run_of_a_stream_takes_five_chunks(hf, corpus):
    train(hf, "--dataset", corpus, "--streaming", "--test", "--tokens-per-chunk", 132, "--generate-interval", 0)
    assert len(losses("run")) == 5


def test_a_stream_without_an_end_asks_for_one(hf, corpus):
    result = hf("train", *RUN.split(), "--dataset", corpus, "--streaming", "--output-dir", "run")
    assert result.code == 2
    assert "give max_steps, or max_chunks" in result.err
    assert not Path("run").exists()


def test_a_wandb_project_without_wandb_is_refused(hf, corpus):
    result = hf("train", *RUN.split(), "--dataset", corpus, "--max-steps", 2, "--wandb-project", "p")
    assert result.code == 2
    assert "wandb_project has no effect without Weights & Biases: add --report-to wandb" in result.err
    assert not Path("runs").exists()


def test_samples_txt_obeys_no_control_character(hf, tiny, corpus):
    """An untrained byte model writes all sorts of bytes."""
    flags = [
        "--dataset",
        corpus,
        "--tokenizer",
        "bytes",
        "--max-train-blocks",
        8,
        "--max-steps",
        2,
        "--generate-interval",
        2,
    ]
    assert hf("train", *tiny, *flags, "--output-dir", "run").code == 0
    text = Path("run/samples.txt").read_text(encoding="utf-8")
    assert text.startswith("=== step 2")
    assert all(letter in "\n\t" or letter.isprintable() for letter in text)
    assert "\\x" in text
