"""On every stack: all callbacks in transformers' own Trainer, and what reads the run that they leave."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from stack_trainings import every_callback, stock_trainer
from typer.testing import CliRunner

from hf_difflm.callbacks import RunLogCallback
from hf_difflm.commands import app
from hf_difflm.compat import NETWORKS_NEED, networks_run
from hf_difflm.errors import UserError
from hf_difflm.runs import load_run

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("stock")
    trainer = stock_trainer(place, *every_callback())
    trainer.train()
    trainer.save_model()
    return place


def test_every_callback_says_what_it_says_in_any_trainer(folder):
    run = load_run(folder)
    assert (run.status, run.last_step, run.objective) == ("completed", 6, None)
    assert run.column("iter").tolist() == [2, 4, 6]
    assert all(math.isfinite(loss) for loss in run.column("loss"))
    assert {"gradients", "throughput", "statistics", "samples"} <= {record.source for record in run.measurements}
    assert run.evaluations[0].iter == 4
    assert next(record.iter for record in run.checkpoints) == 4
    assert {record.prompt for record in run.samples} == {"", "ab"}
    assert run.tokens_per_sec is not None
    assert run.tokens_per_sec > 0
    assert sorted(path.name for path in (folder / "dashboard").glob("*step*.png")) == [
        "training_step_000004.png",
        "training_step_000006.png",
    ]


def test_the_callbacks_change_no_bit_of_the_training(folder, tmp_path):
    alone = stock_trainer(tmp_path)
    alone.train()
    alone.save_model()
    ours, theirs = (load_file(place / "model.safetensors") for place in (folder, tmp_path))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_stock_training_goes_on_in_the_same_run(tmp_path):
    stock_trainer(tmp_path, RunLogCallback(), max_steps=4).train()
    stock_trainer(tmp_path, RunLogCallback()).train(resume_from_checkpoint=True)
    run = load_run(tmp_path)
    assert (len(run.headers), run.status) == (2, "completed")
    assert run.column("iter").tolist() == [2, 4, 6]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["runs", "show", "RUN"], "throughput (tokens/s)"),
        (["runs", "list", "RUN"], "completed"),
        (["report", "RUN", "--output", "OUT/page.html"], "page.html"),
        (["plot", "RUN", "--output-dir", "OUT", "--kind", "throughput"], "throughput.png"),
        (["dashboard", "RUN"], "training_latest.png"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_commands_that_read_runs_read_it(folder, tmp_path, command, said):
    words = [word.replace("RUN", str(folder)).replace("OUT", str(tmp_path)) for word in command]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output[-2000:]
    assert said in done.output


def test_what_needs_a_newer_transformers_says_so_in_one_sentence():
    if networks_run():
        import hf_difflm

        assert hf_difflm.DiffusionTrainer is not None
        return
    for package, name in (("hf_difflm", "DiffusionTrainer"), ("hf_difflm.models", "MaskedDiffusionForMaskedLM")):
        with pytest.raises(UserError) as caught:
            getattr(__import__(package, fromlist=[name]), name)
        needed = ".".join(map(str, NETWORKS_NEED))
        assert f"transformers {transformers.__version__} is installed" in str(caught.value)
        assert f"need {needed} or newer" in str(caught.value)
