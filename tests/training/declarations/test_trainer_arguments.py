"""The table of TrainingArguments: each field has a row, refused ones refuse, the others name a test; parsers and copies."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser, TrainingArguments

from hf_difflm.errors import UserError
from hf_difflm.experiments.recipe_settings import load_settings
from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments
from hf_difflm.training.declarations.trainer_arguments import NO_FLAGS, OF_THE_TRAINER, REFUSED, ROWS, TESTS, WORKS

ROOT = Path(__file__).parents[3]
FIELDS = {one.name: one for one in dataclasses.fields(TrainingArguments)}
# A value of each refused field that is not its default.
OTHER_VALUES: dict[str, Any] = {
    "label_smoothing_factor": 0.1,
    "trackio_space_id": "o/n",
    "trackio_bucket_id": "o/n",
    "trackio_static_space_id": "o/n",
    "eval_accumulation_steps": 2,
    "include_for_metrics": ["loss"],
    "parallelism_config": object(),
    "label_names": ["labels"],
    "train_sampling_strategy": "group_by_length",
    "length_column_name": "size",
}


def arguments(tmp_path: Path, **settings: Any) -> DiffusionTrainingArguments:
    return DiffusionTrainingArguments(**{"output_dir": str(tmp_path), "use_cpu": True, **settings})


# ---- the table ----


def test_every_field_of_the_installed_transformers_has_a_row_and_every_row_a_field():
    assert ROWS.keys() == FIELDS.keys()


@functools.cache
def _functions(path: str) -> dict[str, str]:
    """Name to source, with the decorators, of every test of a file; all else, which they use, under an empty name."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    found = {"": ""}
    for node in ast.parse("\n".join(lines)).body:
        first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))])
        source = "\n".join(lines[first - 1 : node.end_lineno])
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            found[node.name] = source
        else:
            found[""] += source
    return found


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.verdict != REFUSED])
def test_a_row_that_works_names_a_test_that_sets_the_field(name):
    path, _, test = ROWS[name].test.partition("::")
    assert test in _functions(path), f"{ROWS[name].test} does not exist"
    around = "" if path == TESTS else _functions(path)[""]
    sets = re.findall(r"\w+", (_functions(path)[test] + around).replace("-", "_"))
    assert name in sets or f"__{name}" in sets, f"{ROWS[name].test} does not set {name}"


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.verdict == REFUSED])
def test_a_refused_field_refuses_in_python_and_on_the_command_line(name, tmp_path):
    default = DiffusionTrainingArguments.__dataclass_fields__[name].default
    value = OTHER_VALUES.get(name, not default)
    with pytest.raises(UserError, match=rf"^{name}=.* {ROWS[name].sentence[:20]}"):
        DiffusionTrainingArguments(str(tmp_path), **{name: value})
    with pytest.raises(UserError, match=rf"^{name} {ROWS[name].sentence[:20]}"):
        load_settings(None, {name: value})


def test_what_only_the_command_line_refuses_works_in_python():
    only = {name for name in NO_FLAGS if ROWS[name].verdict != REFUSED}
    assert only >= {"output_dir", "load_best_model_at_end", "do_train"}
    for name in only:
        with pytest.raises(UserError, match=f"^{name} {ROWS[name].flag[:20]}"):
            load_settings(None, {name: "x"})


def test_each_row_says_what_a_reader_needs():
    for name, row in ROWS.items():
        assert bool(row.sentence) == (row.verdict != WORKS), name
        assert bool(row.test) == (row.verdict != REFUSED), name


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"ema_decay": 2.0}, "ema_decay must be a number at least 0 and below 1, or none, got 2.0"),
        ({"adam_beta2": 1.0}, "adam_beta2 must be a number at least 0 and below 1, got 1.0"),
        ({"max_steps": 0}, "max_steps must be -1 or a positive integer, got 0"),
        ({"eval_replicates": 0}, "eval_replicates must be a positive integer, got 0"),
        ({"per_device_train_batch_size": 2.5}, "per_device_train_batch_size must be a positive integer, got 2.5"),
        ({"loss_form": "tme"}, "loss_form must be one of any_order, time, got 'tme'; did you mean 'time'"),
        ({"eval_delay": -1}, "eval_delay must be a number at least 0, got -1"),
        ({"data_seed": -1}, "data_seed must be an integer at least 0, or none, got -1"),
    ],
)
def test_a_range_is_the_same_in_python_and_on_the_command_line(settings, sentence, tmp_path):
    with pytest.raises(UserError) as python:
        arguments(tmp_path, **settings)
    with pytest.raises(UserError) as typed:
        load_settings(None, settings)
    assert str(python.value) == str(typed.value)
    assert str(python.value).startswith(sentence)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.needs])
def test_what_has_no_effect_alone_is_refused_alone(name, tmp_path):
    values = {"dataloader_prefetch_factor": 2, "dataloader_persistent_workers": True}
    values["dataloader_multiprocessing_context"] = "spawn"
    with pytest.raises(UserError, match=f"^{name}=.* has no effect without {ROWS[name].needs[0]}"):
        arguments(tmp_path, **{name: values.get(name, {"use_reentrant": False})})


# ---- parsers, copies, the Trainer's own arguments ----


def test_the_parsers_of_scripts_take_it(tmp_path, monkeypatch):
    words = ["--output_dir", str(tmp_path), "--use_cpu", "--ema_decay", "0.5", "--checkpoint-interval", "7"]
    words += ["--objective", "ar", "--lora_target_modules", "q_proj", "v_proj", "--no_save_log_to_json"]
    parser = HfArgumentParser(DiffusionTrainingArguments)
    assert "decay of the moving average" in " ".join(parser.format_help().split())
    (made,) = parser.parse_args_into_dataclasses(words)
    assert (made.ema_decay, made.save_steps, made.objective) == (0.5, 7, "ar")
    assert (made.lora_target_modules, made.save_log_to_json) == (["q_proj", "v_proj"], False)
    (made,) = parser.parse_dict({"output_dir": str(tmp_path), "use_cpu": True, "eval_iters": 3})
    assert made.eval_iters == 3
    with pytest.raises(UserError, match="ema_decay must be"):
        parser.parse_args_into_dataclasses([*words[:3], "--ema_decay", "2"])


def test_the_parser_of_trl_takes_it(tmp_path):
    trl = pytest.importorskip("trl")
    (tmp_path / "config.yaml").write_text("ema_decay: 0.5\nlearning_rate: 0.01\n", encoding="utf-8")
    words = ["--config", str(tmp_path / "config.yaml"), "--dataset_name", "d", "--output_dir", "x", "--use_cpu"]
    script, made = trl.TrlParser((trl.ScriptArguments, DiffusionTrainingArguments)).parse_args_and_config(words)
    assert (script.dataset_name, made.ema_decay, made.learning_rate) == ("d", 0.5, 0.01)


def test_a_copy_keeps_what_was_given_and_derives_the_rest_anew(tmp_path):
    given = arguments(tmp_path, global_batch_size=32, per_device_train_batch_size=8, eval_strategy="steps")
    assert (given.gradient_accumulation_steps, given.greater_is_better) == (4, False)
    same = dataclasses.replace(given, learning_rate=0.5)
    assert same.learning_rate == 0.5
    assert same.to_dict() == {**given.to_dict(), "learning_rate": 0.5}
    assert dataclasses.replace(given, global_batch_size=64).gradient_accumulation_steps == 8
    smaller = dataclasses.replace(same, per_device_train_batch_size=4)
    assert (smaller.gradient_accumulation_steps, smaller.global_batch_size) == (8, 32)
    assert dataclasses.replace(given, metric_for_best_model="eval_accuracy").greater_is_better is True
    lowered = arguments(tmp_path, global_batch_size=4, per_device_train_batch_size=32)
    assert dataclasses.replace(lowered, global_batch_size=64).per_device_train_batch_size == 32
    free = arguments(tmp_path, per_device_train_batch_size=4)
    assert dataclasses.replace(free, gradient_accumulation_steps=2).global_batch_size == 8
    plateau = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps"}
    falling = arguments(tmp_path, **plateau)
    rising = dataclasses.replace(falling, metric_for_best_model="eval_accuracy")
    assert (falling.lr_scheduler_kwargs, rising.lr_scheduler_kwargs) == ({"mode": "min"}, {"mode": "max"})


def test_what_the_trainer_derives_is_not_given_either(make_diffusion_trainer):
    args = make_diffusion_trainer(eval_strategy="steps").args
    assert args.eval_strategy == "no"  # without an evaluation set
    assert dataclasses.replace(args, seed=1).eval_strategy == "steps"


def test_a_subclass_may_have_a_post_init_and_is_copied_as_well(tmp_path):
    @dataclasses.dataclass
    class Mine(DiffusionTrainingArguments):
        twice: int = 1

        def __post_init__(self):
            super().__post_init__()
            self.twice *= 2

    made = Mine(str(tmp_path), use_cpu=True, global_batch_size=32, per_device_train_batch_size=8, twice=3)
    assert made.twice == 6
    assert dataclasses.replace(made, global_batch_size=64).gradient_accumulation_steps == 8


@pytest.mark.parametrize("name", OF_THE_TRAINER)
def test_of_the_trainers_own_arguments_what_needs_whole_logits_is_a_sentence(name, tmp_path, tiny_denoiser, tokenizer):
    with pytest.raises(UserError, match=f"^{name} {OF_THE_TRAINER[name][:20]}"):
        DiffusionTrainer(
            tiny_denoiser(), arguments(tmp_path), processing_class=tokenizer, **{name: lambda *args, **kwargs: {}}
        )
