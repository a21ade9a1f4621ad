"""``hf-difflm eval --tasks``: tasks of lm-evaluation-harness, their results in its own format and in the run log."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import UserError, did_you_mean, first_line
from ...runs.journal.strict_json import dumps, plain
from ...runs.journal.tables import text_table
from ...runs.reading.places import shown
from ..conditions import Conditions, of_bound
from ..precision import computed_in
from ..run_measurements import record_measurement, run_folder
from ..targets import Target, target_of
from .options import HarnessOptions

FOLDER = "lm_eval"
"""Folder of the results in that of the run."""
NO_TEMPLATE = "the tokenizer of this model has no chat template; leave out --apply-chat-template"
SOURCE = "lm_eval"
"""Source of the measurement in the run log."""


def evaluate_tasks(target: str, options: HarnessOptions, changes: Mapping[str, Any], as_json: bool) -> None:
    """Run tasks of the harness on a run, checkpoint or model, keep the results and print them.

    Args:
        target: see :func:`load_target`.
        options: which tasks, and how.
        changes: typed settings that differ from those of the run: ``per_device_eval_batch_size``, ``eval_seed``, ``bf16``,
            ``dtype``, ``block_size`` (tokens of context and answer), ``use_cpu``, ``revision``, ``add_bos``, ``bos_token``.
        as_json: the results as JSON alone on stdout instead of a table.

    Raises:
        UserError: the harness is not installed, a task is unknown or its data cannot be had, a text is too long, or the
            results cannot be written.
    """
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the results alone, and libraries write to it
        _require_harness()
        loaded = target_of(target, changes)
        if options.apply_chat_template and loaded.tokenizer.chat_template is None:
            raise UserError(NO_TEMPLATE)
        folder = _folder(target, options)  # before the work whose results go there
        results = run_tasks(loaded, options, changes)
    samples = results.pop("samples", None)
    conditions = conditions_of(results, loaded, options)
    results["config"] |= conditions.to_json()  # in the file of the harness, too
    record_measurement(target, loaded.step, SOURCE, {**result_numbers(results), **conditions.to_json()})
    if as_json:
        print(json.dumps(json.loads(dumps(plain(_printable(results, loaded, conditions)))), indent=2))
    else:
        _print_table(results, loaded, conditions)
    if folder is not None:
        print(f"results: {shown(_write(results, samples, folder))}", file=sys.stderr)


def run_tasks(loaded: Target, options: HarnessOptions, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``lm_eval.simple_evaluate`` returns for a model, and its ``tracker``; see :func:`evaluate_tasks`."""
    manager = _task_manager(options)
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker

    from .lm_eval_model import HarnessModel

    settings = {**loaded.config, **changes}
    arguments: dict[str, Any] = {
        "batch_size": settings.get("per_device_eval_batch_size", 32),
        "draws": options.draws,
        "seed": settings.get("eval_seed", 0),
        "max_length": changes.get("block_size"),
        "truncate_context": options.truncate_context,
        "bf16": changes.get("bf16", False),
    }
    model = HarnessModel(target=loaded, **arguments)
    tracker = EvaluationTracker()
    results = simple_evaluate(
        model=model,
        model_args={"pretrained": loaded.source, **arguments},
        tasks=list(options.tasks),
        num_fewshot=options.num_fewshot,
        batch_size=arguments["batch_size"],
        device=str(loaded.model.device),
        limit=options.limit,
        bootstrap_iters=options.bootstrap_iters,
        log_samples=options.log_samples,
        gen_kwargs=options.gen_kwargs,
        apply_chat_template=options.apply_chat_template,
        evaluation_tracker=tracker,
        task_manager=manager,
    )
    results["config"]["dtype"] = computed_in(loaded.model, arguments["bf16"])
    results["config"]["model"] = "hf_difflm"  # the name it is registered under
    results["tracker"] = tracker
    return results


def conditions_of(results: Mapping[str, Any], loaded: Target, options: HarnessOptions) -> Conditions:
    """What has to be said beside the numbers of all tasks."""
    said = results["config"]
    bos_token = loaded.text.facts["bos_token"]
    return of_bound(said["likelihood"], said.get("draws", 0), bos_token, options.apply_chat_template)


def result_numbers(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of all tasks and groups, ``task/metric``: ``lambada_openai/acc``, ``lambada_openai/acc_stderr``.

    A metric of another filter than ``none`` is ``task/metric,filter``, as the harness writes it.
    """
    return {
        f"{task}/{name.removesuffix(',none')}": float(value)
        for task, metrics in {**results["results"], **results.get("groups", {})}.items()
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and "," in name and not isinstance(value, bool) and math.isfinite(value)
    }


def _require_harness() -> None:
    try:
        import lm_eval.tasks  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--tasks needs lm-evaluation-harness, which cannot be imported ({first_line(error)}); run "
            "`pip install 'hf_difflm[eval]'`"
        ) from error


def _task_manager(options: HarnessOptions) -> Any:
    """The tasks there are; all that are asked for are known.

    Raises:
        UserError: no such folder, no such task.
    """
    from lm_eval.tasks import TaskManager

    if options.include_path is not None and not Path(options.include_path).is_dir():
        raise UserError(f"--include-path {options.include_path} is no folder; give the folder of your task files")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # what goes wrong is told in one sentence

    class Tasks(TaskManager):
        def load(self, task_list: Any) -> Any:
            try:
                return super().load(task_list)
            except Exception as error:  # the Hub, data sets, YAML files and tasks each raise their own
                names = ", ".join(task_list) if isinstance(task_list, list) else task_list
                raise UserError(
                    f"the data of {names} cannot be loaded ({first_line(error)}); check the task and the network"
                ) from error

    own = Tasks(include_path=options.include_path, include_defaults=False)
    if not any(_is_unknown(name, own) for name in options.tasks):
        return own  # reading the thousands of files of the harness takes longer than many a task
    manager = Tasks(include_path=options.include_path)
    for name in options.tasks:
        if _is_unknown(name, manager):
            hint = did_you_mean(name, manager.task_index) or "; `lm-eval ls tasks` lists those of the harness"
            raise UserError(f"task {name!r} is unknown{hint}")
    return manager


def _is_unknown(task: str, manager: Any) -> bool:
    return task not in manager.task_index and not (task.endswith((".yaml", ".yml")) and Path(task).is_file())


def _folder(target: str, options: HarnessOptions) -> Path | None:
    """The folder of the results, made; None where there is no run to put them beside.

    Raises:
        UserError: it cannot be made.
    """
    run = run_folder(target)
    folder = Path(options.results_dir) if options.results_dir is not None else None if run is None else run / FOLDER
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be made ({error.strerror}); give another --results-dir") from error
    return folder


def _write(results: dict[str, Any], samples: Mapping[str, Any] | None, folder: Path) -> Path:
    """Write what the harness itself would, where it would: ``folder/MODEL/results_DATE.json``."""
    tracker = results.pop("tracker")
    tracker.output_path = str(folder)
    tracker.save_results_aggregated(results=results, samples=samples)
    for task, answers in (samples or {}).items():
        tracker.save_results_samples(task_name=task, samples=answers)
    path = (
        folder
        / str(tracker.general_config_tracker.model_name_sanitized)
        / f"results_{getattr(tracker, 'date_id', '')}.json"
    )
    if not path.is_file():  # the harness says so in its log alone
        raise UserError(f"the results cannot be written into {folder}; check it, or give another --results-dir")
    return path


def _printable(results: Mapping[str, Any], loaded: Target, conditions: Conditions) -> dict[str, Any]:
    names = ("results", "groups", "versions", "n-shot", "n-samples", "config")
    kept = {name: results[name] for name in names if name in results}
    return {"target": loaded.source, "iter": loaded.step, **conditions.to_json(), **kept}


def _print_table(results: Mapping[str, Any], loaded: Target, conditions: Conditions) -> None:
    rows = []
    for task, metrics in {**results["results"], **results.get("groups", {})}.items():
        for name, value in metrics.items():
            metric, _, way = name.partition(",")
            if way and not metric.endswith("_stderr") and isinstance(value, (int, float)):
                error = metrics.get(f"{metric}_stderr,{way}")
                known = isinstance(error, (int, float)) and math.isfinite(error)
                shown_value = f"{value:.4f} ± {error:.4f}" if known else f"{value:.4f}"
                count = str(results.get("n-samples", {}).get(task, {}).get("effective", ""))
                rows.append([task, metric if way == "none" else name, shown_value, count])
    print(loaded.source)
    print(
        text_table(
            ["task", "metric", "value ± standard error", "documents"], rows, shutil.get_terminal_size((120, 24)).columns
        )
    )
    print(f"computed in {results['config']['dtype']}")
    print("; ".join(f"{name}: {words}" for name, words in conditions.rows()))
    if results["config"]["likelihood"] == "nelbo":
        print(
            "The draws are of each continuation: likelihoods are bounds, and the perplexity of a task is an upper one."
        )
