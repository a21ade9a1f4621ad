"""An optimiser that cannot be had is told of before data and model are built."""

from __future__ import annotations

import importlib.util

import pytest

from hf_difflm.errors import UserError
from hf_difflm.training import DiffusionTrainingArguments

pytestmark = pytest.mark.borders


@pytest.mark.parametrize(
    ("package", "optim", "others"),
    [
        ("bitsandbytes", "adamw_bnb_8bit", {}),
        ("galore_torch", "galore_adamw", {"optim_target_modules": ["q_proj"]}),
        ("torchao", "adamw_torch_8bit", {}),
        ("schedulefree", "schedule_free_adamw", {"lr_scheduler_type": "constant"}),
        ("optimi", "stable_adamw", {}),
    ],
)
def test_a_package_that_is_missing_is_named(tmp_path, package, optim, others):
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(
        UserError, match=rf"optim {optim} does not work here: You need to (install|have) .*; install what"
    ):
        DiffusionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, optim=optim, **others)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"adam_beta1": 1.5}, "beta"),
        ({"adam_epsilon": -1.0}, "epsilon"),
    ],
)
def test_values_that_the_optimizer_does_not_take_are_refused(tmp_path, values, what):
    with pytest.raises(UserError, match=what):
        DiffusionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **values)


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"])
def test_what_is_there_is_taken(tmp_path, optim):
    assert DiffusionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, optim=optim).optim == optim
