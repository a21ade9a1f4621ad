"""Training arguments that would only fail in the middle of a start are refused before it, with what to write instead."""

from __future__ import annotations

import pytest
import torch
from transformers import SchedulerType

from hf_difflm.errors import UserError
from hf_difflm.training.declarations.argument_checks import check_values
from hf_difflm.training.declarations.complaints import complaints_about

NO_GPU = pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
NEEDED = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 1},
}


@pytest.mark.parametrize("kind", [kind.value for kind in SchedulerType])
def test_every_schedule_of_transformers_is_let_through_with_what_it_needs(kind):
    check_values({"lr_scheduler_type": kind, "lr_scheduler_kwargs": NEEDED.get(kind)})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"lr_scheduler_type": "cosinus"}, "got 'cosinus'; did you mean 'cosine'?"),
        (
            {"lr_scheduler_kwargs": {"num_cycle": 1}},
            "lr_scheduler_type cosine does not take; did you mean 'num_cycles'?",
        ),
        ({"lr_scheduler_kwargs": {"bad": 1}}, "has a key 'bad' that .* it takes num_cycles, last_epoch"),
        (
            {"lr_scheduler_type": "warmup_stable_decay"},
            "lr_scheduler_type warmup_stable_decay does not work with .* {}: ",
        ),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": "x"}}, "polynomial does not work with"),
        pytest.param({"bf16": True}, "bf16 is set, but there is no GPU; --use-cpu trains in bfloat16", marks=NO_GPU),
        pytest.param({"fp16": True}, "fp16 is set, but there is no GPU; use bf16 with --use-cpu", marks=NO_GPU),
        ({"torch_compile_mode": "nothing"}, "torch_compile_mode must be one of default, .*, got 'nothing'"),
        ({"torch_compile_mode": "max-autotone"}, "did you mean 'max-autotune'?"),
        ({"torch_compile_backend": "inducter"}, "torch_compile_backend must be one of .*did you mean 'inductor'?"),
    ],
)
def test_what_cannot_work_is_told_in_a_sentence_with_the_value(values, sentence):
    with pytest.raises(UserError, match=sentence):
        check_values({"lr_scheduler_type": "cosine"} | values)


def test_what_torch_compile_takes_is_let_through():
    check_values({"torch_compile_mode": "reduce-overhead", "torch_compile_backend": "inductor"})
    check_values({"torch_compile_mode": "what openxla calls it", "torch_compile_backend": "openxla"})
    check_values({"torch_compile_backend": "aot_eager"})


def test_a_hub_that_cannot_be_reached_or_refuses_is_told_in_a_sentence(monkeypatch):
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalTokenNotFoundError

    with (
        pytest.raises(
            UserError, match=r"the Hub does not answer .*\(`hf auth login`\), or leave out what needs the Hub"
        ),
        complaints_about("these arguments do not work", "change them"),
    ):
        HfApi(endpoint="http://127.0.0.1:9").create_repo("someone/something")  # nothing listens there
    with pytest.raises(UserError, match="the Hub does not answer"), complaints_about("these", "change"):
        raise LocalTokenNotFoundError("Token is required")
    with pytest.raises(KeyError), complaints_about("these", "change"):
        raise KeyError("a fault of the program's own")
