"""How a run from the command line is watched: the declaration behind the flags and recipe keys; no heavy import in here.

In Python the same is said by adding callbacks to a Trainer.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class MonitoringOptions:
    """What is measured, drawn, sampled and reported beside the loss; nothing of it changes the training."""

    viz_interval: int = field(default=50, metadata={"help": "steps between dashboard pictures; 0: none", "min": 0})
    generate_interval: int = field(
        default=1000,
        metadata={"help": "steps between text samples; 0: none, not even after the last step", "min": 0},
    )
    generation_prompts: str | None = field(
        default=None,
        metadata={
            "help": "file with a prompt of the samples on each line (.jsonl: objects with a prompt or messages); default: "
            "none, and how the evaluation text begins"
        },
    )
    generation_max_new_tokens: int | None = field(
        default=None,
        metadata={"help": "tokens of a sample; default: what a prompt leaves of a block", "min": 1},
    )
    word_samples: int = field(
        default=0,
        metadata={
            "help": "texts drawn when the training ends, of whose words of four letters and more it is told how many occur "
            "in the training text; 0: none",
            "min": 0,
        },
    )
    reference_model: str | None = field(
        default=None,
        metadata={"help": "causal LM (folder or Hub name) whose perplexity of each sample is noted beside its entropy"},
    )
    gradient_interval: int | None = field(
        default=None,
        metadata={"help": "least steps between gradient norms by group; default: each log; 0: none", "min": 0},
    )
    statistics_interval: int = field(
        default=500,
        metadata={"help": "steps between statistics of weights, updates and activations; 0: none", "min": 0},
    )
    throughput_interval: int | None = field(
        default=None,
        metadata={"help": "least steps between throughput reports; default: each log; 0: none", "min": 0},
    )
    text_log: bool = field(
        default=True, metadata={"help": "write train.log beside the run log: a line a log, for tail and grep"}
    )
    alerts: bool = field(
        default=True, metadata={"help": "say so on the terminal and in the log when the training goes wrong"}
    )
    fail_on: list[str] = field(
        default_factory=list,
        metadata={
            "help": "alerts that stop the run: loss_spike, exploding_gradients, vanishing_gradients, data_stall, "
            "degenerate_samples, unigram_plateau, all or none"
        },
    )
    wandb_project: str | None = field(default=None, metadata={"help": "project of the Weights & Biases run"})
    wandb_entity: str | None = field(default=None, metadata={"help": "user or team of the Weights & Biases run"})
    wandb_run_name: str | None = field(
        default=None, metadata={"help": "name of the Weights & Biases run; default: run_name"}
    )
    wandb_log_checkpoints: bool = field(
        default=False, metadata={"help": "keep each checkpoint as a Weights & Biases artifact"}
    )
