"""What other programs call a setting, and what it is called here: for the hint beside an unknown name."""

from __future__ import annotations

from collections.abc import Collection

from ...errors import did_you_mean

# Of several the first that the command, or the recipe, has.
_NAMES = {
    "lr": ("learning_rate",),
    "epochs": ("num_train_epochs",),
    "num_epochs": ("num_train_epochs",),
    "max_epochs": ("num_train_epochs",),
    "steps": ("max_steps", "max_denoising_steps"),
    "num_steps": ("max_steps", "max_denoising_steps"),
    "max_iters": ("max_steps",),
    "total_steps": ("max_steps",),
    "diffusion_steps": ("max_denoising_steps",),
    "denoising_steps": ("max_denoising_steps",),
    "sampling_steps": ("max_denoising_steps",),
    "batch_size": ("per_device_train_batch_size",),
    "micro_batch_size": ("per_device_train_batch_size",),
    "train_batch_size": ("per_device_train_batch_size",),
    "eval_batch_size": ("per_device_eval_batch_size", "batch_size"),
    "total_batch_size": ("global_batch_size",),
    "grad_accum": ("gradient_accumulation_steps",),
    "grad_accumulation": ("gradient_accumulation_steps",),
    "accumulation_steps": ("gradient_accumulation_steps",),
    "grad_clip": ("max_grad_norm",),
    "clip_grad_norm": ("max_grad_norm",),
    "gradient_clip_val": ("max_grad_norm",),
    "warmup": ("warmup_steps",),
    "warmup_ratio": ("warmup_steps",),
    "optimizer": ("optim",),
    "scheduler": ("lr_scheduler_type",),
    "lr_scheduler": ("lr_scheduler_type",),
    "ema": ("ema_decay",),
    "seq_len": ("block_size",),
    "seq_length": ("block_size",),
    "sequence_length": ("block_size",),
    "max_seq_length": ("block_size",),
    "context_length": ("block_size",),
    "max_length": ("block_size", "max_new_tokens"),
    "length": ("block_size", "max_new_tokens"),
    "max_tokens": ("max_new_tokens",),
    "gen_length": ("max_new_tokens",),
    "layers": ("num_hidden_layers",),
    "n_layers": ("num_hidden_layers",),
    "num_layers": ("num_hidden_layers",),
    "depth": ("num_hidden_layers",),
    "heads": ("num_attention_heads",),
    "n_heads": ("num_attention_heads",),
    "num_heads": ("num_attention_heads",),
    "d_model": ("hidden_size",),
    "dim": ("hidden_size",),
    "width": ("hidden_size",),
    "n_embd": ("hidden_size",),
    "embed_dim": ("hidden_size",),
    "data": ("dataset",),
    "data_path": ("dataset",),
    "dataset_name": ("dataset",),
    "train_file": ("dataset",),
    "output": ("output_dir",),
    "out": ("output_dir",),
    "out_dir": ("output_dir",),
    "save_dir": ("output_dir",),
    "lora_rank": ("lora_r",),
    "rank": ("lora_r",),
    "temp": ("temperature",),
    "n": ("num_samples",),
    "n_samples": ("num_samples",),
    "remasking": ("sampler",),
    "cfg_scale": ("guidance_scale",),
    "cfg": ("guidance_scale",),
}

_SENTENCES = {
    ("model", "model_name", "model_name_or_path", "pretrained", "checkpoint"): (
        ("backbone", "init_from"),
        "--backbone is the family of a new network, --init-from a model whose weights training begins with",
    ),
    ("gpus", "num_gpus", "devices", "num_processes", "nproc_per_node"): (
        ("per_device_train_batch_size",),
        "several devices are taken by `accelerate launch --num_processes N cli.py train ...`",
    ),
    ("wandb", "use_wandb"): (("report_to",), "trackers are named: --report-to wandb"),
    ("tensorboard", "use_tensorboard"): (("report_to",), "trackers are named: --report-to tensorboard"),
    ("fp32", "float32"): (("bf16",), "float32 is what training computes in without --bf16 and --fp16"),
}


def hint_for(name: str, known: Collection[str], *, flag: bool) -> str:
    """Return what to write instead, as the end of a sentence, or an empty string.

    Args:
        name: an unknown name, or flag.
        known: the names there are, or flags.
        flag: write what is meant as a flag.
    """
    name, known = _plain(name), [_plain(one) for one in known]
    for names, (needs, sentence) in _SENTENCES.items():
        if name in names and set(needs) <= set(known):
            return f"; {sentence}"
    meant = next((ours for ours in _NAMES.get(name, ()) if ours in known), None)
    if meant is not None:
        return f"; did you mean {_written(meant, flag)!r}?"
    return did_you_mean(_written(name, flag), [_written(one, flag) for one in known])


def _plain(name: str) -> str:
    return name.removeprefix("--").replace("-", "_")


def _written(name: str, flag: bool) -> str:
    return f"--{name.replace('_', '-')}" if flag else name
