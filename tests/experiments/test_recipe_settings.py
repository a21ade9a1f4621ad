"""Recipe below flags, bases below recipes, one objective's keys, and sentences that say where a value came from."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hf_difflm.data.options import DataOptions
from hf_difflm.errors import UserError
from hf_difflm.experiments.recipe_settings import load_settings, resumed_settings
from hf_difflm.models.options import ModelOptions
from hf_difflm.objectives.names import OBJECTIVES
from hf_difflm.recipes import FOLDER, recipe_names
from hf_difflm.training.declarations.fields import own_fields, trainer_fields
from hf_difflm.training.declarations.trainer_arguments import NO_FLAGS
from hf_difflm.training.options import DiffusionOptions


@pytest.fixture
def recipe(tmp_path: Path):
    """Write a recipe and return its path as text."""

    def write(name: str, **content) -> str:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


def test_without_recipe_and_flags_all_is_default():
    settings = load_settings(None, {})
    assert settings.data == DataOptions()
    assert settings.model == ModelOptions()
    assert settings.training == vars(DiffusionOptions())
    assert (settings.recipe, settings.given) == (None, {})


def test_flags_override_the_recipe_and_the_recipe_the_defaults(recipe):
    path = recipe("mine", block_size=64, learning_rate="1e-3", hidden_size=32)
    settings = load_settings(path, {"hidden_size": "64", "bf16": True})
    assert settings.data.block_size == 64
    assert settings.model.hidden_size == 64
    assert settings.training["learning_rate"] == 1e-3
    assert settings.training["seed"] == 42
    assert settings.recipe == path
    assert settings.given == {"block_size": 64, "learning_rate": 1e-3, "hidden_size": 64, "bf16": True}


def test_a_recipe_overrides_its_base(recipe, tmp_path):
    recipe("ground", block_size=32, seed=1, learning_rate=0.1)
    recipe("middle", base="ground.yaml", seed=2)
    settings = load_settings(recipe("top", base="middle.yaml", learning_rate=0.2), {})
    assert settings.given == {"block_size": 32, "seed": 2, "learning_rate": 0.2}


def test_a_shipped_recipe_can_be_a_base(recipe):
    settings = load_settings(recipe("mine", base="markov", seed=7), {})
    assert settings.data.dataset == "markov"
    assert settings.training["seed"] == 7


def test_bases_in_a_circle_are_refused(recipe):
    recipe("one", base="two.yaml")
    with pytest.raises(UserError, match=r"base leads back to itself \(one -> two -> one\)"):
        load_settings(recipe("two", base="one.yaml").replace("two.yaml", "one.yaml"), {})


def test_keys_under_an_objective_count_for_that_objective_only(recipe):
    path = recipe("mine", learning_rate=0.1, mdlm={"learning_rate": 0.2, "ema_decay": 0.9}, ar={"seed": 3})
    mdlm, ar = (load_settings(path, {"objective": objective}) for objective in ("mdlm", "ar"))
    assert (mdlm.training["learning_rate"], mdlm.training["ema_decay"], mdlm.training["seed"]) == (0.2, 0.9, 42)
    assert (ar.training["learning_rate"], ar.training["ema_decay"], ar.training["seed"]) == (0.1, None, 3)
    flagged = load_settings(path, {"objective": "mdlm", "learning_rate": "0.3"})
    assert flagged.training["learning_rate"] == 0.3


def test_a_plain_key_overrides_the_bases_keys_of_an_objective(recipe):
    recipe("ground", mdlm={"seed": 1})
    assert load_settings(recipe("top", base="ground.yaml", seed=2), {}).training["seed"] == 2


def test_batch_and_accumulation_flags_drop_the_recipes_global_batch_size(recipe):
    path = recipe("mine", global_batch_size=512)
    both = load_settings(path, {"per_device_train_batch_size": "4", "gradient_accumulation_steps": "2"})
    assert both.training["global_batch_size"] is None
    assert "global_batch_size" not in both.given
    assert load_settings(path, {"per_device_train_batch_size": "4"}).training["global_batch_size"] == 512
    stated = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "global_batch_size": 8}
    assert load_settings(path, stated).training["global_batch_size"] == 8


def test_kebab_case_keys_are_the_same_keys(recipe):
    assert load_settings(recipe("mine", **{"block-size": 64}), {}).data.block_size == 64
    with pytest.raises(UserError, match="gives block_size twice"):
        load_settings(recipe("mine", **{"block-size": 64, "block_size": 32}), {})


def test_fields_of_training_arguments_are_typed_and_only_the_given_ones_appear():
    flags = {
        "adam_beta2": "0.95",
        "gradient_checkpointing": True,
        "no_log_on_each_node": True,
        "optim": "adafactor",
        "lr_scheduler_kwargs": '{"min_lr_rate": 0.1}',
        "dataloader_prefetch_factor": "none",
    }
    training = load_settings(None, flags).training
    extra = {name: value for name, value in training.items() if name not in own_fields()}
    assert extra == {
        "adam_beta2": 0.95,
        "gradient_checkpointing": True,
        "log_on_each_node": False,
        "optim": "adafactor",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        "dataloader_prefetch_factor": None,
    }


def test_every_field_of_training_arguments_is_ours_known_or_refused_and_refused_ones_exist():
    from transformers import TrainingArguments

    theirs = set(TrainingArguments.__dataclass_fields__)
    assert theirs <= own_fields().keys() | trainer_fields().keys() | NO_FLAGS.keys()
    assert NO_FLAGS.keys() <= theirs
    assert not NO_FLAGS.keys() & (own_fields().keys() | trainer_fields().keys())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"learning_rate": "abc"}, "in recipe mine.yaml: learning_rate must be a number above 0, got 'abc'"),
        ({"max_steps": -5}, "in recipe mine.yaml: max_steps must be -1 or a positive integer, got -5"),
        ({"objective": "gpt"}, "in recipe mine.yaml: objective must be one of mdlm, ar, atat, bd3lm, got 'gpt'"),
        ({"learnin_rate": 1}, "in recipe mine.yaml: key 'learnin_rate' is unknown; did you mean 'learning_rate'?"),
        ({"mdlm": {"sed": 1}}, "in recipe mine.yaml: key 'sed' is unknown; did you mean 'seed'?"),
        ({"mdlm": 3}, "mdlm in recipe mine.yaml must be a mapping of setting names to values, got int"),
        ({"mdlm": {"objective": "ar"}}, "in recipe mine.yaml: objective cannot stand under mdlm"),
        ({"base": 3}, "in recipe mine.yaml: base must be the name or file of one recipe, got 3"),
        ({"base": "dmeo"}, "in recipe mine.yaml: base recipe 'dmeo' is unknown; did you mean 'demo'?"),
        ({"description": 3}, "in recipe mine.yaml: description must be text, got 3"),
        ({"output_dir": "x"}, "in recipe mine.yaml: output_dir belongs on the command line as --output-dir"),
        (
            {"block_size": 65, "max_position_embeddings": 64},
            "in recipe mine.yaml: block_size must be at most max_position_embeddings (64), got 65",
        ),
        (
            {"hidden_size": 65},
            "in recipe mine.yaml: hidden_size must be a multiple of num_attention_heads (4), got 65",
        ),
        ({"sigma_min": 30}, "in recipe mine.yaml: sigma_min must be below sigma_max (20), got 30"),
    ],
)
def test_errors_in_a_recipe_say_so(recipe, content, sentence):
    with pytest.raises(UserError) as error:
        load_settings(recipe("mine", **content), {})
    assert str(error.value).startswith(sentence)


def test_an_error_names_the_base_it_stands_in(recipe):
    recipe("ground", seed="x")
    with pytest.raises(UserError, match=r"^in recipe ground\.yaml: seed must be "):
        load_settings(recipe("top", base="ground.yaml"), {})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [1", "cannot be read as YAML"),
        ("- 1\n- 2", "must be a mapping of setting names to values, got list"),
        ("seed: 1\nseed: 2", "'seed' is given twice"),
        ("seed: !!python/object/apply:os.getcwd []", "cannot be read as YAML"),
        ("\xff", "cannot be read as YAML"),
    ],
)
def test_a_broken_recipe_file_is_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError) as error:
        load_settings(str(path), {})
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_recipe_is_all_defaults(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing yet\n")
    assert load_settings(str(path), {}).given == {}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads_for_every_objective(name, objective):
    settings = load_settings(name, {"objective": objective})
    assert settings.training["objective"] == objective
    assert settings.training["global_batch_size"] % settings.training["per_device_train_batch_size"] == 0
    assert "description" in yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", recipe_names())
def test_a_printed_recipe_means_the_same_as_the_recipe(name, tmp_path, capsys):
    from hf_difflm.commands import app

    with pytest.raises(SystemExit):
        app(["recipes", name])
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    for objective in OBJECTIVES:
        flags = {"objective": objective}
        assert load_settings(str(printed), flags).given == load_settings(name, flags).given


IDLE = [name for name, field in own_fields().items() if field.metadata.get("objectives") == ("atat",)]


def test_flags_that_are_for_atat_alone_are_refused_elsewhere_and_keys_of_a_recipe_are_not(recipe):
    assert len(IDLE) == 8
    for name in IDLE:
        value = own_fields()[name].default
        for objective in ("mdlm", "ar"):
            with pytest.raises(UserError, match=rf"flag --{name.replace('_', '-')} is for the objective atat, but the"):
                load_settings(None, {"objective": objective, name: value})
            path = recipe("mine", objective="atat", **{name: value})
            assert load_settings(path, {"objective": objective}).given[name] == value
        assert load_settings(None, {"objective": "atat", name: value}).given[name] == value
    with pytest.raises(UserError, match="flag --posterior-tilt"):
        load_settings(None, {"no_posterior_tilt": True})


@pytest.mark.parametrize(
    ("name", "value"),
    [("noise_schedule", "cosine"), ("loss_form", "time"), ("noise_sampling", "iid"), ("schedule_exponent", 3.0)],
)
def test_what_is_for_diffusion_is_refused_under_ar_unless_a_diffusion_model_is_trained_beside_it(name, value):
    with pytest.raises(UserError, match=f"flag --{name.replace('_', '-')} is for the objective mdlm"):
        load_settings(None, {"objective": "ar", name: value})
    for objective in ("mdlm", "ar"):
        assert load_settings(None, {"objective": objective, name: value}, beside=("mdlm", "ar")).training[name] == value
    assert load_settings(None, {"objective": "atat", name: value}).training[name] == value


def test_sizes_and_lengths_that_contradict_each_other_are_refused_where_both_were_typed(recipe):
    with pytest.raises(UserError, match="warmup_steps 50 are more than max_steps 3"):
        load_settings(None, {"max_steps": 3, "warmup_steps": 50})
    assert load_settings(recipe("mine", warmup_steps=50), {"max_steps": 3}).training["warmup_steps"] == 50
    with pytest.raises(UserError, match="global_batch_size 8 is not a multiple of gradient_accumulation_steps 3"):
        load_settings(None, {"global_batch_size": 8, "gradient_accumulation_steps": 3})
    with pytest.raises(UserError, match="metric_for_best_model 'val_loss' is no metric"):
        load_settings(None, {"metric_for_best_model": "val_loss"})
    assert load_settings(None, {"metric_for_best_model": "accuracy_noise_0.5"}).training["metric_for_best_model"]


def test_what_nobody_typed_is_passed_over_where_it_is_for_another_objective():
    recorded = load_settings(None, {"objective": "mdlm"}).training | {"masking": "inverse"}
    assert resumed_settings(recorded, {"max_steps": "5"}).training["masking"] == "inverse"
    with pytest.raises(UserError, match="flag --masking is for the objective atat"):
        resumed_settings(recorded, {"masking": "inverse"})
    assert load_settings(None, {"masking": "inverse"}, typed=()).training["objective"] == "mdlm"


@pytest.mark.borders
def test_keys_of_the_recipes_own_data_set_go_where_another_is_given_and_a_note_says_so(recipe):
    """A recipe for WikiText on one's own text: its configuration, splits and text column are of WikiText."""
    own = {"dataset_config": "raw-v1", "train_split": "train[:80%]", "eval_split": "validation", "text_column": "page"}
    path = recipe("theirs", dataset="owner/set", eval_dataset="owner/other", block_size=64, **own)
    settings = load_settings(path, {"dataset": "my.txt"})
    assert settings.data == DataOptions(dataset="my.txt", block_size=64)
    assert settings.notes == [
        "left out dataset_config, text_column, train_split, eval_split, eval_dataset of recipe theirs.yaml, which are of "
        "its own data set"
    ]
    child = load_settings(recipe("mine", base="theirs.yaml", dataset="my.jsonl", text_column="body"), {})
    assert (child.data.eval_split, child.data.text_column) == (None, "body")
    same = load_settings(path, {"dataset": "owner/set", "eval_split": "test"})
    assert (same.data.dataset_config, same.data.eval_split, same.notes) == ("raw-v1", "test", [])
    given = load_settings(path, {"dataset": "my", "eval_split": "dev"})
    assert (given.data.dataset_config, given.data.eval_split) == (None, "dev")


@pytest.mark.borders
def test_a_run_is_named_after_ones_own_data_where_the_recipe_is_for_another(recipe):
    path = recipe("theirs", dataset="owner/set")
    assert load_settings(path, {}).named_after == path
    assert load_settings(path, {"dataset": "my.txt"}).named_after == "my.txt"
    assert load_settings(recipe("without", seed=1), {}).named_after.endswith("without.yaml")


def test_beside_weights_to_begin_with_a_recipe_for_a_new_network_keeps_its_steps_and_not_its_rates(tmp_path):
    recipe = tmp_path / "new.yaml"
    recipe.write_text(
        "optim: muon\nlearning_rate: 0.015\nadamw_learning_rate: 0.008\nlr_scheduler_type: warmup_stable_decay\n"
        "lr_scheduler_kwargs: {decay_ratio: 0.3}\nmax_steps: 30\nmdlm: {count_law: bell, loss_weight: flat}\n"
    )
    new = load_settings(str(recipe), {})
    assert (new.training["optim"], new.training["count_law"]) == ("muon", "bell")
    tuned = load_settings(str(recipe), {"init_from": "somewhere", "loss_weight": "0.5"})
    kept = {
        name: tuned.training.get(name) for name in ("optim", "learning_rate", "count_law", "loss_weight", "max_steps")
    }
    assert kept == {"optim": None, "learning_rate": 3e-4, "count_law": "uniform", "loss_weight": "0.5", "max_steps": 30}
    assert any(
        "optim, adamw_learning_rate, learning_rate" in note and "begins with nothing" in note for note in tuned.notes
    )
    recipe.write_text("learning_rate: 0.002\ncount_law: bell\n")
    plain = load_settings(str(recipe), {"init_from": "somewhere"})
    assert (plain.training["learning_rate"], plain.training["count_law"]) == (0.002, "uniform")
