"""A launch that would quietly do something else is refused in one sentence; real launches, where one is enough to see it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_difflm.errors import UserError
from hf_difflm.training.launch.processes import asked_engine, check_launch, check_sharding, use_one_gpu

ROOT = Path(__file__).parents[3]
LAUNCHER = ("ACCELERATE_", "FSDP_", "WORLD_SIZE", "LOCAL_", "RANK", "MASTER_")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in list(os.environ):
        if name.startswith(LAUNCHER):
            monkeypatch.delenv(name)


@pytest.fixture
def gpus(monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)


def check(*, use_cpu: bool = False, bf16: bool = False, fp16: bool = False, **settings) -> None:
    check_launch(use_cpu=use_cpu, bf16=bf16, fp16=fp16, **settings)


@pytest.mark.parametrize(
    ("environment", "settings", "engine"),
    [
        ({}, {}, "single"),
        ({"WORLD_SIZE": "2"}, {}, "ddp"),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, {}, "fsdp2"),
        ({"ACCELERATE_USE_FSDP": "true"}, {}, "fsdp1"),
        ({}, {"fsdp": True}, "fsdp2"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, {}, "zero3"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": "ds.json"}, {}, "zero"),
        ({}, {"deepspeed": {"zero_optimization": {"stage": 2}}}, "zero2"),
        ({}, {"deepspeed": "ds.json"}, "zero"),
    ],
)
def test_what_was_asked_for_is_read_from_the_launcher_and_the_flags(monkeypatch, environment, settings, engine):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert asked_engine(**settings) == engine


def test_engines_that_would_quietly_be_ddp_on_a_cpu_are_refused(monkeypatch, gpus):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    check()
    with pytest.raises(UserError, match=r"FSDP was asked for.*multi_cpu\.yaml"):
        check(use_cpu=True)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    check()
    with pytest.raises(UserError, match=r"DeepSpeed was asked for.*multi_cpu\.yaml"):
        check(use_cpu=True)


def test_the_first_version_of_fsdp_is_refused(monkeypatch, gpus):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match=r"fsdp_version: 2"):
        check()


@pytest.mark.parametrize(
    ("configured", "flags", "refused"),
    [
        ("no", {}, None),
        ("no", {"bf16": True}, None),
        ("bf16", {"bf16": True}, None),
        ("fp16", {"fp16": True}, None),
        ("bf16", {}, r"mixed_precision: bf16, but no such flag is given; give --bf16"),
        ("fp16", {"bf16": True}, r"mixed_precision: fp16, but the flag is --bf16"),
        ("bf16", {"fp16": True}, r"mixed_precision: bf16, but the flag is --fp16"),
        ("fp8", {"bf16": True}, r"fp8, which is not supported"),
    ],
)
def test_the_configuration_and_the_flags_must_agree_on_the_precision(monkeypatch, gpus, configured, flags, refused):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", configured)
    if refused is None:
        check(**flags)
        return
    with pytest.raises(UserError, match=refused):
        check(**flags)


@pytest.mark.borders
def test_float16_on_a_cpu_which_would_be_float32_is_refused(monkeypatch, gpus):
    check(fp16=True)
    with pytest.raises(UserError, match=r"fp16 was asked for, but a CPU would compute in float32.*use bf16"):
        check(fp16=True, use_cpu=True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(UserError, match=r"fp16 was asked for"):
        check(fp16=True)


def test_zero_3_has_no_average_and_fsdp2_must_save_whole_weights():
    check_sharding("zero2", ema=True)
    check_sharding("zero3", ema=False)
    with pytest.raises(UserError, match=r"ema_decay does not work under ZeRO-3.*fsdp2\.yaml"):
        check_sharding("zero3", ema=True)
    check_sharding("fsdp2", ema=True, state_dict_type="FULL_STATE_DICT")
    with pytest.raises(UserError, match=r"SHARDED_STATE_DICT.*use FULL_STATE_DICT"):
        check_sharding("fsdp2", ema=False, state_dict_type="SHARDED_STATE_DICT")


def test_where_one_of_several_gpus_is_used_the_launch_line_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        use_one_gpu(4)
    assert "using 1 of 4 GPUs" in caplog.text
    assert "accelerate launch --config_file accelerate_configs/ddp.yaml --num_processes 4 cli.py" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "flags", "sentence"),
    [
        ("multi_cpu", [], "they would train without each other; add --use-cpu"),
        ("fsdp2", ["--use-cpu"], "FSDP was asked for, but accelerate has it on GPUs only"),
        ("multi_cpu", ["--use-cpu", "--mixed"], "mixed_precision: bf16, but no such flag is given"),
    ],
)
def test_a_real_launch_ends_with_the_sentence_and_leaves_nothing(tmp_path, config, flags, sentence):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0", "--num_processes", "2"]
    launch += ["--config_file", str(ROOT / f"hf_difflm/accelerate_configs/{config}.yaml")]
    if "--mixed" in flags:
        flags = [flag for flag in flags if flag != "--mixed"]
        launch += ["--mixed_precision", "bf16"]
    train = [str(ROOT / "cli.py"), "train", "--dataset", "markov", "--output-dir", "run", *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*launch, *train], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors
    assert all(sentence in error for error in errors)
    assert not (tmp_path / "run").exists()
