"""How tasks of lm-evaluation-harness are run: the one declaration behind the flags and the Python argument."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class HarnessOptions:
    """Options of :func:`hf_difflm.evaluation.harness.tasks.evaluate_tasks`."""

    tasks: list[str] = field(
        default_factory=list,
        metadata={"help": "tasks, groups or tags of lm-evaluation-harness, or task files (.yaml)"},
    )
    include_path: str | None = field(default=None, metadata={"help": "folder with task files of your own"})
    limit: int | None = field(default=None, metadata={"help": "use the first so many documents of each task", "min": 1})
    num_fewshot: int | None = field(
        default=None, metadata={"help": "solved examples before each question; default: the task's", "min": 0}
    )
    draws: int = field(
        default=32,
        metadata={
            "help": "draws of noise for each continuation; masked diffusion only (causal LMs are exact)",
            "min": 1,
        },
    )
    truncate_context: bool = field(
        default=False, metadata={"help": "cut contexts that are too long from the left, instead of refusing them"}
    )
    apply_chat_template: bool = field(
        default=False,
        metadata={
            "help": "write each question, and each solved example before it, as turns of the tokenizer's chat template"
        },
    )
    gen_kwargs: dict | None = field(
        default=None,
        metadata={
            "help": "how tasks that generate do so: max_gen_toks, temperature, sampler, max_denoising_steps, ..."
        },
    )
    bootstrap_iters: int = field(
        default=1000,
        metadata={"help": "bootstrap samples behind standard errors that have no formula; 0: none", "min": 0},
    )
    log_samples: bool = field(default=False, metadata={"help": "keep each answer, too, beside the results"})
    results_dir: str | None = field(
        default=None, metadata={"help": "folder of the results; default: lm_eval in the folder of the run"}
    )
