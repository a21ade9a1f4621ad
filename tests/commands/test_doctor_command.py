"""``doctor`` and ``train --sanity-check``: one line a check."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stock_models import stock_model

from hf_difflm.experiments import doctor as checks
from hf_difflm.hub.conversion.any_model import convert

ROOT = Path(__file__).parents[2]


def test_a_sound_machine_gets_one_tick_a_line_and_exit_code_0(hf):
    result = hf("doctor")
    assert result.code == 0, result.out
    lines = result.out.splitlines()
    names = ["versions", "devices", "memory", "free disk", "data loading", "model initialisation"]
    names += ["forward and backward pass", "each token counted once"]
    assert [line.split(":")[0] for line in lines] == [f"✓ {name}" for name in names]


def test_too_little_disk_is_one_cross_with_what_to_do_and_exit_code_1(hf, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    result = hf("doctor")
    assert result.code == 1
    (cross,) = [line for line in result.out.splitlines() if line.startswith("✗")]
    assert cross.startswith("✗ free disk: 0.0 GB free here")
    assert "give --output-dir on another disk" in cross


@pytest.mark.parametrize("flags", [[], ["--objective", "ar"], ["--loss-form", "time", "--noise-schedule", "cosine"]])
def test_the_sanity_check_tries_the_settings_themselves_and_trains_nothing(hf, tiny, flags):
    result = hf("train", *tiny, *flags, "--sanity-check", "--output-dir", "run")
    assert result.code == 0, result.out
    assert "✓ data loading: markov: train 8,192 blocks, eval 8 blocks" in result.out
    assert "✗" not in result.out
    assert not os.path.exists("run")


def test_the_sanity_check_goes_on_after_what_fails_and_exits_with_2(hf, tiny):
    result = hf("train", *tiny, "--dataset", "nowhere.txt", "--sanity-check")
    assert result.code == 2
    crosses = [line for line in result.out.splitlines() if line.startswith("✗")]
    assert crosses[0] == "✗ data loading: no such file or folder: nowhere.txt; check the path"
    assert len(crosses) == 4
    assert all("mend that first" in line for line in crosses[1:])
    assert result.err == "error: the sanity check failed; see the lines marked ✗ above\n"


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def test_with_a_recipe_it_estimates_memory_of_each_device_and_trains_nothing(hf, no_gpu):
    result = hf("doctor", "--recipe", "openwebtext", "--devices", "8", "--num-hidden-layers", "2")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[1] == "8 devices (ddp): micro-batch 16, accumulation 4, global_batch_size 512"
    sizes = {line[:48].split("  ")[0]: line.split()[-2:] for line in lines[3:13] if line.endswith(("GB", "MB"))}
    assert sizes["weights"] == sizes["moving average of the weights"] == sizes["buffers of ddp"]
    assert float(sizes["needed on each device"][0]) == float(sizes["a training step"][0])
    assert "no GPU here to compare with: give --device-memory, e.g. 80GB" in lines
    assert os.listdir() == []


def test_the_estimate_as_json_adds_up_and_is_alone_on_stdout(hf):
    flags = ["--device-memory", "24GiB", "--json", "--num-hidden-layers", "2"]
    result = hf("doctor", "--recipe", "openwebtext", "--devices", "4", *flags)
    assert result.code == 0, result.err
    estimate = json.loads(result.out)
    parts = ("weights", "gradients", "optimizer", "average", "activations", "logits", "buffers")
    assert estimate["training"] == sum(estimate[part] for part in parts)
    assert estimate["total"] == max(estimate["training"], estimate["evaluation"])
    assert estimate["device_memory"] == 24 * 2**30
    assert estimate["fits"] == (estimate["total"] <= 0.9 * 24 * 2**30)
    cut = estimate["largest_micro_batch"] * estimate["largest_accumulation"] * 4
    assert cut == estimate["global_batch_size"] == 512


def test_engine_and_devices_come_from_a_configuration_of_accelerate(hf, tmp_path):
    (tmp_path / "own.yaml").write_text(
        "distributed_type: FSDP\nnum_processes: 4\nmixed_precision: bf16\nfsdp_config: {fsdp_version: 2}\n"
    )
    small = ["--recipe", "demo", "--num-hidden-layers", "1", "--json"]
    own = json.loads(hf("doctor", *small, "--accelerate-config", "own.yaml").out)
    assert (own["engine"], own["devices"], own["half"], own["accumulation"]) == ("fsdp2", 4, True, 1)
    shipped = json.loads(hf("doctor", *small, "--accelerate-config", "ddp", "--devices", "2").out)
    assert (shipped["engine"], shipped["devices"], shipped["half"]) == ("ddp", 2, False)


def test_flags_that_only_training_arguments_know_count_too(hf):
    small = ["--recipe", "demo", "--json"]
    kept = json.loads(hf("doctor", *small).out)
    recomputed = json.loads(hf("doctor", *small, "--gradient-checkpointing", "--optim", "sgd").out)
    assert recomputed["checkpointing"]
    assert recomputed["activations"] < kept["activations"]
    assert recomputed["optimizer"] == 0


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--devices", "3"], "these flags need --recipe or --init-from"),
        (["--block-size", "64"], "these flags need --recipe or --init-from"),
        (["--recipe", "nowhere"], "recipe 'nowhere' is unknown"),
        (["--recipe", "demo", "--devices", "0"], "invalid value for '--devices'"),
        (["--recipe", "demo", "--devices", "5"], "global_batch_size 16 cannot be divided among 5 processes"),
        (["--recipe", "demo", "--device-memory", "eight"], "device_memory must be a size such as 80GB"),
        (["--recipe", "demo", "--device-memory", "0"], "device_memory must be a size such as 80GB"),
        (
            ["--recipe", "demo", "--engine", "zero4"],
            "engine must be one of ddp, fsdp2, zero1, zero2, zero3, got 'zero4'",
        ),
        (
            ["--recipe", "demo", "--accelerate-config", "dpp"],
            "there is no accelerate configuration 'dpp'; did you mean",
        ),
        (["--recipe", "demo", "--accelerate-config", "ddp", "--engine", "ddp"], "exclude each other"),
        (["--recipe", "demo", "--backbone", "lama"], "did you mean 'llama'"),
    ],
)
def test_bad_input_of_an_estimate_is_one_sentence_and_exit_code_2(hf, flags, sentence):
    result = hf("doctor", *flags)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert sentence in result.err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "is no YAML file"),
        ("a: 1", "has no distributed_type"),
        ("distributed_type: FSDP\nfsdp_config: {}", "asks for fsdp1, which cannot be estimated"),
        ("distributed_type: MULTI_GPU\nnum_processes: two", "must be a positive integer, got 'two'"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(hf, tmp_path, text, sentence):
    (tmp_path / "bad.yaml").write_text(text)
    result = hf("doctor", "--recipe", "demo", "--accelerate-config", "bad.yaml")
    assert result.code == 2
    assert sentence in result.err


# ---- the checklist of a run ----


@pytest.mark.parametrize("objective", ["mdlm", "ar"])
def test_the_checklist_of_a_sound_run_has_no_cross_and_exit_code_0(hf, trained, trained_ar, objective):
    result = hf("doctor", "--run", trained if objective == "mdlm" else trained_ar)
    assert (result.code, result.err) == (0, "")
    head, *lines = result.out.splitlines()
    assert f"({objective})" in head
    assert "✓ run: completed at step 6 of 6" in lines
    assert "✓ numbers are finite: all of 6 steps and 2 evaluations" in lines
    assert {line[0] for line in lines} == {"✓", "–"}


def test_the_checklist_of_thirty_steps_of_mdlm_finds_its_noise_in_order(hf, tiny):
    flags = ["--max-steps", "30", "--eval-steps", "15", "--save-steps", "30", "--generate-interval", "0"]
    assert hf("train", *tiny, *flags, "--output-dir", "run").code == 0
    result = hf("doctor", "--run", "run", "--json")
    assert (result.code, result.err) == (0, "")
    checks = {check["name"]: check for check in json.loads(result.out)["checks"]}
    passed = {name for name, check in checks.items() if check["outcome"] == "passed"}
    assert passed >= {"noise drawn uniformly", "masking rates as prescribed", "learning rate follows its schedule"}
    assert "counts of 4 stratified sequences a step, 30 steps" in checks["noise drawn uniformly"]["finding"]


def test_the_checklist_of_atat_finds_its_stages(hf, tiny):
    flags = ["--objective", "atat", "--curriculum", "thirds", "--max-steps", "30", "--eval-steps", "15"]
    assert hf("train", *tiny, *flags, "--generate-interval", "0", "--output-dir", "run").code == 0
    lines = hf("doctor", "--run", "run").out.splitlines()
    assert "✓ curriculum stages begin when they should: stage 2 at step 11, stage 3 at step 21 (thirds)" in lines
    assert any(line.startswith("✓ noise drawn uniformly: times of 4 stratified sequences") for line in lines)


def test_a_cross_in_the_checklist_is_exit_code_1(hf, trained):
    journal = trained / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    step = next(line for line in lines if line["type"] == "step" and line["iter"] == 4)
    step.update(loss=None, nonfinite=["loss"])
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = hf("doctor", "--run", trained)
    assert result.code == 1
    (cross,) = [line for line in result.out.splitlines() if line.startswith("✗")]
    assert cross.startswith("✗ numbers are finite: 1 rows are not, the first is step 4 (loss); go on from")
    assert json.loads(hf("doctor", "--run", trained, "--json").out)["sound"] is False


@pytest.mark.slow
def test_the_checklist_works_while_the_run_is_trained(hf, start, tiny, wait_for_steps):
    process = start("train", *tiny, "--max-steps", "100000", "--generate-interval", "0", "--output-dir", "live")
    wait_for_steps(process, Path("live/journal.jsonl"), 4)
    result = hf("doctor", "--run", "live")
    assert process.poll() is None
    assert "✓ run: running at step " in result.out
    assert " of 100,000\n" in result.out


def test_the_checklist_needs_no_torch(trained):
    code = (
        "import sys; from hf_difflm.commands import app\n"
        f"try: app(['doctor', '--run', {str(trained)!r}])\n"
        "except SystemExit as stop: print(stop.code, 'torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ended.stdout.splitlines()[-1] == "0 False", ended.stderr


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--run", "nowhere"], "there is no run at 'nowhere'"),
        (["--run", "."], "'.' is not a run (found an empty folder)"),
        (["--run", "x", "--recipe", "demo"], "--run reads a log and takes no other flag than --json"),
        (["--run", "x", "--devices", "2"], "--run reads a log and takes no other flag than --json"),
        (["--run", "x", "--block-size", "64"], "--run reads a log and takes no other flag than --json"),
        (["--json"], "these flags need --recipe or --init-from"),
    ],
)
def test_bad_input_of_a_checklist_is_one_sentence_and_exit_code_2(hf, flags, sentence):
    result = hf("doctor", *flags)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")
    assert sentence in result.err


def test_doctor_needs_no_recipe_beside_weights_and_leaves_out_the_network_of_one(hf, tmp_path):
    denoiser = convert(str(stock_model(tmp_path / "source", "llama")), tmp_path / "denoiser").folder
    alone = hf("doctor", "--init-from", denoiser, "--block-size", "64", "--json")
    assert alone.code == 0, alone.err
    estimate = json.loads(alone.out)
    assert (estimate["vocabulary"], estimate["reads"]) == (259, "both sides")
    beside = hf("doctor", "--init-from", denoiser, "--block-size", "64", "--recipe", "openwebtext")
    assert beside.code == 0, beside.err
    first = f"mdlm: {estimate['parameters']:,} parameters, 259 tokens in the vocabulary, blocks of 64 tokens"
    assert beside.out.startswith(first)
    assert "reads both sides\n" in beside.out
    left = "note: left out hidden_size, num_hidden_layers, num_attention_heads, tie_word_embeddings, tokenizer of "
    assert f"{left}recipe openwebtext, which are of its own network\n" in beside.err
    wrong = hf("doctor", "--init-from", denoiser, "--block-size", "64", "--hidden-size", "64")
    assert wrong.code == 2
    assert "does not have hidden_size = 64" in wrong.err
