"""The checklist of a run: all ticks for a sound one, and a cross with advice for each way to be broken."""

from __future__ import annotations

import json

import numpy as np
import pytest
from made_runs import make_run
from noisy_runs import CURRICULUM, IMPORTANCE, NOISE, STEPS, atat, found, outcomes, sound_run

from hf_difflm.objectives.adaptive import curriculum
from hf_difflm.runs import Run, load_run
from hf_difflm.runs.checklist.all_checks import check_run, checklist_data, checklist_text, is_sound
from hf_difflm.runs.checklist.importance import BOUNDARIES
from hf_difflm.runs.journal.schema import EvaluationRecord, EventRecord, MeasurementRecord
from hf_difflm.runs.journal.steps import Steps
from hf_difflm.runs.journal.strict_json import dumps, plain

TRAINING = {
    "run",
    "numbers are finite",
    "loss falls",
    "loss has left the unigram plateau",
    "learning rate follows its schedule",
    "evaluation loss falls",
}


# ---- sound runs ----


def test_a_sound_run_has_ticks_alone_where_something_can_be_said():
    run = sound_run()
    assert outcomes(run, "passed") == TRAINING | NOISE | {"throughput is steady"}
    assert outcomes(run, "unknown") == IMPORTANCE | CURRICULUM | {"memory is steady"}
    assert is_sound(check_run(run))


def test_a_sound_run_of_atat_has_ticks_for_importance_and_curriculum():
    run = atat()
    assert outcomes(run, "passed") >= NOISE | IMPORTANCE | {"curriculum stages begin when they should"}
    assert outcomes(run, "failed") == set()


# ---- training that is not as it should be ----


def nan_run() -> Run:
    run = sound_run()
    columns = {name: run.column(name).copy() for name in run.steps.quantities}
    columns["loss"][150] = np.nan
    run.steps = Steps(columns, flags={150: ["loss"]})
    return run


def failed_run() -> Run:
    run = sound_run()
    run.events[-1] = EventRecord(event="failed", iter=120, message="out of\nmemory")
    return run


def never_evaluated() -> Run:
    run = sound_run()
    run.evaluations = []
    return run


def overfitted() -> Run:
    run = sound_run()
    run.evaluations.append(EvaluationRecord(iter=STEPS, metrics={"eval_nll": 9.0, "eval_nll_stderr": 0.01}))
    return run


def leaking() -> Run:
    run = sound_run()
    run.measurements = [
        MeasurementRecord(iter=step, source="throughput", metrics={"throughput/host_memory_mb": 500.0 + 10 * step})
        for step in range(10, STEPS, 10)
    ]
    return run


@pytest.mark.parametrize(
    ("run", "name", "said"),
    [
        (nan_run(), "numbers are finite", "1 rows are not, the first is step 151 (loss)"),
        (failed_run(), "run", "failed at step 200 of 200 (out of memory)"),
        (never_evaluated(), "evaluation loss falls", "never evaluated"),
        (overfitted(), "evaluation loss falls", "9.0000 ± 0.0100 at step 200, best at step 200"),
        (leaking(), "memory is steady", "peak 1,500 MiB after half of the reports, 2,400 MiB at the last (host)"),
        (sound_run(columns={"loss": np.full(STEPS, 5.5)}), "loss falls", "5.5000 in the first tenth, 5.5000"),
        (
            sound_run(columns={"lr": np.full(STEPS, 1e-3)}),
            "learning rate follows its schedule",
            "step 1 has 0.001 instead of 0",
        ),
        (
            sound_run(columns={"tokens_per_sec": np.where(np.arange(STEPS) < 150, 2000.0, 500.0)}),
            "throughput is steady",
            "median 2,000 tokens/s over 10.0 s of training, 500 in the last fifth",
        ),
    ],
    ids=["nan", "failed", "no evaluation", "overfitted", "leak", "flat loss", "no warm-up", "slower"],
)
def test_each_broken_training_has_one_cross_that_says_what_and_what_to_do(run, name, said):
    assert outcomes(run, "failed") == {name}
    assert said in found(run)[name].finding
    assert found(run)[name].advice
    assert not is_sound(check_run(run))


def test_infinite_gradient_norms_are_part_of_training_in_float16():
    run = nan_run()
    run.steps = Steps({name: run.column(name) for name in run.steps.quantities}, flags={3: ["grad_norm"]})
    assert found(run)["numbers are finite"].outcome == "failed"
    run.header.metadata["dtype"] = "float16"
    assert found(run)["numbers are finite"].outcome == "passed"


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant", "constant_with_warmup"])
@pytest.mark.parametrize("warmup", [0, 20, 0.1])
def test_learning_rates_are_those_of_transformers(kind, warmup):
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    whole = warmup if warmup >= 1 or not warmup else round(warmup * STEPS)
    scheduler = get_scheduler(kind, optimizer, whole, STEPS)
    rates = []
    for _ in range(STEPS):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    run = sound_run(columns={"lr": np.array(rates)}, lr_scheduler_type=kind, warmup_steps=warmup)
    assert found(run)["learning rate follows its schedule"].outcome == "passed"


# ---- importance and curriculum that are not as they should be ----


@pytest.mark.parametrize(
    ("columns", "crosses"),
    [
        ({"importance_std": np.full(STEPS, 0.0)}, {"importance tells tokens apart"}),
        (
            {"importance_difficulty_correlation": np.random.default_rng(0).normal(0, 0.1, STEPS)},
            {"importance goes with difficulty"},
        ),
        ({"importance_loss": np.full(STEPS, 0.2)}, {"importance loss falls"}),
        (
            {"importance_mean": np.full(STEPS, 0.5), "importance_std": np.full(STEPS, 0.2)},
            {"gradients reach the estimator"},
        ),
        ({"curriculum_stage": np.ones(STEPS)}, {"curriculum stages begin when they should"}),
        ({"curriculum_stage": np.full(STEPS, 3.0)}, {"curriculum stages begin when they should"}),
        ({"curriculum_weight_mean": np.full(STEPS, 1.1)}, {"curriculum weights have mean 1"}),
    ],
    ids=["all alike", "no correlation", "loss is flat", "no gradient", "stays easy", "begins hard", "heavier"],
)
def test_each_fault_of_importance_is_its_own_cross(columns, crosses):
    run = atat(columns=columns)
    assert outcomes(run, "failed") == crosses
    assert all(found(run)[name].advice for name in crosses)


def test_stages_are_named_with_their_steps_and_those_to_come_are_waited_for():
    run = atat()
    assert found(run)["curriculum stages begin when they should"].finding == (
        "stage 2 at step 68, stage 3 at step 135 (thirds)"
    )
    run.steps = run.steps.up_to(100)
    assert found(run)["curriculum stages begin when they should"].finding == (
        "stage 2 at step 68, stage 3 is due at step 135 (thirds)"
    )


def test_the_stages_begin_where_the_curriculum_itself_begins_them():
    assert BOUNDARIES == curriculum.PRESETS
    for option in (*BOUNDARIES, "0.25,0.75"):
        made = curriculum.Curriculum.from_option(option)
        assert made is not None
        stages = np.array([made.stage(step / STEPS) for step in range(STEPS)], dtype=float)
        run = atat(columns={"curriculum_stage": stages}, curriculum=option)
        assert found(run)["curriculum stages begin when they should"].outcome == "passed", option


def test_importance_from_counts_is_not_asked_whether_it_is_learnt():
    run = atat(columns={"importance_loss": np.full(STEPS, np.nan)}, importance="frequency_only")
    assert outcomes(run, "unknown") >= IMPORTANCE


def test_before_the_warm_up_is_over_nothing_is_said_of_the_spread():
    run = atat(columns={"importance_std": np.zeros(STEPS)})
    run.steps = run.steps.up_to(40)
    assert found(run)["importance tells tokens apart"].outcome == "unknown"


# ---- logs of every kind ----


def test_an_autoregressive_run_has_no_noise_to_check():
    run = make_run(objective="ar", bound="exact")
    assert outcomes(run, "unknown") >= NOISE | IMPORTANCE | CURRICULUM
    assert outcomes(run, "failed") == set()


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 19])
def test_a_run_that_has_just_begun_is_not_judged(steps):
    run = sound_run(max(steps, 1), max_steps=1000, warmup_steps=20)
    run.steps, run.evaluations, run.events = run.steps.up_to(steps), [], [EventRecord(event="started", iter=0)]
    assert outcomes(run, "passed") <= {"run", "numbers are finite"} | {"learning rate follows its schedule"}
    assert "loss falls" in outcomes(run, "unknown")


@pytest.mark.parametrize(
    "document",
    [
        [{"step": step, "loss": 5 - step / 100, "accuracy": 0.1} for step in range(1, 60)],
        {"model_type": "MDLM", "experiment_name": "old", "steps": [1, 2, 3], "step_losses": [3.0, 2.0, 1.0]},
    ],
)
def test_logs_of_other_programs_are_checked_as_far_as_they_go(tmp_path, document):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(document))
    assert outcomes(load_run(path), "failed") == set()


ODD = [None, 0, -1, 0.5, "x", True, [1], {}, 1e9]


@pytest.mark.parametrize(
    "name",
    [
        "global_batch_size",
        "per_device_train_batch_size",
        "loss_form",
        "noise_sampling",
        "count_law",
        "count_law_exponent",
        "count_law_width",
        "noise_schedule",
        "schedule_exponent",
        "sigma_min",
        "max_steps",
        "warmup_steps",
        "learning_rate",
        "lr_scheduler_type",
        "curriculum",
        "importance",
        "position_bias",
    ],
)
def test_settings_of_other_kinds_break_nothing(name):
    for value in ODD:
        run = atat(40, **{name: value})
        run.header.metadata["world_size"] = value
        assert len(check_run(run)) == 16
        run.headers[0].objective = "mdlm"
        assert len(check_run(run)) == 16


def test_text_has_one_line_a_check_and_json_the_same():
    run = nan_run()
    checks = check_run(run)
    head, *lines = checklist_text(run, checks).splitlines()
    assert head.endswith("8 ✓, 1 ✗, 7 –")
    assert len(lines) == len(checks) == 16
    assert [line[0] for line in lines if "finite" in line] == ["✗"]
    data = json.loads(dumps(plain(checklist_data(run, checks))))
    assert (data["sound"], data["status"], data["objective"]) == (False, "completed", "mdlm")
    assert [check["name"] for check in data["checks"]] == [check.name for check in checks]


def test_names_and_messages_drive_no_terminal():
    run = failed_run()
    run.headers[0].run_name = "a\x1b[31mb"
    run.events[-1].message = "\x1b[2J"
    assert "\x1b" not in checklist_text(run, check_run(run))
