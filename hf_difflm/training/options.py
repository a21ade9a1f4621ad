"""The fields ``DiffusionTrainingArguments`` adds to or sets in ``TrainingArguments``; no heavy import in here.

Each value is declared once: the flags of the command line (``--help`` shows these at once), the recipe keys and the
dataclass come from this declaration.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..evaluation.likelihood.draws import FEWEST_REPLICATES, MOST_REPLICATES
from ..models.options import NOISE_SCHEDULES
from ..objectives.adaptive.names import CURRICULUM_SCHEDULES, IMPORTANCES, MASKINGS
from ..objectives.names import COUNT_LAWS, DIFFUSION, LOSS_FORMS, NOISE_SAMPLINGS, OBJECTIVES


@dataclass
class DiffusionOptions:
    """What is minimised, how the run is logged, and the defaults that differ from transformers'."""

    objective: str = field(
        default="mdlm",
        metadata={
            "help": "mdlm: masked diffusion; ar: autoregressive (stock causal LM); atat: adaptive masked diffusion; bd3lm: "
            "block diffusion, autoregressive over blocks of diffusion_block_size tokens",
            "choices": OBJECTIVES,
        },
    )
    diffusion_block_size: int | None = field(
        default=None,
        metadata={
            "help": "bd3lm: tokens of a block, within which tokens are predicted in any order; 1 is autoregressive, "
            "block_size is mdlm",
            "min": 1,
            "objectives": ("bd3lm",),
        },
    )
    diffusion_block_size_schedule: str | None = field(
        default=None,
        metadata={
            "help": "bd3lm: sizes of the blocks in equal parts of training, rising to diffusion_block_size, such as 1,4,16; "
            "evaluations are of the last",
            "objectives": ("bd3lm",),
        },
    )
    allow_causal_layers: bool = field(
        default=False,
        metadata={"help": "train a denoiser though some layers of its backbone read back only, as those of hybrids do"},
    )
    router_aux_loss: float | None = field(
        default=None,
        metadata={
            "help": "coefficient of the load-balancing loss of a mixture of experts, which is added to the training loss "
            "and logged apart as aux_loss; default: none",
            "above": 0.0,
        },
    )
    loss_form: str = field(
        default="any_order",
        metadata={
            "help": "form of the NELBO: exact counts (any_order) or Bernoulli masks at a time t (time)",
            "choices": LOSS_FORMS,
            "objectives": DIFFUSION,
        },
    )
    noise_sampling: str = field(
        default="stratified",
        metadata={
            "help": "how counts or times are drawn over the optimiser batch; pairs: stratified counts, each sequence read "
            "under a mask and under its complement",
            "choices": NOISE_SAMPLINGS,
            "objectives": DIFFUSION,
        },
    )
    count_law: str = field(
        default="uniform",
        metadata={
            "help": "how many tokens of a sequence, or a diffusion block, are hidden in training: any number as often "
            "(uniform), few of them more often (importance), numbers around a rate (bell), or as the gradient's second "
            "moments ask for (optimal)",
            "choices": COUNT_LAWS,
            "objectives": ("mdlm", "bd3lm"),
        },
    )
    count_law_exponent: float = field(
        default=1 / 3,
        metadata={
            "help": "importance: k tokens are hidden with probability ~ k^-exponent",
            "above": 0.0,
            "objectives": ("mdlm", "bd3lm"),
        },
    )
    count_law_centre: float = field(
        default=0.4,
        metadata={
            "help": "bell: mean of the share that is hidden",
            "min": 0.0,
            "max": 1.0,
            "objectives": ("mdlm", "bd3lm"),
        },
    )
    count_law_width: float = field(
        default=0.2,
        metadata={
            "help": "bell: standard deviation of the share that is hidden",
            "above": 0.0,
            "objectives": ("mdlm", "bd3lm"),
        },
    )
    count_law_uniform_share: float = field(
        default=0.1,
        metadata={
            "help": "bell: share of the draws that are uniform, so that no number is never hidden",
            "above": 0.0,
            "max": 1.0,
            "objectives": ("mdlm", "bd3lm"),
        },
    )
    loss_weight: str = field(
        default="nelbo",
        metadata={
            "help": "what each of k hidden tokens weighs in the training loss: 1 / (k p(k)), so that it is the bound "
            "(nelbo), as much as any other (flat), or ~ k^-q (a number q)",
            "objectives": ("mdlm", "bd3lm"),
        },
    )
    static_shapes: bool = field(
        default=False,
        metadata={
            "help": "fill the labelled positions of each micro-batch up to the most there can be, so that a compiled step "
            "has one shape"
        },
    )
    noise_schedule: str = field(
        default="loglinear",
        metadata={
            "help": "noise schedule of the time form and of the sampler",
            "choices": NOISE_SCHEDULES,
            "objectives": DIFFUSION,
        },
    )
    schedule_exponent: float = field(
        default=2.0, metadata={"help": "w of the polynomial schedule 1 - t^w", "above": 0.0, "objectives": DIFFUSION}
    )
    sigma_min: float = field(
        default=1e-4, metadata={"help": "least noise of the geometric schedule", "above": 0.0, "objectives": DIFFUSION}
    )
    sigma_max: float = field(
        default=20.0, metadata={"help": "most noise of the geometric schedule", "above": 0.0, "objectives": DIFFUSION}
    )
    importance: str = field(
        default="full",
        metadata={
            "help": "atat: importance of tokens: 0.7 learned + 0.3 by frequency (full), one of them, or none",
            "choices": IMPORTANCES,
            "objectives": ("atat",),
        },
    )
    masking: str = field(
        default="proportional",
        metadata={
            "help": "atat: important tokens are masked earlier (proportional), later (inverse), first later and then "
            "earlier (balanced), or as all others (time_only, none)",
            "choices": MASKINGS,
            "objectives": ("atat",),
        },
    )
    masking_temperature: float = field(
        default=1.0,
        metadata={"help": "atat: the higher, the nearer to uniform masking", "above": 0.0, "objectives": ("atat",)},
    )
    position_bias: float = field(
        default=0.0,
        metadata={"help": "atat: how much earlier late tokens are masked, as a log of odds", "objectives": ("atat",)},
    )
    curriculum: str = field(
        default="none",
        metadata={
            "help": "atat: when medium and hard tokens come in: none, thirds, 30-70, early, late, or two shares of "
            "training such as 0.2,0.6",
            "objectives": ("atat",),
        },
    )
    curriculum_schedule: str = field(
        default="linear",
        metadata={
            "help": "atat: how hard tokens come in within the stages",
            "choices": CURRICULUM_SCHEDULES,
            "objectives": ("atat",),
        },
    )
    importance_loss_weight: float = field(
        default=0.1,
        metadata={"help": "atat: weight of the importance estimator's own loss", "min": 0.0, "objectives": ("atat",)},
    )
    posterior_tilt: bool = field(
        default=True,
        metadata={
            "help": "atat with frequency_only: predict what being masked says about a token by formula",
            "objectives": ("atat",),
        },
    )
    global_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "sequences in an optimiser batch; gradient accumulation follows from processes x per-device batch",
            "min": 1,
        },
    )
    head_chunk_rows: int | None = field(
        default=None,
        metadata={
            "help": "labelled positions at which the LM head of a masked diffusion model and its loss run at once, which "
            "bounds their memory and changes no result; 0: all; default: all, or as many as 64 MiB of logits on a CPU and "
            "512 MiB on a GPU allow",
            "min": 0,
        },
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "decay of the moving average of the weights that is evaluated and kept in best/; default: none",
            "min": 0.0,
            "below": 1.0,
        },
    )
    lora_r: int | None = field(
        default=None,
        metadata={
            "help": "rank of LoRA adapters, which are trained instead of the weights of init_from; default: none",
            "min": 1,
        },
    )
    lora_alpha: int = field(default=16, metadata={"help": "LoRA: adapters are scaled by lora_alpha / lora_r", "min": 1})
    lora_dropout: float = field(
        default=0.0, metadata={"help": "LoRA: dropout before the adapters", "min": 0.0, "below": 1.0}
    )
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={
            "help": "LoRA: names of the layers that get an adapter, several with commas between, lm_head and the embedding "
            "among them; default: all-linear, all dense ones but the LM head"
        },
    )
    lora_merge: bool = field(
        default=True,
        metadata={"help": "LoRA: best/ is a plain model with the adapter merged in; off: the adapter alone"},
    )
    eval_replicates: int = field(
        default=8,
        metadata={
            "help": "independent noise draws over the whole evaluation set; with target_stderr the fewest, at least "
            f"{FEWEST_REPLICATES}",
            "min": 1,
        },
    )
    target_stderr: float | None = field(
        default=None,
        metadata={
            "help": "draw until the Monte-Carlo standard error (eval_nll_stderr) is at most this, in nats/token; default: "
            "eval_replicates draws",
            "above": 0.0,
        },
    )
    max_eval_replicates: int = field(
        default=MOST_REPLICATES, metadata={"help": "most draws, with target_stderr", "min": 1}
    )
    eval_pairs: bool = field(
        default=False,
        metadata={"help": "each evaluation draw reads a sequence under a mask and under its complement: two forwards"},
    )
    eval_seed: int = field(default=0, metadata={"help": "seed of the evaluation noise", "min": 0})
    eval_iters: int | None = field(
        default=100,
        metadata={
            "help": "most batches (of per_device_eval_batch_size sequences) of an evaluation, spread over the set",
            "min": 1,
        },
    )
    save_log_to_json: bool = field(default=True, metadata={"help": "write the run log (journal and JSON files)"})
    log_save_interval: int = field(default=100, metadata={"help": "steps between rebuilds of the JSON files", "min": 1})
    log_eval_only: bool = field(default=False, metadata={"help": "keep evaluations alone in the run log, no steps"})
    experiment_name: str | None = field(
        default=None, metadata={"help": "names the metrics file, and the run where no run_name is given"}
    )
    run_name: str | None = field(default=None, metadata={"help": "name of the run in its log, in plots and in W&B"})
    peak_flops: float | None = field(
        default=None,
        metadata={"help": "dense peak FLOP/s of one device, for the MFU; default: from a table", "above": 0.0},
    )
    log_dir: str | None = field(default=None, metadata={"help": "folder of the run log; default: the output folder"})
    hub_license: str | None = field(
        default=None,
        metadata={"help": "push_to_hub: licence for the model card, such as apache-2.0; default: the card names none"},
    )

    # Fields of TrainingArguments with our help or our default.
    max_steps: int = field(default=-1, metadata={"help": "optimiser steps; -1: num_train_epochs decides"})
    num_train_epochs: float = field(default=3.0, metadata={"help": "passes over the training blocks", "above": 0.0})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "sequences in a micro-batch", "min": 1})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "sequences in an evaluation batch", "min": 1})
    gradient_accumulation_steps: int = field(
        default=1, metadata={"help": "micro-batches in an optimiser batch", "min": 1}
    )
    learning_rate: float = field(default=3e-4, metadata={"help": "peak learning rate", "above": 0.0})
    adamw_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "optim muon: peak learning rate of embeddings, LM head and norms, where learning_rate is that of the "
            "weight matrices; default: learning_rate",
            "above": 0.0,
        },
    )
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "learning-rate schedule"})
    warmup_steps: float = field(
        default=0.05, metadata={"help": "warm-up steps; below 1: share of all steps", "min": 0.0}
    )
    weight_decay: float = field(
        default=0.0, metadata={"help": "decoupled weight decay, of AdamW and of muon", "min": 0.0}
    )
    max_grad_norm: float = field(
        default=1.0, metadata={"help": "clip the gradient norm here; 0: do not clip", "min": 0.0}
    )
    metric_for_best_model: str = field(
        default="eval_nll",
        metadata={
            "help": "metric of an evaluation that chooses best/, and that early stopping and plateau schedules follow"
        },
    )
    seed: int = field(default=42, metadata={"help": "seed of initial weights, data order and noise", "min": 0})
    logging_steps: float = field(default=10, metadata={"help": "steps between log records", "above": 0.0})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "hide non-finite losses (the Trainer's old habit); off: they stop the run"}
    )
    eval_strategy: str = field(
        default="steps", metadata={"help": "when to evaluate", "choices": ("no", "steps", "epoch")}
    )
    eval_steps: float | None = field(default=500, metadata={"help": "steps between evaluations", "above": 0.0})
    save_strategy: str = field(
        default="steps", metadata={"help": "when to save checkpoints", "choices": ("no", "steps", "epoch", "best")}
    )
    save_steps: float = field(
        default=2000,
        metadata={"help": "steps between checkpoints", "above": 0.0, "also": ("--checkpoint-interval",)},
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "keep this many checkpoints", "min": 1})
    bf16: bool = field(default=False, metadata={"help": "bfloat16 autocast"})
    use_cpu: bool = field(default=False, metadata={"help": "train on the CPU even where there is a GPU"})
    report_to: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={"help": "trackers, several with commas between: tensorboard, wandb, trackio, ...; none; all"},
    )
