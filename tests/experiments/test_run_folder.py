"""The folder of a run: what is refused, what is deleted, and which settings make another run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_difflm.errors import UserError
from hf_difflm.experiments.recipe_settings import load_settings
from hf_difflm.experiments.run_folder import (
    changed_settings,
    check_folder,
    default_name,
    delete_run,
    flat_config,
    fresh_folder,
    harmless_changes,
    holds_run,
    log_folder,
    make_folder,
    recorded_settings,
)
from hf_difflm.runs import Journal, Run
from hf_difflm.runs.comparing.fairness import differences
from hf_difflm.runs.journal.schema import RunRecord
from hf_difflm.training.declarations.fields import own_fields
from hf_difflm.training.declarations.identity import NOT_IDENTITY
from hf_difflm.training.declarations.monitoring_options import MonitoringOptions


@pytest.fixture
def config():
    return flat_config(load_settings(None, {}), global_batch_size=8)


@pytest.fixture
def write_log(config):
    """``write_log(folder, learning_rate=1)``: the journal of a run with these settings changed."""

    def call(folder: Path, **changes):
        journal = Journal(folder / "journal.jsonl")
        journal.append(RunRecord(run_name="demo", run_id="id", config=config | changes))
        journal.close()
        return folder

    return call


def _check(folder, config, log_dir=None, resume=False, overwrite=False):
    check_folder(folder, log_dir or folder, config, resume=resume, overwrite=overwrite)


def test_a_free_folder_is_let_through_and_not_made(tmp_path, config):
    _check(tmp_path / "a" / "b", config)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("trace", ["journal.jsonl", "checkpoint-5"])
def test_a_folder_that_holds_a_run_needs_resume_or_overwrite(tmp_path, config, write_log, trace):
    if trace == "journal.jsonl":
        write_log(tmp_path)
    else:
        (tmp_path / trace).mkdir()
    assert holds_run(tmp_path)
    with pytest.raises(UserError, match="already holds a run"):
        _check(tmp_path, config)
    _check(tmp_path, config, overwrite=True)
    _check(tmp_path, config, resume=True)


@pytest.mark.parametrize("name", sorted(NOT_IDENTITY & own_fields().keys()))
def test_what_only_watches_cuts_or_places_a_run_may_change(tmp_path, config, write_log, name):
    assert changed_settings(write_log(tmp_path, **{name: "something else"}), config) == {}


@pytest.mark.parametrize("name", ["learning_rate", "seed", "objective", "hidden_size", "dataset", "global_batch_size"])
def test_what_makes_another_run_is_named_with_both_values(tmp_path, config, write_log, name):
    write_log(tmp_path, **{name: "was"})
    assert changed_settings(tmp_path, config) == {name: ("was", config[name])}
    with pytest.raises(UserError, match=f"cannot resume .* with {name} = "):
        _check(tmp_path, config, resume=True)


def test_all_that_makes_another_run_is_named_at_once(tmp_path, config, write_log):
    write_log(tmp_path, learning_rate=1.0, seed=1)
    with pytest.raises(UserError) as refused:
        _check(tmp_path, config, resume=True)
    assert str(refused.value) == (
        f"cannot resume {tmp_path} with learning_rate = 0.0003 and seed = 42, since it was started with learning_rate = 1.0 "
        "and seed = 1; give the same recipe and flags, or start another run"
    )


def test_an_optimiser_batch_that_follows_from_more_processes_names_the_accumulation_that_keeps_it(
    tmp_path, write_log, monkeypatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    settings = load_settings(None, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4})
    write_log(tmp_path, global_batch_size=16)
    with pytest.raises(
        UserError, match=r"global_batch_size = 32, .*; gradient_accumulation_steps 2 keeps the optimiser"
    ):
        _check(tmp_path, flat_config(settings, 32), resume=True)


def test_harmless_changes_are_found_with_both_values(tmp_path, config, write_log):
    write_log(tmp_path, save_steps=7, log_dir="elsewhere", seed=1)
    assert harmless_changes(tmp_path, config) == {"save_steps": (7, config["save_steps"])}
    assert harmless_changes(tmp_path / "nowhere", config) == {}


def test_a_flag_of_the_trainer_that_was_given_only_once_counts_against_its_default(tmp_path, config, write_log):
    write_log(tmp_path, adam_beta2=0.9)
    assert changed_settings(tmp_path, config) == {"adam_beta2": (0.9, 0.999)}
    assert changed_settings(tmp_path, config | {"adam_beta2": 0.9}) == {}
    assert changed_settings(write_log(tmp_path / "other"), config | {"adam_beta2": 0.9}) == {"adam_beta2": (0.999, 0.9)}
    assert changed_settings(tmp_path / "other", config | {"adam_beta2": 0.999}) == {}


WRITER = """
import sys
from hf_difflm.runs import Journal
journal = Journal(sys.argv[1])
journal.open()
print("writing", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def training_elsewhere():
    """``with training_elsewhere(folder):`` another process has the log of the run there open."""

    @contextlib.contextmanager
    def call(folder: Path):
        command = [sys.executable, "-c", WRITER, str(folder / "journal.jsonl")]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment, **pipes) as process:
            assert process.stdout.readline() == "writing\n"
            yield process
            process.stdin.close()

    return call


@pytest.mark.parametrize("logs_elsewhere", [False, True])
def test_a_run_that_another_process_is_training_is_neither_overwritten_nor_resumed(
    tmp_path, config, write_log, training_elsewhere, logs_elsewhere
):
    folder, logs = tmp_path / "run", tmp_path / "logs" if logs_elsewhere else tmp_path / "run"
    make_folder(folder, logs, overwrite=False)
    write_log(logs)
    with (logs / "journal.jsonl").open("a") as journal:
        journal.write('{"type":"step"')  # torn, as a reader may see it: only who writes next may repair it
    before = (logs / "journal.jsonl").read_bytes()
    with training_elsewhere(logs):
        (logs / "journal.jsonl").write_bytes(before)
        for flag in ("overwrite", "resume"):
            with pytest.raises(UserError, match="is still being trained by another process; wait until it has ended"):
                _check(folder, config, log_dir=logs, **{flag: True})
        with pytest.raises(UserError, match="is still being trained"):
            make_folder(folder, logs, overwrite=True)
        delete_run(folder)
        assert (logs / "journal.jsonl").read_bytes() == before
    _check(folder, config, log_dir=logs, overwrite=True)
    assert (logs / "journal.jsonl").read_bytes() == before
    make_folder(folder, logs, overwrite=True)
    assert not (folder / "journal.jsonl").exists()


def test_a_run_that_began_while_this_one_was_prepared_keeps_its_log(tmp_path, config, write_log):
    _check(tmp_path, config)
    write_log(tmp_path)
    with pytest.raises(UserError, match="another process has just begun"):
        make_folder(tmp_path, tmp_path, overwrite=False)
    assert holds_run(tmp_path)


def test_a_run_of_this_very_process_can_be_deleted_while_its_log_is_open(tmp_path, config):
    journal = Journal(tmp_path / "run" / "journal.jsonl")
    journal.append(RunRecord(run_name="demo", run_id="id", config=config))
    delete_run(tmp_path / "run")
    journal.close()
    assert not (tmp_path / "run").exists()


def test_delete_removes_the_run_and_its_log_alone(tmp_path, write_log):
    folder = write_log(tmp_path / "run")
    for name in ("demo.json", "demo_metrics.json", "samples.txt", "best_evaluation.json", "mine.json", "notes.txt"):
        (folder / name).write_text("{}")
    for name in ("checkpoint-3", "best", "data", "dashboard"):
        (folder / name).mkdir()
        (folder / name / "file").write_text("x")
    delete_run(folder)
    assert set(os.listdir(folder)) == {"mine.json", "notes.txt", "data"}


def test_delete_removes_a_folder_that_it_empties(tmp_path, write_log):
    delete_run(write_log(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_log_kept_elsewhere_is_linked_found_and_deleted(tmp_path, write_log, config):
    folder, logs = tmp_path / "run", tmp_path / "logs"
    make_folder(folder, logs, overwrite=False)
    write_log(logs)
    assert holds_run(folder)
    assert log_folder(folder) == logs
    _check(folder, config, log_dir=logs, resume=True)
    with pytest.raises(UserError, match="leave out --log-dir"):
        _check(folder, config, log_dir=tmp_path / "other", resume=True)
    with pytest.raises(UserError, match="the log of another run"):
        _check(tmp_path / "second", config, log_dir=logs)
    make_folder(folder, folder, overwrite=True)
    assert os.listdir(logs) == []
    assert os.listdir(folder) == []


def test_the_link_survives_moving_both_folders(tmp_path, write_log):
    make_folder(tmp_path / "here" / "run", tmp_path / "here" / "logs", overwrite=False)
    write_log(tmp_path / "here" / "logs")
    (tmp_path / "here").rename(tmp_path / "there")
    assert holds_run(tmp_path / "there" / "run")


def test_recorded_settings_make_the_same_settings_again(tmp_path, config, write_log):
    recorded = recorded_settings(write_log(tmp_path, recipe="demo"))
    recorded.pop("recipe")
    settings = load_settings(None, recorded, typed=())
    assert flat_config(settings, 8) == config


def test_recorded_settings_say_why_there_are_none(tmp_path, write_log):
    with pytest.raises(UserError, match="holds no run"):
        recorded_settings(tmp_path)
    (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(UserError, match="keeps no log"):
        recorded_settings(tmp_path)
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(RunRecord(run_name="stock", run_id="id", config={"learning_rate": 1.0}))
    journal.close()
    with pytest.raises(UserError, match="was not started by hf-difflm"):
        recorded_settings(tmp_path)


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({}, "python-docs-mdlm"),
        ({"dataset": "a/b c.txt", "objective": "ar"}, "b-c-ar"),
        ({"dataset": "owner/name"}, "owner-name-mdlm"),
        ({"dataset": "a/part.jsonl.gz"}, "part-mdlm"),
        ({"dataset": "texts-mdlm"}, "texts-mdlm"),
    ],
)
def test_the_default_name_is_fit_for_a_file(flags, name):
    assert default_name(load_settings(None, flags)) == name


def test_fresh_folders_of_one_second_differ_and_stay_below_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = load_settings(None, {"experiment_name": "../My Run/1"})
    first = fresh_folder(settings)
    first.mkdir(parents=True)
    second = fresh_folder(settings)
    assert first != second
    assert {first.parent, second.parent} == {Path("runs")}


def test_what_only_watches_a_run_is_no_unfair_difference():
    watching = {field.name for field in dataclasses.fields(MonitoringOptions)}
    runs = [
        Run(Path(place), headers=[RunRecord(config=dict.fromkeys(watching, place))]) for place in ("one", "another")
    ]
    assert differences(runs) == {}
