"""What docs/callbacks.md promises and a test can hold: its examples run as written; signatures, flags, pictures are real."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from hf_difflm import callbacks
from hf_difflm.callbacks import generation
from hf_difflm.callbacks.measuring.alarms import KINDS
from hf_difflm.runs import load_run
from hf_difflm.training.declarations.fields import Field, own_fields

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/callbacks.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
HEADINGS = dict(re.findall(r"^### `(\w+)(\(.*\))`$", PAGE, flags=re.MULTILINE))
_DRAWN = ("training_latest.png", "training_step_000040.png", "metrics_history.json", "text_samples.json")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """The folder the examples run in, one after the other, as a reader would."""
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def stock_run(workplace):
    """The run of the stock Trainer's example."""
    _run(_example('TrainingArguments("runs/stock"'), workplace)
    return workplace / "runs/stock"


@pytest.mark.slow
def test_the_example_of_a_stock_trainer_leaves_its_log_its_dashboard_and_its_samples(stock_run):
    _check_run(stock_run, steps=40, prompts={"", "To be"})


@pytest.mark.slow
def test_the_example_of_trl_leaves_its_log_its_dashboard_and_its_samples(workplace):
    pytest.importorskip("trl", reason="trl is not installed (pip install trl)")
    _run(_example("SFTConfig("), workplace)
    _check_run(workplace / "runs/sft", steps=40, prompts={"2 + 2 = ", "3 + 3 = "})


@pytest.mark.slow
def test_the_example_of_a_loop_of_ones_own_leaves_its_log_and_its_dashboard(workplace):
    _run(_example("Accelerator()"), workplace)
    run = load_run(workplace / "runs/loop")
    assert (run.name, run.status, run.last_step) == ("loop", "completed", 40)
    assert {record.source for record in run.measurements} == {"gradients", "throughput"}
    assert sorted(path.name for path in run.path.parent.glob("dashboard/*_step_*.png"))[-1] == _DRAWN[1]


def test_the_example_of_the_logger_leaves_events_of_tensorboard(workplace):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _run(_example("Logger("), workplace)
    events = accumulators.EventAccumulator(str(workplace / "runs/by-hand"), {"histograms": 0})
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("train/loss")] == [
        (step, pytest.approx(1 / step)) for step in (1, 2, 3)
    ]
    assert [one.step for one in events.Histograms("weights")] == [1, 2, 3]


@pytest.mark.slow
def test_the_example_of_reading_back_prints_what_the_log_holds(workplace, stock_run):
    *norms, sample = _run(_example("load_run("), workplace).splitlines()
    first = next(record for record in load_run(stock_run).measurements if record.source == "gradients")
    assert norms[0].split() == [
        str(first.iter),
        str(first.metrics["grad_norm/attention"]),
        str(first.metrics["grad_norm/layer_01"]),
    ]
    assert sample.endswith(str(load_run(stock_run).samples[-1].extra["distinct_2"]))


@pytest.mark.slow
def test_the_example_of_fine_tuning_in_python_trains_on_conversations(workplace):
    page = (ROOT / "docs/fine-tuning.md").read_text(encoding="utf-8")
    (example,) = [one for one in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "sft=True" in one]
    said = [{"role": role, "content": "ab"} for role in ("user", "assistant") * 2]
    rows = [{"messages": [{**one, "content": f"{number}"} for one in said]} for number in range(100)]
    (workplace / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _run(example, workplace)
    run = load_run(workplace / "runs/chats")
    assert (run.status, run.last_step) == ("completed", 20)
    counts = run.header.data["counts"]["train"]
    assert counts["blocks"] == 2 * counts["conversations"]
    assert any("have several answers" in note for note in run.header.data["notes"])


def test_every_example_is_run_by_a_test():
    assert len(EXAMPLES) == 5


def test_the_page_shows_each_callback_with_its_real_arguments_and_defaults():
    assert set(HEADINGS) == set(callbacks.__all__)
    for name, shown in HEADINGS.items():
        signature = inspect.signature(getattr(callbacks, name).__init__)
        parameters = [one for place, one in signature.parameters.items() if place != "self"]
        expected = ", ".join(_as_written(one) for one in parameters)
        assert shown == f"({expected})", name


def test_the_page_names_each_alarm():
    assert all(f"`{kind}`" in PAGE for kind in KINDS)


@pytest.mark.parametrize(
    ("flags", "default"), re.findall(r"^\| [^|`]+ \| (`--[^|]+) \| ([^|]+) \|$", PAGE, flags=re.MULTILINE)
)
def test_the_page_gives_each_frequency_its_real_default(flags, default):
    words = {None: "each log", True: "on", (): "none"}
    fields = [_field(flag) for flag in re.findall(r"--[\w-]+", flags)]
    values = [tuple(field.default) if isinstance(field.default, list) else field.default for field in fields]
    assert default == ", ".join(dict.fromkeys(words.get(value, str(value)) for value in values))


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_link_and_picture_of_the_documentation_is_there(page):
    for link in re.findall(r"\]\((?!http)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("picture", sorted((ROOT / "docs/images").glob("*")), ids=lambda picture: picture.name)
def test_every_picture_is_small_whole_and_shown_somewhere(picture):
    assert picture.stat().st_size < 250_000
    with Image.open(picture) as image:
        image.load()
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert any(f"images/{picture.name}" in page.read_text(encoding="utf-8") for page in pages)


def _example(word: str) -> str:
    (found,) = [example for example in EXAMPLES if word in example]
    return found


def _field(flag: str) -> Field:
    """The setting that a flag, or another name of it, sets."""
    (found,) = [
        field
        for name, field in own_fields().items()
        if flag in (f"--{name.replace('_', '-')}", *field.metadata.get("also", ()))
    ]
    return found


def _run(example: str, folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _check_run(folder: Path, steps: int, prompts: set[str]) -> None:
    run = load_run(folder)
    assert run.status == "completed"
    assert run.steps[-1].iter == steps
    assert {record.source for record in run.measurements} >= {"gradients", "samples"}
    assert {sample.prompt for sample in run.samples} == prompts
    for name in _DRAWN:
        assert (folder / "dashboard" / name).stat().st_size > 0, name
    with Image.open(folder / "dashboard/training_latest.png") as image:
        image.load()


def _as_written(parameter: inspect.Parameter) -> str:
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return f"**{parameter.name}"
    if parameter.default is inspect.Parameter.empty:
        return parameter.name
    if parameter.default == generation.DEFAULT_PROMPTS:
        return f"{parameter.name}=DEFAULT_PROMPTS"
    return f"{parameter.name}={parameter.default!r}".replace("'", '"')
