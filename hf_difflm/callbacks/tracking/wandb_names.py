"""Open the Weights & Biases run of a training under a project, entity and name of one's own."""

from __future__ import annotations

import os

from transformers import TrainingArguments

from ...errors import UserError
from .wandb_resume import active_wandb_run


def open_wandb_run(
    args: TrainingArguments, project: str | None = None, entity: str | None = None, run_name: str | None = None
) -> bool:
    """Open the W&B run that the Trainer's own callback will then go on with, if the training reports to W&B at all.

    Call it right before ``train``. transformers takes the project and the entity from the environment, which wandb reads
    only once a process; so what is given here is handed over by hand, and holds for this run alone. So are the run that is
    gone on with, ``WANDB_RUN_ID``, and ``WANDB_RESUME``.

    Args:
        args: ``report_to`` and, by default, ``run_name`` are read from them.
        project: default: ``WANDB_PROJECT``, else transformers' ``huggingface``.
        entity: user or team; default: ``WANDB_ENTITY``, else the user's own.
        run_name: name of the run in W&B; default: ``args.run_name``.

    Returns:
        Whether a run was opened: not where W&B is not reported to, on other processes than world
        zero, and where a run is open already.

    Raises:
        UserError: W&B is not installed or does not let the run begin.
    """
    if "wandb" not in (args.report_to or ()) or args.process_index != 0:
        return False
    if active_wandb_run() is not None:
        return False
    try:
        import wandb
    except ImportError as error:
        raise UserError("report_to names wandb, which is not installed; pip install wandb") from error
    try:
        wandb.init(
            project=project or os.getenv("WANDB_PROJECT", "huggingface"),
            entity=entity,
            name=run_name or args.run_name,
            id=os.getenv("WANDB_RUN_ID"),
            resume=os.getenv("WANDB_RESUME"),  # type: ignore[arg-type]
        )
    except wandb.errors.Error as error:
        raise UserError(
            f"Weights & Biases cannot begin the run ({error}); run wandb login, or set WANDB_MODE=offline"
        ) from error
    return True
