"""A model that is pushed while it is trained: what goes up, what does not, and what a failing Hub does to the training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loopback import LoopbackHub
from safetensors.torch import load

from hf_difflm.evaluation.targets import load_target
from hf_difflm.runs import load_run

ROOT = Path(__file__).parents[2]
TRAIN = "import sys; from hf_difflm.commands import app; app(['train', *sys.argv[1:]])"
TINY = {
    "dataset": "markov",
    "block-size": "33",
    "hidden-size": "16",
    "num-hidden-layers": "1",
    "num-attention-heads": "2",
    "max-eval-blocks": "8",
    "eval-replicates": "2",
    "max-steps": "4",
    "eval-steps": "2",
    "save-steps": "2",
    "logging-steps": "1",
    "viz-interval": "0",
    "hub-model-id": "o/n",
    "output-dir": "run",
}
# Of a folder of its own, with nothing of ours on the path.
FRESH = """
import json, sys
import torch
from transformers import AutoModelForMaskedLM
model = AutoModelForMaskedLM.from_pretrained("o/n", trust_remote_code=True).eval()
assert not any(name.startswith("hf_difflm") for name in sys.modules)
ids = torch.tensor([[256, 97, 259, 98, 259, 259]])
text = model.generate(ids[:, :2], max_new_tokens=8, seed=1).tolist()
print(json.dumps([model(input_ids=ids).logits.flatten().tolist(), text]).replace("-Infinity", "null"))
"""


def train(hub: LoopbackHub, home: Path, *flags: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = hub.environment(home, token) | {"PYTHONPATH": str(ROOT)}
    tiny = [word for name, value in TINY.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-c", TRAIN, *tiny, "--use-cpu", "--push-to-hub", *flags]
    return subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, check=False)


def events(run: Path) -> list[tuple[str, int, str]]:
    records = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    return [(r["event"], r["iter"], r.get("message", "")) for r in records if r["type"] == "event"]


@pytest.mark.slow
def test_a_failing_hub_is_a_line_and_an_event_and_the_next_push_makes_up_for_it(loopback_hub, tmp_path):
    loopback_hub.fail("POST /api/models/o/n/commit", 500)
    flags = ("--hub-strategy", "checkpoint", "--hub-token", loopback_hub.token)
    done = train(loopback_hub, tmp_path, *flags, token="hf_" + "another" * 4)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    warnings = [line for line in done.stderr.splitlines() if "push" in line]
    assert len(warnings) == 1, done.stderr
    assert "the push of step 2 failed, and training goes on: cannot push to o/n: the Hub failed (500)" in warnings[0]
    told = events(run)
    assert [step for name, step, _ in told if name == "push_failed"] == [2]
    assert [step for name, step, _ in told if name == "pushed"][-1] == 4
    assert told[-1][2].startswith(f"{loopback_hub.url}/o/n/commit/")

    files = loopback_hub.files("o/n")
    top = {name for name in files if "/" not in name}
    code = {path.name for path in (ROOT / "hf_difflm/models/masked_diffusion").glob("*.py")} - {"__init__.py"}
    log = {"journal.jsonl", "best_evaluation.json", "text_samples.json", "dashboard.png", "curves.png", "README.md"}
    model = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert top - {".gitattributes"} == code | log | model
    assert {name.split("/")[0] for name in files if "/" in name} == {"last-checkpoint"}
    assert {"last-checkpoint/optimizer.pt", "last-checkpoint/manifest.json"} <= files.keys()
    assert not [name for name, data in files.items() if loopback_hub.token.encode() in data]
    saved, local = load(files["model.safetensors"]), load((run / "best" / "model.safetensors").read_bytes())
    assert saved.keys() == local.keys()
    assert all(torch.equal(saved[name], local[name]) for name in local)
    # Nothing is left of what was put together for it, and the code did not land in the run.
    assert {path.name for path in run.iterdir() if path.is_dir()} <= {
        "best",
        "checkpoint-2",
        "checkpoint-4",
        "dashboard",
    }
    assert not list(run.rglob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--ema-decay", "0.5"), ("--objective", "mdlm", "--hub-strategy", "end")])
def test_what_was_pushed_loads_without_us_and_gives_the_same_bits(loopback_hub, tmp_path, flags):
    done = train(loopback_hub, tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    commits = [line for line in loopback_hub.requests if "/commit/" in line]
    assert len(commits) == 1 if "end" in flags else len(commits) >= 2
    home = tmp_path / "elsewhere"
    home.mkdir()
    fresh = subprocess.run(
        [sys.executable, "-I", "-c", FRESH],
        env=loopback_hub.environment(home),
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert fresh.returncode == 0, fresh.stderr
    logits, text = json.loads(fresh.stdout.splitlines()[-1])
    model = load_target(str(tmp_path / "run"), use_cpu=True).model
    ids = torch.tensor([[256, 97, 259, 98, 259, 259]])
    ours = [None if value == float("-inf") else value for value in model(input_ids=ids).logits.flatten().tolist()]
    assert logits == ours
    assert text == model.generate(ids[:, :2], max_new_tokens=8, seed=1).tolist()


@pytest.mark.slow
def test_a_name_or_a_token_that_will_never_do_stops_before_training(loopback_hub, tmp_path):
    for flags, token, said in (
        (("--hub-model-id", "a/b/c"), None, "--hub-model-id 'a/b/c' is no name of a repository"),
        ((), "hf_" + "wrong" * 5, "does not accept your token (401)"),
        (("--save-strategy", "no", "--eval-strategy", "no"), None, "push_to_hub has nothing to push"),
    ):
        done = train(loopback_hub, tmp_path, *flags, token=token)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_without_a_network_the_run_is_trained_and_resumes(loopback_hub, tmp_path):
    loopback_hub.fail("", None, times=10_000)
    done = train(loopback_hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "goes up by: hf-difflm push run --repo-id o/n" in done.stderr
    told = events(tmp_path / "run")
    assert [name for name, _, _ in told if name in ("pushed", "push_failed")].count("pushed") == 0
    assert ("completed", 4, "") in told
    assert os.listdir(tmp_path / "run" / "best")


ELSEWHERE = """
import contextlib, io, json, sys
from hf_difflm.commands import app

def run(*args):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            app([*args, "--use-cpu"])
        except SystemExit as end:
            assert end.code == 0, args
    return out.getvalue()

says = [run("eval", "o/n", "--json"), run("generate", "o/n", "--revision", sys.argv[1], "--json")]
small = "--max-steps 1 --eval-strategy no --save-steps 1 --block-size 33 --dataset markov --viz-interval 0".split()
run("train", "--init-from", "o/n", "--revision", sys.argv[1], "--output-dir", "next", "--learning-rate", "1e-12", *small)
print(json.dumps([json.loads(said) for said in says]))
"""


@pytest.mark.slow
def test_another_machine_evaluates_generates_and_goes_on_from_what_was_pushed(loopback_hub, tmp_path):
    done = train(loopback_hub, tmp_path)
    assert done.returncode == 0, done.stderr
    commit = loopback_hub.repos["o/n"].branches["main"][-1].sha
    home = tmp_path / "elsewhere"
    home.mkdir()
    environment = loopback_hub.environment(home) | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", ELSEWHERE, commit]
    other = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, check=False)
    assert other.returncode == 0, other.stderr
    evaluated, generated = json.loads(other.stdout.splitlines()[-1])
    # The log went up with the model and says what to evaluate on: the number is that of the training.
    best = load_run(tmp_path / "run").best_evaluation
    assert evaluated["eval_nll"] == pytest.approx(best.nll, abs=1e-6)
    assert isinstance(generated, list)
    header = load_run(home / "next").headers[0]
    assert header.parent_run == load_run(tmp_path / "run").headers[0].run_id
    began = load((tmp_path / "run" / "best" / "model.safetensors").read_bytes())
    ended = load((home / "next" / "checkpoint-1" / "model.safetensors").read_bytes())
    assert all(torch.allclose(value, ended[name], atol=1e-9) for name, value in began.items())


@pytest.mark.slow
def test_a_training_that_pushes_nothing_imports_no_matplotlib():
    code = "import sys, hf_difflm.training.trainer; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.slow
def test_a_repository_is_private_and_a_branch_its_own(loopback_hub, tmp_path):
    flags = ("--hub-private-repo", "true", "--hub-revision", "side", "--hub-strategy", "end")
    done = train(loopback_hub, tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    assert loopback_hub.repos["o/n"].private
    assert "model.safetensors" in loopback_hub.files("o/n", "side")
    assert "model.safetensors" not in loopback_hub.files("o/n", "main")
