"""Bad input to the commands that do the work: one sentence on stderr, exit code 2, nothing lost, nothing left behind."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest
from transformers import BertConfig, BertForSequenceClassification

from hf_difflm.data import load_tokenizer
from hf_difflm.runs import load_run


@pytest.fixture
def bad(hf):
    """Run a command that must fail, and return its one sentence."""

    def call(*args):
        result = hf(*args)
        assert result.code == 2, result
        assert result.err.startswith("error: ")
        assert result.err.count("\n") == 1
        return result.err

    return call


@pytest.mark.parametrize(
    ("content", "name", "sentence"),
    [
        (None, "nowhere.txt", "no such file or folder: nowhere.txt"),
        (b"", "empty.txt", "holds only empty documents"),
        (b"ab", "short.txt", "fewer than one block of 33"),
        (b'{"text": "a"}\n{"text": oops}\n', "bad.jsonl", "line 2 of"),
        (b'{"body": "a"}\n', "column.jsonl", "has no column 'text'"),
        (random.Random(0).randbytes(5000), "noise.txt", "is not UTF-8 text"),
        (random.Random(0).randbytes(5000), "noise.jsonl", "is not UTF-8 text"),
        (random.Random(0).randbytes(5000), "noise.parquet", "noise.parquet"),
        (b"text", "book.pdf", "rename it to one of"),
    ],
)
def test_data_that_cannot_be_used_leaves_no_folder_behind(bad, tiny, tmp_path, content, name, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert sentence in bad("train", *tiny, "--dataset", name, "--output-dir", "run")
    assert not os.path.exists("run")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--eval-split nosuch", "has no split 'nosuch'"),
        ("--tokenizer void", "cannot load tokenizer 'void'"),
        ("--backbone llma", "did you mean 'llama'?"),
        ("--backbone t5", "backbone 't5' does not run as a denoiser in this configuration"),
        ("--backbone modernbert --objective ar", "has no causal LM"),
        ("--hidden-size 30 --num-attention-heads 10", "check backbone_config and the sizes"),
        (
            '--backbone-config {"num_key_value_heads":3}',
            "backbone 'llama' does not run as a denoiser in this configuration",
        ),
        ('--backbone-config {"nope":1}', "backbone_config key 'nope'"),
        ("--max-position-embeddings 16", "block_size must be at most max_position_embeddings (16), got 33"),
        ("--attn-implementation fancy", "fancy"),
        ("--attn-implementation flex_attention", "does not train on a CPU"),
        ("--lr-scheduler-type cosin", "cosin"),
        ("--optim adamx", "optim must be one of"),
        ("--report-to trakio", "trakio is not supported"),
        ("--fsdp full_shard", "FSDP was asked for, but accelerate has it on GPUs only"),
        ("--global-batch-size 6", "global_batch_size 6"),
        ("--global-batch-size 100000", "fewer than one optimiser batch of 100000"),
        ("--seed 99999999999", "seed must be below 2^32"),
        ("--log-dir afile", "--log-dir afile is a file"),
    ],
)
def test_settings_that_cannot_work_leave_no_folder_behind(bad, tiny, tmp_path, flags, sentence):
    (tmp_path / "afile").write_text("")
    (tmp_path / "void").mkdir()
    assert sentence in bad("train", *tiny, "--max-steps", "3", *flags.split(), "--output-dir", "run")
    assert not os.path.exists("run")


def test_bf16_without_support_is_one_sentence(bad, tiny):
    import torch

    if torch.accelerator.is_available():
        pytest.skip("this machine has an accelerator")
    flags = [flag for flag in tiny if flag != "--use-cpu"]
    assert "--use-cpu" in bad("train", *flags, "--bf16", "--output-dir", "run")


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        ("afile", "--output-dir afile is a file"),
        ("afile/run", "afile is a file"),
        ("/proc/run", "--output-dir /proc/run cannot be written"),
    ],
)
def test_an_output_folder_that_cannot_be_is_refused(bad, tiny, tmp_path, folder, sentence):
    if folder.startswith("/proc") and sys.platform != "linux":
        pytest.skip("no /proc here")
    (tmp_path / "afile").write_text("")
    assert sentence in bad("train", *tiny, "--max-steps", "1", "--output-dir", folder)


def test_a_folder_that_holds_a_run_is_refused_and_the_run_stays_as_it_is(bad, tiny, trained, snapshot):
    before = snapshot(trained)
    assert "already holds a run" in bad("train", *tiny, "--max-steps", "1", "--output-dir", trained)
    assert "cannot resume" in bad("train", *tiny, "--max-steps", "9", "--output-dir", trained, "--resume")
    assert "exclude each other" in bad("train", "--output-dir", trained, "--resume", "--overwrite")
    failing = ["--backbone", "t5", "--overwrite"]  # found before anything is deleted
    assert "does not run" in bad("train", *tiny, *failing, "--output-dir", trained)
    assert snapshot(trained) == before


def test_resume_needs_a_run(bad):
    os.mkdir("empty")
    assert "--resume needs --output-dir" in bad("train", "--resume")
    for folder in ("nowhere", "empty"):
        assert f"{folder} holds no run to resume" in bad("train", "--resume", "--output-dir", folder)


def test_resume_of_a_journal_damaged_beyond_reading_says_so(bad, trained):
    (trained / "journal.jsonl").write_bytes(b"\x00" * 100)
    assert "is not the journal of a run" in bad("train", "--resume", "--output-dir", trained)


def test_a_journal_with_a_damaged_line_is_resumed_with_a_warning(hf, trained, strike, caplog):
    strike(trained, "completed")
    journal = trained / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([*lines[:3], "{garbage\n", *lines[3:]]))
    assert hf("train", "--resume", "--output-dir", trained).code == 0
    assert "damaged line" in caplog.text
    assert load_run(trained).status == "completed"


def test_a_diverging_run_stops_names_the_last_good_checkpoint_and_saves_nothing_that_is_not_finite(hf, tiny):
    flags = ["--learning-rate", "1e9", "--warmup-steps", "0", "--save-steps", "1", "--logging-steps", "1"]
    result = hf("train", *tiny, *flags, "--max-steps", "30", "--output-dir", "run")
    assert result.code == 2
    sentence = result.err.splitlines()[-1]  # after the lines of the steps before
    assert sentence.startswith("error: ")
    assert "so the run was stopped" in sentence
    run = load_run("run")
    assert run.status == "failed"
    assert run.events[-1].message in sentence
    checkpoints = [name for name in os.listdir("run") if name.startswith("checkpoint-")]
    assert all(name in sentence for name in sorted(checkpoints)[-1:])
    for path in [os.path.join("run", name, "model.safetensors") for name in [*checkpoints, "best"]]:
        if os.path.exists(path):
            assert _all_finite(path)


def _all_finite(path):
    from safetensors.torch import load_file

    return all(bool(weights.isfinite().all()) for weights in load_file(path).values())


@pytest.fixture
def classifier(tmp_path):
    """A sound model of the wrong kind, with weights and tokenizer."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForSequenceClassification(BertConfig(vocab_size=260, **sizes)).save_pretrained(tmp_path / "classifier")
    load_tokenizer("bytes").save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier"


@pytest.mark.parametrize("command", ["eval", "generate"])
def test_what_is_no_language_model_is_refused(bad, command, classifier, trained, tmp_path):
    (tmp_path / "afile").write_text("")
    (tmp_path / "empty").mkdir()
    assert "does not exist" in bad(command, "nowhere")
    assert "is a file" in bad(command, "afile")
    assert "holds no run and no model" in bad(command, "empty")
    assert "it is a BertForSequenceClassification" in bad(command, classifier)
    assert "holds the runs trained" in bad(command, tmp_path)
    with (trained / "checkpoint-6" / "model.safetensors").open("ab") as file:
        file.write(b"more")
    assert "model.safetensors is damaged" in bad(command, trained / "checkpoint-6")


def test_eval_refuses_what_it_cannot_evaluate_on(bad, trained):
    assert "no such file" in bad("eval", trained, "--dataset", "nowhere.txt")
    assert "has no split 'nosuch'" in bad("eval", trained, "--split", "nosuch")
    assert "at most the 1024 tokens" in bad("eval", trained, "--block-size", "5000")


def test_generate_refuses_what_the_model_cannot_do(bad, trained, trained_ar, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "noise.txt").write_bytes(b"\xff\xfe\xfd")
    assert "exceed the 1024 tokens" in bad("generate", trained, "--max-new-tokens", "5000")
    assert "cannot be read (No such file or directory)" in bad("generate", trained, "--prompt-file", "nowhere")
    assert "is empty" in bad("generate", trained, "--prompt-file", "empty.txt")
    assert "is not UTF-8 text" in bad("generate", trained, "--prompt-file", "noise.txt")
    assert "sampler is for masked diffusion models" in bad("generate", trained_ar, "--sampler", "ddpm")


def test_report_refuses_what_it_cannot_read_or_write(bad, trained, tmp_path):
    (tmp_path / "afile").write_text("")
    assert "there is no run at 'nowhere'" in bad("report", "nowhere", "--output", "page.md")
    assert "is a folder" in bad("report", trained, "--output", trained)
    assert "cannot be written" in bad("report", trained, "--output", "afile/page.md")


def test_compare_refuses_what_cannot_be_compared_before_it_trains(bad, tiny, tmp_path):
    (tmp_path / "afile").write_text("")
    assert "--resume has no use here" in bad("compare", "--resume")
    assert "save_log_to_json cannot be off" in bad("compare", *tiny, "--no-save-log-to-json", "--output-dir", "both")
    assert "--log-dir has no use here" in bad("compare", *tiny, "--log-dir", "logs", "--output-dir", "both")
    assert "has no causal LM" in bad("compare", *tiny, "--backbone", "modernbert", "--output-dir", "both")
    assert "afile is a file" in bad("compare", *tiny, "--output-dir", "afile")
    assert not os.path.exists("both")


@pytest.mark.slow
def test_two_cpu_processes_without_use_cpu_are_refused(start, tiny):
    flags = [flag for flag in tiny if flag != "--use-cpu"]
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2")
    process = start("train", *flags, "--max-steps", "1", "--output-dir", "run", launcher=launcher)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "add --use-cpu" in err
    assert not os.path.exists("run")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--torch-compile-mode", "nothing"), "torch_compile_mode must be one of default"),
        (("--lr-scheduler-kwargs", '{"bad": 1}'), "has a key 'bad' that lr_scheduler_type cosine does not take"),
        (("--lr-scheduler-type", "cosinus"), "got 'cosinus'; did you mean 'cosine'?"),
        (("--tokenizer", "nowhere.json"), "no such tokenizer file or folder: nowhere.json"),
        (("--dataset", "nowhere.txt"), "no such file or folder: nowhere.txt"),
        (("--eval-dataset", "no/where/texts"), "no such file or folder: no/where/texts"),
    ],
)
def test_what_cannot_work_is_refused_before_any_preparation(hf, tiny, flags, sentence):
    result = hf("train", *tiny, "--max-steps", "1", "--output-dir", "run", *flags)
    assert result.code == 2
    assert sentence in result.err
    assert "Traceback" not in result.err
    assert "preparing" not in result.out
    assert not Path("run").exists()
