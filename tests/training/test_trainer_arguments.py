"""Fields of TrainingArguments that work: each is set, and its effect is seen."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.data import IterableDataset
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback

from hf_difflm.errors import UserError
from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments
from hf_difflm.training.optimization.muon import Muon

ROOT = Path(__file__).parents[2]


def arguments(tmp_path: Path, **settings: Any) -> DiffusionTrainingArguments:
    return DiffusionTrainingArguments(**{"output_dir": str(tmp_path), "use_cpu": True, **settings})


# ---- how long, and how fast ----


def test_files_lie_in_the_output_folder(make_diffusion_trainer, tmp_path):
    make_diffusion_trainer(output_dir=str(tmp_path / "here"), max_steps=1).train()
    assert (tmp_path / "here" / "journal.jsonl").exists()


@pytest.mark.parametrize(
    ("settings", "steps"), [({"max_steps": 2}, 2), ({"max_steps": -1, "num_train_epochs": 1.5}, 9)]
)
def test_a_training_is_as_long_as_it_says(make_diffusion_trainer, settings, steps):
    trainer = make_diffusion_trainer(**settings)  # six steps an epoch
    trainer.train()
    assert trainer.state.global_step == steps


@pytest.mark.parametrize(
    ("settings", "group"),
    [
        ({"learning_rate": 0.125}, {"lr": 0.125}),
        ({"weight_decay": 0.25}, {"weight_decay": 0.25}),
        ({"adam_beta1": 0.5, "adam_beta2": 0.75}, {"betas": (0.5, 0.75)}),
        ({"adam_epsilon": 0.5}, {"eps": 0.5}),
    ],
)
def test_the_optimiser_has_it(make_diffusion_trainer, settings, group):
    first = make_diffusion_trainer(**settings).create_optimizer().param_groups[0]
    assert {name: first[name] for name in group} == group


def test_the_optimiser_is_the_one_that_is_named(make_diffusion_trainer, tmp_path):
    optimizer = make_diffusion_trainer(optim="sgd", optim_args="momentum=0.5").create_optimizer()
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["momentum"] == 0.5
    assert isinstance(make_diffusion_trainer(optim="muon").create_optimizer(), Muon)
    with pytest.raises(UserError, match=r"optim_args has 'momentm=0.5', which has no effect on optim sgd"):
        arguments(tmp_path, optim="sgd", optim_args="momentum=0.5, momentm=0.5")
    with pytest.raises(UserError, match="optim sgd does not work with optim_args 'momentum=a': could not convert"):
        arguments(tmp_path, optim="sgd", optim_args="momentum=a")
    with pytest.raises(UserError, match="optim adalomo changes each weight within the backward pass"):
        arguments(tmp_path, optim="adalomo")


def test_target_modules_are_for_the_optimisers_that_have_them(make_diffusion_trainer, tmp_path):
    with pytest.raises(UserError, match=r"optim_target_modules=\['q_proj'\] is for the GaLore.* adamw_torch_fused"):
        arguments(tmp_path, optim_target_modules=["q_proj"])
    settings = {"optim": "galore_adamw", "optim_target_modules": ["q_proj"], "optim_args": "rank=4"}
    if importlib.util.find_spec("galore_torch") is None:
        with pytest.raises(UserError, match="galore_torch"):
            arguments(tmp_path, **settings)
        pytest.skip("galore_torch is not installed")
    groups = make_diffusion_trainer(**settings).create_optimizer().param_groups
    assert [len(group["params"]) for group in groups if group.get("rank") == 4] == [2]  # one a layer


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({"lr_scheduler_type": "constant"}, [1.0, 1.0, 1.0, 1.0]),
        ({"lr_scheduler_type": "linear", "warmup_steps": 2}, [0.0, 0.5, 1.0, 0.5]),
        (
            {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"decay_ratio": 0.5}},
            [1.0, 1.0, 1.0, 0.5],
        ),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 0.4}}, [1.0, 0.85, 0.7, 0.55]),
    ],
)
def test_the_learning_rate_follows_the_schedule(make_diffusion_trainer, settings, rates):
    trainer = make_diffusion_trainer(max_steps=4, logging_steps=1, learning_rate=1.0, optim="sgd", **settings)
    trainer.train()
    logged = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert logged == pytest.approx(rates)


def test_the_gradient_is_clipped_at_it(make_diffusion_trainer):
    moved = []
    for limit in (0.0, 0.25):
        trainer = make_diffusion_trainer(
            max_steps=1, learning_rate=1.0, optim="sgd", max_grad_norm=limit, save_log_to_json=False
        )
        before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        trainer.train()
        changes = [(new - old).norm() for new, old in zip(trainer.model.parameters(), before, strict=True)]
        moved.append(torch.stack(changes).norm().item())
    assert moved[0] > 0.5
    assert moved[1] == pytest.approx(0.25, rel=1e-3)


# ---- precision, memory, speed ----


def test_float16_is_for_gpus(make_diffusion_trainer, tmp_path):
    with pytest.raises(UserError, match="fp16 was asked for, but a CPU would compute in float32"):
        arguments(tmp_path, fp16=True)
    if not torch.cuda.is_available():
        pytest.skip("the other half needs a GPU")
    trainer = make_diffusion_trainer(fp16=True, use_cpu=False)
    trainer.train()
    assert trainer.accelerator.scaler.get_scale() > 1


def test_tf32_is_for_gpus(tmp_path):
    if transformers.utils.is_torch_tf32_available():
        arguments(tmp_path, tf32=True, use_cpu=False)
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        arguments(tmp_path, tf32=False, use_cpu=False)
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    else:
        with pytest.raises(ValueError, match="tf32 requires Ampere"):
            arguments(tmp_path, tf32=True)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("old_names", [False, True])
def test_activations_are_computed_again(make_diffusion_trainer, old_names, reentrant):
    how = {"use_reentrant": reentrant, "preserve_rng_state": False}
    settings: dict[str, Any] = {"activation_checkpointing": True, "activation_checkpointing_kwargs": how}
    if old_names:
        settings = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": how}
    trainer = make_diffusion_trainer(max_steps=1, **settings)
    calls = []
    layer = next(module for module in trainer.model.modules() if type(module).__name__ == "LlamaDecoderLayer")
    layer.input_layernorm.register_forward_pre_hook(lambda *_: calls.append(1))
    trainer.train()
    assert len(calls) == 2  # forward, and once more in the backward pass
    assert layer._gradient_checkpointing_func.keywords["use_reentrant"] is reentrant


def test_the_network_is_compiled(make_diffusion_trainer):
    asked = make_diffusion_trainer(torch_compile_backend="aot_eager", torch_compile_mode="max-autotune")
    plugin = asked.accelerator.state.dynamo_plugin
    assert (plugin.backend.value.lower(), plugin.mode) == ("aot_eager", "max-autotune")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    make_diffusion_trainer(max_steps=1, torch_compile=True, torch_compile_backend="eager").train()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def test_the_configuration_has_it(make_diffusion_trainer):
    assert [make_diffusion_trainer(use_cache=wanted).model.config.use_cache for wanted in (True, False)] == [
        True,
        False,
    ]


def test_embeddings_are_noisy(make_diffusion_trainer):
    losses = []
    for alpha in (None, 50.0):
        trainer = make_diffusion_trainer(
            max_steps=1, logging_steps=1, neftune_noise_alpha=alpha, save_log_to_json=False
        )
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[0] != losses[1]


def test_the_cache_is_emptied(make_diffusion_trainer, monkeypatch):
    emptied = []
    monkeypatch.setattr("transformers.trainer.clear_device_cache", lambda: emptied.append(trainer.state.global_step))
    trainer = make_diffusion_trainer(torch_empty_cache_steps=3)
    trainer.train()
    assert emptied == [0, 3]


# ---- what is said ----


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"logging_steps": 3}, [3, 6]),
        ({"logging_steps": 3, "logging_first_step": True}, [1, 3, 6]),
        ({"logging_strategy": "epoch", "max_steps": 12}, [6, 12]),
        ({"logging_strategy": "no"}, [6]),
    ],
)
def test_steps_are_logged_when_it_says(make_diffusion_trainer, settings, steps):
    trainer = make_diffusion_trainer(**settings)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == steps


def test_messages_have_its_level(make_diffusion_trainer):
    before = transformers.logging.get_verbosity()
    try:
        make_diffusion_trainer(log_level="error")
        assert transformers.logging.get_verbosity() == logging.ERROR
        make_diffusion_trainer(log_level="info")
        assert transformers.logging.get_verbosity() == logging.INFO
    finally:
        transformers.logging.set_verbosity(before)


@pytest.mark.parametrize("hidden", [False, True])
def test_no_filter_hides_a_loss_that_is_not_finite(make_diffusion_trainer, hidden):
    trainer = make_diffusion_trainer(logging_nan_inf_filter=hidden)
    with torch.no_grad():
        next(iter(trainer.model.parameters())).fill_(float("nan"))
    with pytest.raises(Exception, match="so the run was stopped"):
        trainer.train()


@pytest.mark.parametrize(("disabled", "shown"), [(True, PrinterCallback), (False, ProgressCallback)])
def test_progress_is_a_bar_or_lines(make_diffusion_trainer, disabled, shown):
    trainer = make_diffusion_trainer(disable_tqdm=disabled)
    kinds = {type(callback) for callback in trainer.callback_handler.callbacks} & {PrinterCallback, ProgressCallback}
    assert kinds == {shown}


def test_the_run_log_has_its_name(make_diffusion_trainer, tmp_path):
    make_diffusion_trainer(max_steps=1, run_name="mine").train()
    header = json.loads((tmp_path / "run" / "journal.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert header["run_name"] == "mine"


# ---- evaluation ----


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"eval_strategy": "steps", "eval_steps": 2}, [2, 4, 6]),
        ({"eval_strategy": "steps", "eval_steps": 2, "eval_delay": 3}, [4, 6]),
        ({"eval_strategy": "steps", "eval_steps": 3, "eval_on_start": True}, [0, 3, 6]),
        ({"eval_strategy": "epoch", "max_steps": 12}, [6, 12]),
        ({"eval_strategy": "no"}, []),
    ],
)
def test_evaluations_come_when_it_says(make_diffusion_trainer, train_rows, settings, steps):
    trainer = make_diffusion_trainer(evaluation=train_rows(2, seed=1), **settings)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "eval_nll" in entry] == steps


def test_an_evaluation_reads_batches_of_its_size(make_diffusion_trainer, train_rows):
    trainer = make_diffusion_trainer(evaluation=train_rows(8, seed=1), per_device_eval_batch_size=3, eval_iters=1)
    assert trainer.evaluate()["eval_forwards"] == 3 * trainer.args.eval_replicates


# ---- checkpoints ----


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"save_strategy": "steps", "save_steps": 2, "save_total_limit": None}, {2, 4, 6}),
        ({"save_strategy": "steps", "save_steps": 2, "save_total_limit": 2}, {4, 6}),
        ({"save_strategy": "epoch"}, {6}),
        ({"save_strategy": "no"}, set()),
        ({"save_strategy": "steps", "save_steps": 3, "save_only_model": True}, {3, 6}),
    ],
)
def test_checkpoints_are_written_as_it_says(make_diffusion_trainer, tmp_path, settings, names):
    make_diffusion_trainer(**settings).train()
    folders = {int(path.name.split("-")[1]): path for path in (tmp_path / "run").glob("checkpoint-*")}
    assert folders.keys() == names
    for path in folders.values():
        assert (path / "optimizer.pt").exists() != settings.get("save_only_model", False)


def test_callbacks_go_on_where_they_were(make_diffusion_trainer, train_rows):
    settings = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3}
    first = EarlyStoppingCallback(early_stopping_patience=7)
    make_diffusion_trainer(first, evaluation=train_rows(2, seed=1), **settings).train()
    patience = {}
    for restored in (False, True):
        again = make_diffusion_trainer(
            EarlyStoppingCallback(early_stopping_patience=3),
            evaluation=train_rows(2, seed=1),
            restore_callback_states_from_checkpoint=restored,
            **settings,
        )
        again.train(resume_from_checkpoint=True)
        (callback,) = (one for one in again.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback))
        patience[restored] = callback.early_stopping_patience
    assert patience == {False: 3, True: 7}


# ---- chance ----


def test_torch_is_told_to_be_deterministic(make_diffusion_trainer, monkeypatch):
    for name in ("CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "ASCEND_LAUNCH_BLOCKING", "HCCL_DETERMINISTIC"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # so that they are as before afterwards
    monkeypatch.setenv("FLASH_ATTENTION_DETERMINISTIC", "")
    try:
        make_diffusion_trainer(max_steps=1, full_determinism=True).train()
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, False


def test_the_order_of_the_data_has_a_seed_of_its_own(make_diffusion_trainer):
    def order(**seeds: int) -> list[int]:
        trainer = make_diffusion_trainer(**seeds)
        trainer.get_train_dataloader()
        return list(iter(trainer._train_order))

    assert order(seed=1, data_seed=5) == order(seed=2, data_seed=5) == order(seed=5)
    assert order(seed=1, data_seed=5) != order(seed=1)


# ---- devices and processes ----


def test_the_cpu_is_used_where_it_is_asked_for(tmp_path):
    assert arguments(tmp_path, use_cpu=True, bf16=True).device.type == "cpu"
    if torch.accelerator.is_available():
        assert arguments(tmp_path, use_cpu=False).device.type != "cpu"
    else:
        with pytest.raises(ValueError, match="need to assign use_cpu"):
            arguments(tmp_path, use_cpu=False, bf16=True)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"dispatch_batches": True}, "dispatch_batches=True puts"),
        ({"split_batches": True}, "split_batches=True would divide"),
        ({"even_batches": False}, "even_batches=False has no effect"),
        ({"use_seedable_sampler": False}, "use_seedable_sampler=False has no effect"),
        ({"non_blocking": True}, "non_blocking=True has no effect"),
    ],
)
def test_of_accelerates_settings_those_that_work(make_diffusion_trainer, tmp_path, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        arguments(tmp_path, accelerator_config=settings)
    trainer = make_diffusion_trainer(accelerator_config={"gradient_accumulation_kwargs": {"sync_each_batch": True}})
    assert trainer.accelerator.gradient_state.plugin_kwargs["sync_each_batch"] is True


def test_ddp_has_it(make_diffusion_trainer):
    asked = {"find_unused_parameters": True, "bucket_cap_mb": 3, "broadcast_buffers": False, "static_graph": True}
    given = {"ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph"}
    assert given == {f"ddp_{name}" for name in asked}
    trainer = make_diffusion_trainer(**{f"ddp_{name}": value for name, value in asked.items()})
    assert {name: getattr(trainer.accelerator.ddp_handler, name) for name in asked} == asked


LAUNCHED = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
MACHINE = """
import json, logging, os, sys, torch, transformers
from pathlib import Path
from test_two_processes import make_trainer
trainer, _ = make_trainer(Path(sys.argv[1]), "mdlm", 1, json.loads(sys.argv[2]), ranks=2)
print(transformers.logging.get_verbosity() == logging.INFO, torch.distributed.get_backend(), flush=True)
os._exit(0)  # a thread of gloo may abort a process that is taken down
"""


@pytest.mark.slow
@pytest.mark.parametrize(("where", "talks"), [("each", ["True", "True"]), ("first", ["True", "False"])])
def test_two_machines_say_and_talk_as_it_says(tmp_path, where, talks):
    """Each process is the only one of its machine, as the environment of a launcher says it."""
    asked = {"log_on_each_node": where == "each", "log_level": "info", "log_level_replica": "error"}
    asked["ddp_backend"] = "gloo"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tests = [ROOT, ROOT / "tests", Path(__file__).parent]
    environment = os.environ | LAUNCHED | {"WORLD_SIZE": "2", "MASTER_PORT": str(port)}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, tests))
    command = [sys.executable, "-c", MACHINE, str(tmp_path), json.dumps(asked)]
    machines = [
        subprocess.Popen(command, env=environment | {"RANK": rank}, stdout=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    said = [machine.communicate(timeout=300)[0].strip().splitlines()[-1].split() for machine in machines]
    assert said == [[heard, "gloo"] for heard in talks]


WAITS = """
import torch
from hf_difflm.training import DiffusionTrainingArguments
DiffusionTrainingArguments("unused", ddp_timeout=77)
print(torch.distributed.distributed_c10d._get_default_store().timeout.seconds)
"""


@pytest.mark.slow
def test_processes_wait_for_each_other(tmp_path):
    with pytest.raises(UserError, match="ddp_timeout=77 has no effect beside use_cpu"):
        arguments(tmp_path, ddp_timeout=77)
    environment = os.environ | LAUNCHED | {"WORLD_SIZE": "1", "RANK": "0", "MASTER_PORT": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", WAITS], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "77"


def test_fsdp_has_its_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)  # how it is read, not how it runs
    made = DiffusionTrainingArguments(
        str(tmp_path), fsdp=True, fsdp_config={"state_dict_type": "FULL_STATE_DICT", "reshard_after_forward": False}
    )
    assert made.fsdp_plugin_args["reshard_after_forward"] is False


# ---- data ----


@pytest.mark.parametrize(
    ("settings", "attribute"),
    [
        ({"dataloader_num_workers": 1}, "num_workers"),
        ({"dataloader_num_workers": 1, "dataloader_persistent_workers": True}, "persistent_workers"),
        ({"dataloader_num_workers": 1, "dataloader_prefetch_factor": 3}, "prefetch_factor"),
        ({"dataloader_num_workers": 1, "dataloader_multiprocessing_context": "spawn"}, "multiprocessing_context"),
    ],
)
def test_the_loader_has_it(make_diffusion_trainer, settings, attribute):
    loader = make_diffusion_trainer(**settings).get_train_dataloader()
    value = getattr(loader, attribute)
    asked = settings[f"dataloader_{attribute}"]
    assert (value.get_start_method() if attribute == "multiprocessing_context" else value) == asked


@pytest.mark.parametrize("removed", [True, False])
@pytest.mark.parametrize("streamed", [True, False])
def test_a_collator_gets_every_column(tmp_path, tiny_denoiser, tokenizer, train_rows, removed, streamed):
    from hf_difflm.data import Collator

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(rows)

    seen = set()

    def collate(rows: list[dict[str, Any]]) -> Any:
        seen.update(name for row in rows for name in row)
        return Collator(tokenizer)(rows)

    rows = [{**row, "topic": "a"} for row in train_rows(8)]
    made = arguments(tmp_path, remove_unused_columns=removed, max_steps=1, eval_strategy="no", disable_tqdm=True)
    DiffusionTrainer(tiny_denoiser(), made, Stream() if streamed else rows, data_collator=collate).train()
    assert seen == {"input_ids", "topic"}
    assert made.remove_unused_columns == removed


# ---- for scripts ----


def test_what_is_not_finite_is_traced(make_diffusion_trainer):
    trainer = make_diffusion_trainer(max_steps=2, debug="underflow_overflow", save_log_to_json=False)
    trainer.train()
    with torch.no_grad():
        next(iter(trainer.model.parameters())).fill_(float("inf"))
    with pytest.raises(ValueError, match="inf/nan"):
        make_diffusion_trainer(model=trainer.model, debug="underflow_overflow", save_log_to_json=False).train()


def test_memory_is_told_at_the_end(make_diffusion_trainer):
    for skipped in (True, False):
        trainer = make_diffusion_trainer(max_steps=1, skip_memory_metrics=skipped, save_log_to_json=False)
        assert ("train_mem_cpu_alloc_delta" in trainer.train().metrics) != skipped


def test_what_scripts_read_is_kept(tmp_path):
    asked = {"do_train": True, "do_eval": True, "do_predict": True, "resume_from_checkpoint": "x", "local_rank": 0}
    made = arguments(tmp_path, eval_strategy="no", **asked)
    assert {name: getattr(made, name) for name in asked} == asked
    assert made.local_process_index == 0
