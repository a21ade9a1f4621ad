"""Where a run goes on, and what it leaves behind: its newest checkpoint, its samples, its last words."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import TrainerState

from ..callbacks import RunLogCallback
from ..data import PreparedData
from ..errors import UserError, first_line
from ..evaluation.held_out_numbers import keep_test
from ..evaluation.report import draws_of, score
from ..evaluation.targets import load_target
from ..runs.journal.checkpoints import newest_good
from ..runs.journal.schema import SampleRecord
from ..runs.journal.tables import printable
from ..training.trainer import DiffusionTrainer
from ..training.trainer_parts.resuming import find_checkpoint

logger = logging.getLogger(__name__)


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to resume from; says which were passed over."""
    checkpoint = find_checkpoint(folder)
    if checkpoint is None:
        logger.warning("no finished checkpoint to resume from: starting at step 0")
    return checkpoint


def is_last(checkpoint: Path) -> bool:
    """Whether nothing was left to train after it; the Trainer would go one step too far."""
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    return state.global_step >= state.max_steps


def close_log(trainer: DiffusionTrainer, run_log: RunLogCallback | None, checkpoint: Path) -> None:
    """Write down that a run is complete that was stopped between its last checkpoint and its end."""
    trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    trainer.state.is_world_process_zero = trainer.is_world_process_zero()
    if run_log is not None:
        run_log.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)
        run_log.close()
    if trainer.is_world_process_zero():
        print(f"the run had done its last step already: nothing is left to train after {checkpoint}")


def write_samples(samples: Sequence[SampleRecord], folder: Path) -> None:
    """The texts of the last step, as ``samples.txt``; control characters and half characters stand there as escapes."""
    texts = [
        f"=== step {record.iter}, {record.extra['mode']}, prompt {record.prompt!r}\n"
        f"{printable(record.prompt + record.text)}\n"
        for record in samples
    ]
    (folder / "samples.txt").write_text("\n".join(texts), encoding="utf-8")


def test_line(trainer: DiffusionTrainer, folder: Path, data: PreparedData) -> str:
    """Evaluate ``best/`` on the test text, keep that in the log, and say it; empty where there is no test or no ``best/``.

    What is computed is what ``hf-difflm eval RUN --split test`` computes, of the very files that are kept. The trained model
    itself could not stand in for them: it holds the last weights and not the best, as adapters where these are merged in
    ``best/``, or a share of them where it is sharded, and this process may be the only one that is still there. So that
    a second copy costs no memory that the training did not have, the optimiser and the gradients go first.
    """
    if data.test is None or not (folder / "best").is_dir():
        return ""
    _free_training(trainer)
    settings = {**trainer.args.to_dict(), "bf16": False}
    try:
        best = load_target(str(folder), use_cpu=trainer.args.device.type == "cpu")
        result = score(best, data.test, settings, draws_of(settings, {}))
        keep_test(str(folder), best, data.test, result)
    except (UserError, torch.OutOfMemoryError) as error:  # the run itself is done
        why = first_line(error)
        return f"the test was not evaluated ({why}); hf-difflm eval {folder} --split test does it"
    spread = "" if result.nll_stderr is None else f" ± {result.nll_stderr:.4f}"
    return (
        f"test: nll {result.nll:.4f}{spread} nats/token of the weights in {folder / 'best'}, on text held out for that"
    )


def _free_training(trainer: DiffusionTrainer) -> None:
    """Give back what only a further step would need; DeepSpeed's is its engine's, which all processes share."""
    if trainer.is_deepspeed_enabled:
        return
    trainer.model.zero_grad(set_to_none=True)
    trainer.optimizer, trainer.lr_scheduler = trainer.accelerator.free_memory(trainer.optimizer, trainer.lr_scheduler)


def ending(trainer: DiffusionTrainer, folder: Path) -> str:
    """What a run found, where it is, and what to type next."""
    evaluations = [logs for logs in trainer.state.log_history if "eval_nll" in logs]
    if evaluations:
        best = min(evaluations, key=lambda logs: logs["eval_nll"])
        what, metric = "lowest eval_nll", str(trainer.args.metric_for_best_model)
        chosen = [logs for logs in evaluations if logs["step"] == trainer.state.best_global_step]
        if chosen and metric.removeprefix("eval_") not in ("nll", "loss"):
            best, what = chosen[-1], f"best {metric} {trainer.state.best_metric:.4f}, eval_nll"
        kept = f"{what} {best['eval_nll']:.4f} nats/token at step {best['step']}, kept in {folder / 'best'}"
    elif (newest := newest_good(folder)[0]) is not None:
        kept = f"never evaluated; the weights are in {newest}"
    else:
        return f"done: no weights were kept, since both save_strategy and eval_strategy are no; samples in {folder}"
    return f"done: {kept}\nnext: hf-difflm generate {folder}\n      hf-difflm eval {folder}"
