"""Every configuration that ships is one that the installed accelerate reads, and starts what its name says."""

from __future__ import annotations

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import prepare_multi_gpu_env
from accelerate.utils.launch import prepare_deepspeed_cmd_env

from hf_difflm.training.launch.configs import FOLDER, launch_configs
from hf_difflm.training.launch.processes import asked_engine, check_launch, check_sharding

CONFIGS = {config.name: config for config in launch_configs()}
ENGINES = {
    "cpu": "single",
    "single_gpu": "single",
    "multi_cpu": "ddp",
    "ddp": "ddp",
    "multi_node": "ddp",
    "fsdp2": "fsdp2",
    "zero1": "zero1",
    "zero2": "zero2",
    "zero3": "zero3",
}


def arguments(name: str, *flags: str):
    parsed = launch_command_parser().parse_args(
        ["--config_file", str(CONFIGS[name].path), *flags, "cli.py", "train", "--bf16"]
    )
    return _validate_launch_command(parsed)[0]


def test_all_are_there():
    assert CONFIGS.keys() == ENGINES.keys()


@pytest.mark.parametrize("name", ENGINES)
def test_accelerate_reads_it_and_its_precision_is_left_to_the_flags(name):
    path = CONFIGS[name].path
    config = load_config_from_file(str(path))
    assert config.mixed_precision == "no"
    asked = arguments(name)
    assert (asked.num_processes, asked.num_machines) == (config.num_processes, config.num_machines)
    assert asked.training_script_args == ["train", "--bf16"]
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert CONFIGS[name].use.startswith(first.removeprefix("# ").split(".")[0])
    assert CONFIGS[name].use.endswith(".")


@pytest.mark.parametrize("name", [name for name, engine in ENGINES.items() if engine != "single"])
def test_what_it_puts_into_the_environment_is_the_engine_of_its_name(name, monkeypatch):
    flags = ["--main_process_port", "0"]
    if name == "multi_node":
        flags = ["--main_process_port", "29511", "--main_process_ip", "127.0.0.1", "--machine_rank", "1"]
    if name.startswith("zero"):
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: pip install hf_difflm[deepspeed]")
        asked = arguments(name, *flags)
        asked.deepspeed_fields_from_accelerate_config = ""
        _, environment = prepare_deepspeed_cmd_env(asked)
    else:
        environment = prepare_multi_gpu_env(arguments(name, *flags))
    for key in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "WORLD_SIZE"):
        monkeypatch.delenv(key, raising=False)
    for key, value in environment.items():
        if key.startswith(("ACCELERATE_", "FSDP_")):
            monkeypatch.setenv(key, value)
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    assert asked_engine() == ENGINES[name]
    check_launch(use_cpu=False, bf16=True, fp16=False)
    check_sharding(asked_engine(), ema=False, state_dict_type=environment.get("FSDP_STATE_DICT_TYPE"))


def test_the_slurm_script_names_flags_that_accelerate_has_and_a_configuration_that_is_there():
    script = (FOLDER / "multi_node.sbatch").read_text()
    assert '"multi_node"' in script
    launch = " ".join(
        script[script.index("accelerate launch") :].split('"$(command')[0].replace("\\\n", " ").split()[2:]
    )
    known = {option for action in launch_command_parser()._actions for option in action.option_strings}
    flags = [word for word in launch.split() if word.startswith("--")]
    assert len(flags) == 6
    assert set(flags) <= known


def test_the_template_for_two_machines_counts_the_processes_of_both():
    content = yaml.safe_load(CONFIGS["multi_node"].path.read_text())
    assert (content["num_machines"], content["num_processes"]) == (2, 16)
