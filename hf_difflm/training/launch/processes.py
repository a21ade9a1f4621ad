"""How the processes of a training were started: a launch that would silently do something else is refused."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from ...errors import UserError

logger = logging.getLogger(__name__)

# For any other engine accelerate wants GPUs; on CPUs it would quietly run DDP, or one process beside the other.
ENGINES_ON_CPU = {"single", "ddp"}


def asked_engine(fsdp: Any = None, deepspeed: Any = None) -> str:
    """Return the engine that the launcher's environment or the Trainer's arguments ask for.

    Args:
        fsdp: ``TrainingArguments.fsdp``.
        deepspeed: ``TrainingArguments.deepspeed``.

    Returns:
        ``single``, ``ddp``, ``fsdp1``, ``fsdp2``, ``zero0`` to ``zero3``; ``zero`` where a file names the stage.
    """
    if deepspeed or _is_set("ACCELERATE_USE_DEEPSPEED"):
        if isinstance(deepspeed, dict):
            return f"zero{deepspeed.get('zero_optimization', {}).get('stage', 0)}"
        if deepspeed or os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none") != "none":
            return "zero"
        return f"zero{os.environ.get('ACCELERATE_DEEPSPEED_ZERO_STAGE', '2')}"
    if _is_set("ACCELERATE_USE_FSDP"):
        return f"fsdp{os.environ.get('FSDP_VERSION', '1')}"
    if fsdp:
        return "fsdp2"
    return "ddp" if _environment_number("WORLD_SIZE") > 1 else "single"


def check_launch(*, use_cpu: bool, bf16: bool, fp16: bool, fsdp: Any = None, deepspeed: Any = None) -> None:
    """Refuse a launch that would not do what it says; called before any process talks to another.

    Args:
        use_cpu: the Trainer's argument, as are all the others.
        bf16: see there.
        fp16: see there.
        fsdp: see there.
        deepspeed: see there.

    Raises:
        UserError: processes that would train without each other, or by another engine than asked for; FSDP of
            the first version; a precision that a CPU does not have, or that the configuration and the flags do not share.
    """
    engine, processes = asked_engine(fsdp, deepspeed), _environment_number("WORLD_SIZE")
    has_devices = torch.accelerator.is_available()
    on_cpu = use_cpu or _is_set("ACCELERATE_USE_CPU") or not has_devices
    if fp16 and on_cpu:
        raise UserError(
            "fp16 was asked for, but a CPU would compute in float32 all the same; use bf16, or leave it out"
        )
    if on_cpu and engine not in ENGINES_ON_CPU:
        raise UserError(
            f"{_NAMES.get(engine[:4], engine)} was asked for, but accelerate has it on GPUs only and would quietly train "
            f"without it on this CPU; launch with accelerate_configs/{'multi_cpu' if processes > 1 else 'cpu'}.yaml"
        )
    if processes > 1 and not has_devices and not use_cpu and engine in ("single", "ddp"):
        raise UserError(
            f"{processes} processes were started on a machine without an accelerator, and without --use-cpu they would "
            "train without each other; add --use-cpu"
        )
    if engine == "fsdp1":
        raise UserError(
            "the launch configuration asks for the first version of FSDP, which is not supported; set fsdp_version: 2, as "
            "accelerate_configs/fsdp2.yaml does"
        )
    _check_precision(os.environ.get("ACCELERATE_MIXED_PRECISION", "no"), bf16=bf16, fp16=fp16)


def check_sharding(
    engine: str,
    *,
    ema: bool,
    load_best_model_at_end: bool = False,
    state_dict_type: str | None = None,
    reads_padding: bool = False,
    muon: bool = False,
) -> None:
    """Refuse what an engine that shards the weights cannot do.

    Args:
        engine: as ``callbacks.measuring.engines.engine_of`` names it.
        ema: whether a moving average of the weights is asked for.
        load_best_model_at_end: whether the model shall have the weights of ``best/`` after training.
        state_dict_type: of FSDP's plugin.
        reads_padding: whether the network reads padded rows one by one.
        muon: whether the optimiser is Muon.

    Raises:
        UserError: a network whose forwards differ in number from process to process; a moving average under ZeRO-3; the
            best weights in a model that is sharded; checkpoints of shards under FSDP2; Muon under DeepSpeed.
    """
    if muon and engine.startswith("zero"):
        raise UserError(
            f"optim muon does not train under {engine}, since DeepSpeed gives an optimiser flat pieces of the weights, not "
            "matrices; launch with accelerate_configs/fsdp2.yaml or ddp.yaml, or choose another optim such as adamw_torch"
        )
    if reads_padding and engine in ("fsdp2", "zero3"):
        raise UserError(
            "padding changes a row of this backbone, so that padded rows go through it one by one, and processes that share "
            "its weights would wait for each other; launch with accelerate_configs/ddp.yaml, or use another backbone"
        )
    if ema and engine == "zero3":
        raise UserError(
            "ema_decay does not work under ZeRO-3, whose weights are in nobody's hands; leave it out, or launch with "
            "accelerate_configs/fsdp2.yaml"
        )
    if load_best_model_at_end and engine not in ("single", "ddp"):
        raise UserError(
            f"load_best_model_at_end does not work under {engine}, whose model has its weights in shards; leave it out, and "
            "load best/ by from_pretrained"
        )
    if engine == "fsdp2" and state_dict_type is not None and "FULL" not in state_dict_type:
        raise UserError(
            f"fsdp_state_dict_type is {state_dict_type}, with which neither best/ nor a checkpoint would hold weights that "
            "load in one process; use FULL_STATE_DICT"
        )


def build_models_whole() -> None:
    """Until there is a Trainer, models are built whole under ZeRO-3, too: one seed gives one network under each engine.

    Otherwise transformers would cut a model while it is built and draw other numbers for it, and nothing could be
    computed with it before training.
    """
    unset_hf_deepspeed_config()


def prepare_for_zero3(args: TrainingArguments) -> None:
    """Undo :func:`build_models_whole`, before the Trainer makes its engine."""
    config = getattr(args, "hf_deepspeed_config", None)
    if config is not None:  # otherwise the Trainer makes one of what the launcher says
        set_hf_deepspeed_config(config)


def use_one_gpu(found: int) -> None:
    """Say how to use all the GPUs, where several are there and one process was started."""
    logger.warning(
        "using 1 of %d GPUs; to use them all: accelerate launch --config_file accelerate_configs/ddp.yaml "
        "--num_processes %d cli.py ... (hf-difflm recipes --accelerate says where it is)",
        found,
        found,
    )


_NAMES = {"fsdp": "FSDP", "zero": "DeepSpeed"}


def _check_precision(configured: str, *, bf16: bool, fp16: bool) -> None:
    flag = "bf16" if bf16 else "fp16" if fp16 else "no"
    if configured in ("no", flag):
        return
    if configured not in ("bf16", "fp16"):
        raise UserError(
            f"the launch configuration says mixed_precision: {configured}, which is not supported; set it to 'no' and "
            "give --bf16"
        )
    given = "no such flag is given" if flag == "no" else f"the flag is --{flag}"
    raise UserError(
        f"the launch configuration says mixed_precision: {configured}, but {given}; give --{configured}, or set "
        "mixed_precision: 'no'"
    )


def _is_set(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1")


def _environment_number(name: str) -> int:
    return int(os.environ.get(name) or "1")
