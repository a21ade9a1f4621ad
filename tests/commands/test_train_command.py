"""``train``: one run, its folder, its log, and going on with it."""

from __future__ import annotations

import json
import os
import shutil

import datasets
import pytest
from safetensors.torch import load_file

from hf_difflm.data import load_tokenizer
from hf_difflm.runs import load_run


def test_a_run_leaves_checkpoints_best_weights_log_and_samples_and_says_what_to_type_next(hf, tiny):
    result = hf("train", *tiny, "--max-steps", "6", "--output-dir", "run")
    assert result.code == 0
    written = ["best", "checkpoint-3", "checkpoint-6", "journal.jsonl", "markov-mdlm.json", "samples.txt"]
    assert set(written) <= set(os.listdir("run"))
    run = load_run("run")
    assert run.status == "completed"
    assert [step.iter for step in run.steps] == [1, 2, 3, 4, 5, 6]
    assert [evaluation.iter for evaluation in run.evaluations] == [3, 6]
    assert [(sample.iter, sample.extra["mode"]) for sample in run.samples] == [(6, "greedy")] * 2 + [(6, "sampled")] * 2
    assert f"lowest eval_nll {run.best_evaluation.nll:.4f} nats/token" in result.out
    assert "next: hf-difflm generate run" in result.out
    assert "Step 2/6 | Loss: " in result.err
    assert "noise_level=" in result.err
    assert "masking_rate=" in result.err


def test_without_output_dir_every_run_gets_a_folder_of_its_own(hf, tiny):
    for _ in range(2):
        assert hf("train", *tiny, "--max-steps", "1", "--experiment-name", "My Run/1").code == 0
    names = os.listdir("runs")
    assert len(names) == 2
    assert all(name.startswith("My-Run-1-") for name in names)


def test_a_recipe_and_its_base_set_what_flags_do_not(hf, tiny, tmp_path):
    (tmp_path / "base.yaml").write_text("learning_rate: 1e-2\nweight_decay: 0.5\nseed: 7\n")
    (tmp_path / "mine.yaml").write_text("base: base.yaml\nweight_decay: 0.25\nar:\n  seed: 8\n")
    assert (
        hf("train", "--recipe", "mine.yaml", *tiny, "--seed", "9", "--max-steps", "1", "--output-dir", "run").code == 0
    )
    config = load_run("run").config
    assert (config["learning_rate"], config["weight_decay"], config["seed"]) == (1e-2, 0.25, 9)
    assert config["recipe"] == "mine.yaml"


def test_overwrite_replaces_the_run_and_leaves_other_files_alone(hf, tiny, trained):
    (trained / "notes.json").write_text("{}")
    before = load_run(trained).header.run_id
    assert hf("train", *tiny, "--max-steps", "3", "--output-dir", trained, "--overwrite").code == 0
    run = load_run(trained)
    assert run.header.run_id != before
    assert run.steps[-1].iter == 3
    assert not (trained / "checkpoint-6").exists()
    assert (trained / "notes.json").read_text() == "{}"


def test_resume_without_flags_takes_the_recorded_settings_and_ends_where_an_uninterrupted_run_ends(
    hf, tiny, trained, strike
):
    """As after a kill right after checkpoint-3: the weights must come out bit for bit the same."""
    whole = load_file(trained / "checkpoint-6" / "model.safetensors")
    shutil.rmtree(trained / "checkpoint-6")
    strike(trained, "completed")
    result = hf("train", "--output-dir", trained, "--resume")
    assert result.code == 0, result.err
    run = load_run(trained)
    assert [step.iter for step in run.steps] == [1, 2, 3, 4, 5, 6]
    assert len({header.run_id for header in run.headers}) == 1
    assert run.status == "completed"
    resumed = load_file(trained / "checkpoint-6" / "model.safetensors")
    assert all(weights.equal(resumed[name]) for name, weights in whole.items())


def test_resume_takes_flags_that_only_change_how_the_run_is_watched(hf, trained, strike):
    shutil.rmtree(trained / "checkpoint-6")
    strike(trained, "completed")
    assert hf("train", "--output-dir", trained, "--resume", "--logging-steps", "1").code == 0
    assert load_run(trained).config["logging_steps"] == 1


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--max-steps", "9"], "with max_steps = 9, since it was started with 6"),
        (["--max-steps", "9"], "train on from its weights with --init-from in another --output-dir"),
        (["--objective", "ar"], "with objective = 'ar', since it was started with 'mdlm'"),
        (["--adam-beta2", "0.5"], "with adam_beta2 = 0.5, since it was started with 0.999"),
    ],
)
def test_resume_refuses_what_would_make_it_another_run(hf, trained, snapshot, flags, sentence):
    before = snapshot(trained)
    result = hf("train", "--output-dir", trained, "--resume", *flags)
    assert result.code == 2
    assert sentence in result.err
    assert snapshot(trained) == before


def test_resume_of_a_complete_run_trains_nothing(hf, trained, snapshot):
    before = snapshot(trained)
    result = hf("train", "--output-dir", trained, "--resume")
    assert result.code == 0
    assert "is complete" in result.out
    assert snapshot(trained) == before


def test_a_run_killed_after_its_last_checkpoint_is_closed_without_a_step_too_many(hf, trained, strike):
    strike(trained, "completed")
    assert load_run(trained).status == "running"
    assert hf("train", "--output-dir", trained, "--resume").code == 0
    run = load_run(trained)
    assert run.status == "completed"
    assert run.steps[-1].iter == 6


def test_resume_without_a_finished_checkpoint_starts_at_step_0_and_says_so(hf, trained, caplog, strike):
    shutil.rmtree(trained / "checkpoint-6")
    (trained / "checkpoint-3" / "manifest.json").unlink()
    strike(trained, "completed")
    assert hf("train", "--output-dir", trained, "--resume").code == 0
    assert "skipping checkpoint-3: it was never finished" in caplog.text
    assert "starting at step 0" in caplog.text
    assert [step.iter for step in load_run(trained).steps] == [1, 2, 3, 4, 5, 6]


def test_resume_falls_back_from_a_damaged_checkpoint_with_a_warning(hf, trained, caplog, strike):
    with (trained / "checkpoint-6" / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    strike(trained, "completed")
    assert hf("train", "--output-dir", trained, "--resume").code == 0
    assert "skipping checkpoint-6: model.safetensors is damaged" in caplog.text
    assert load_run(trained).events[-2].resumed_from_step == 3


def test_without_a_log_nothing_of_it_is_written_and_the_run_can_be_used_and_resumed(hf, tiny):
    train = ["train", *tiny, "--no-save-log-to-json", "--max-steps", "6", "--output-dir", "run"]
    assert hf(*train).code == 0
    assert set(os.listdir("run")) == {"best", "best_evaluation.json", "checkpoint-3", "checkpoint-6", "samples.txt"}
    assert hf("generate", "run", "--max-new-tokens", "3").code == 0
    assert hf("eval", "run", "--dataset", "markov", "--block-size", "33", "--max-eval-blocks", "2").code == 0
    assert "add --dataset" in hf("eval", "run").err
    shutil.rmtree("run/checkpoint-6")
    assert "give its recipe and flags again" in hf("train", "--output-dir", "run", "--resume").err
    assert hf(*train, "--fail-on", "none", "--resume").code == 0
    assert os.path.exists("run/checkpoint-6")


def test_a_log_kept_elsewhere_is_found_from_the_run_folder(hf, tiny, strike):
    assert hf("train", *tiny, "--max-steps", "6", "--output-dir", "run", "--log-dir", "logs").code == 0
    assert {"journal.jsonl", "markov-mdlm.json"} <= set(os.listdir("logs"))
    logged = load_run("logs").best_evaluation.nll
    assert json.loads(hf("eval", "run", "--json").out)["eval_nll"] == pytest.approx(logged, abs=1e-6)
    assert "already holds the log of another run" in hf("train", *tiny, "--output-dir", "b", "--log-dir", "logs").err
    assert "is in" in hf("train", "--output-dir", "run", "--resume", "--log-dir", "b").err
    assert not os.path.exists("b")
    shutil.rmtree("run/checkpoint-6")
    strike("logs", "completed")
    assert hf("train", "--output-dir", "run", "--resume").code == 0
    assert any(event.resumed_from_step == 3 for event in load_run("logs").events)
    assert hf("train", *tiny, "--max-steps", "1", "--output-dir", "run", "--overwrite").code == 0
    assert os.listdir("logs") == []
    assert load_run("run").steps[-1].iter == 1


def test_epochs_instead_of_steps(hf, tiny):
    assert hf("train", *tiny, "--num-train-epochs", "2", "--max-train-blocks", "13", "--output-dir", "run").code == 0
    assert load_run("run").steps[-1].iter == 2 * (13 // 4)  # the incomplete batch at the end of an epoch is dropped


@pytest.mark.parametrize(
    "flags",
    [
        ["--ema-decay", "0.9"],
        ["--loss-form", "time", "--noise-schedule", "cosine", "--noise-sampling", "iid"],
        ["--loss-form", "time", "--noise-schedule", "polynomial", "--backbone", "gpt2"],
        ["--loss-form", "time", "--noise-schedule", "geometric", "--backbone", "qwen3", "--no-tie-word-embeddings"],
        ["--loss-form", "time", "--noise-schedule", "linear", "--backbone", "modernbert"],
        ["--bf16", "--attn-implementation", "eager"],
        ["--activation-checkpointing", "--optim", "adafactor"],
        ["--objective", "ar", "--backbone", "gpt2", "--lr-scheduler-type", "constant"],
    ],
    ids=" ".join,
)
def test_every_variant_trains_evaluates_and_generates(hf, tiny, flags):
    assert hf("train", *tiny, *flags, "--max-steps", "3", "--output-dir", "run").code == 0
    logged = load_run("run").best_evaluation.nll
    tolerance = 1e-2 if "--bf16" in flags else 1e-6
    assert json.loads(hf("eval", "run", "--json", "--use-cpu").out)["eval_nll"] == pytest.approx(logged, abs=tolerance)
    assert hf("generate", "run", "--max-new-tokens", "4").code == 0


def test_text_files_folders_and_saved_data_sets_train(hf, tiny, tmp_path):
    text = "It is a truth universally acknowledged. " * 40
    rows = [{"text": f"{i} {text[: 200 + i]}"} for i in range(40)]
    (tmp_path / "book.txt").write_text(text)
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    for name, part in (("train", rows[:30]), ("test", rows[30:])):
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in part))
    for i, source in enumerate(("book.txt", "rows.jsonl", "rows.parquet", "saved", "folder")):
        flags = ["--dataset", source, "--max-steps", "1", "--eval-fraction", "0.2", "--output-dir", f"run-{i}"]
        result = hf("train", *tiny, *flags)
        assert result.code == 0, result.err


def test_a_tokenizer_folder_is_used_and_saved_with_the_model(hf, tiny, tmp_path):
    load_tokenizer("bytes").save_pretrained(tmp_path / "tokenizer")
    assert hf("train", *tiny, "--tokenizer", "tokenizer", "--max-steps", "3", "--output-dir", "run").code == 0
    assert os.path.exists("run/best/tokenizer.json")


def test_tensorboard_gets_our_numbers(hf, tiny):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert hf("train", *tiny, "--max-steps", "4", "--report-to", "tensorboard", "--output-dir", "run").code == 0
    (folder,) = {os.path.dirname(path) for path in _files_below("run") if "tfevents" in path}
    events = EventAccumulator(folder)
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/loss", "train/noise_level", "train/masking_rate", "train/tokens_per_sec", "eval/nll"} <= tags


def test_save_total_limit_keeps_the_newest_good_checkpoint(hf, tiny):
    flags = ["--max-steps", "4", "--save-steps", "1", "--save-total-limit", "1", "--output-dir", "run"]
    assert hf("train", *tiny, *flags).code == 0
    assert [name for name in os.listdir("run") if name.startswith("checkpoint")] == ["checkpoint-4"]


def test_without_evaluation_the_newest_checkpoint_is_used_and_without_either_it_is_said(hf, tiny):
    assert hf("train", *tiny, "--max-steps", "3", "--eval-strategy", "no", "--output-dir", "a").code == 0
    assert json.loads(hf("eval", "a", "--json").out)["target"] == "a/checkpoint-3"
    flags = ["--eval-strategy", "no", "--save-strategy", "no"]
    result = hf("train", *tiny, "--max-steps", "3", *flags, "--output-dir", "b")
    assert "no weights were kept" in result.out
    assert "has neither best/ nor a finished checkpoint" in hf("eval", "b").err


def _files_below(folder):
    return [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]


def test_a_test_run_takes_five_chunks_and_shows_all_there_is(hf, tiny):
    small = "--dataset markov --hidden-size 32 --num-hidden-layers 1 --num-attention-heads 2 --block-size 33"
    everything_on = [
        *small.split(),
        "--per-device-train-batch-size",
        "4",
        "--generation-max-new-tokens",
        "8",
        "--use-cpu",
    ]
    result = hf("train", *everything_on, "--tokens-per-chunk", "140", "--test", "--output-dir", "run")
    assert result.code == 0, result.err
    run = load_run("run")
    assert len(run.steps) == 5  # of 4 blocks of 33 tokens; 5 chunks of 140 tokens hold 21 blocks
    assert {record.iter for record in run.samples} == {2, 4, 5}
    assert {evaluation.iter for evaluation in run.evaluations} == {2, 4, 5}
    sources = {(record.source, record.iter) for record in run.measurements}
    assert {("gradients", step) for step in range(1, 6)} <= sources
    assert {("throughput", step) for step in range(1, 6)} <= sources
    assert {("statistics", step) for step in (2, 4, 5)} <= sources
    assert {("samples", step) for step in (2, 4, 5)} <= sources
    pictures = set(os.listdir("run/dashboard"))
    assert {"training_latest.png", "training_step_000005.png", "metrics_history.json", "text_samples.json"} <= pictures
    with (
        open("run/dashboard/training_latest.png", "rb") as latest,
        open("run/dashboard/training_step_000005.png", "rb") as last,
    ):
        assert latest.read() == last.read()
    assert hf("train", *tiny, "--max-steps", "1", "--output-dir", "run", "--overwrite").code == 0
    assert not os.path.exists("run/dashboard")


def test_an_alert_that_shall_stop_the_run_does_so_with_a_sentence_and_can_be_gone_on_with(hf, tiny):
    wild = [
        "--learning-rate",
        "3",
        "--warmup-steps",
        "25",
        "--lr-scheduler-type",
        "constant_with_warmup",
        "--max-grad-norm",
        "0",
    ]
    train = ["train", *tiny, *wild, "--max-steps", "90", "--generate-interval", "30", "--output-dir", "run"]
    train += ["--generation-max-new-tokens", "30"]
    result = hf(*train, "--fail-on", "all")
    assert result.code == 2
    assert "alert: " in result.err
    assert "so the run was stopped; go on with --resume --fail-on none" in result.err
    run = load_run("run")
    assert run.status == "failed"
    assert run.events[-1].message in result.err
    assert run.steps[-1].iter < 90
    assert os.path.exists(f"run/checkpoint-{int(run.steps[-1].iter)}")
    assert hf(*train, "--fail-on", "none", "--resume").code == 0
    assert load_run("run").status == "completed"


def test_an_alert_that_is_none_is_refused_before_anything_is_read(hf, tiny):
    result = hf("train", *tiny, "--max-steps", "6", "--output-dir", "run", "--fail-on", "data_stall,loss_spikes")
    assert result.code == 2
    assert "got 'loss_spikes'; did you mean 'loss_spike'" in result.err
    assert "preparing" not in result.out
    assert not os.path.exists("run")


def test_the_interval_of_checkpoints_may_be_called_so(hf, tiny):
    flags = [*tiny[: tiny.index("--save-steps")], *tiny[tiny.index("--save-steps") + 2 :], "--max-steps", "4"]
    assert hf("train", *flags, "--checkpoint-interval", "2", "--output-dir", "run").code == 0
    assert {"checkpoint-2", "checkpoint-4"} <= set(os.listdir("run"))


@pytest.mark.parametrize(
    "mistake",
    [
        ("--reference-model", "nowhere/at/all"),
        ("--generation-prompts", "nowhere.txt"),
        ("--report-to", "mlflow"),
        ("--fail-on", "nothing_known"),
    ],
)
def test_a_mistake_beside_overwrite_deletes_nothing(hf, tiny, trained, mistake):
    before = sorted(os.listdir(trained))
    run_id = load_run(trained).header.run_id
    result = hf("train", *tiny, "--max-steps", "3", "--output-dir", trained, "--overwrite", *mistake)
    assert result.code == 2, result.err
    assert sorted(os.listdir(trained)) == before
    assert load_run(trained).header.run_id == run_id


@pytest.mark.slow
def test_several_trackers_are_named_with_commas(start, tiny, tmp_path, monkeypatch):
    """In a process of its own: a W&B run outlives the training that began it."""
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_SERVICE", raising=False)
    train = ["train", *tiny, "--max-steps", "2", "--output-dir", tmp_path / "run"]
    process = start(*train, "--report-to", "tensorboard,wandb", "--wandb-project", "mine")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert list(tmp_path.glob("run/**/events.out.tfevents*"))
    assert list(tmp_path.glob("wandb/offline-run-*"))


def test_prompts_that_are_no_text_are_refused(hf, tiny, tmp_path):
    (tmp_path / "prompts.txt").write_bytes(b"ok\n\xff\xfe bad\n")
    result = hf("train", *tiny, "--generation-prompts", "prompts.txt", "--output-dir", "run")
    assert result.code == 2
    assert "generation_prompts file prompts.txt is not UTF-8 text" in result.err
    assert not os.path.exists("run")
