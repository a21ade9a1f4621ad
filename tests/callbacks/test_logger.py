"""The Logger writes to the real back-ends what it was given, and is stopped by none of them."""

from __future__ import annotations

import html
import logging
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tracker_files import STEP, read_tensorboard, read_wandb, scalars, texts, wandb_offline

from hf_difflm.callbacks.logger import Logger
from hf_difflm.callbacks.tracking.formats import bins_of, block
from hf_difflm.errors import UserError

HOSTILE = "a $x_1$ <script>alert('1')</script>\n```\n# b\x1b[31m\x07\x00 \ud800 | *c* " + "long " * 2000


@pytest.fixture
def offline(monkeypatch, tmp_path):
    yield from wandb_offline(monkeypatch, tmp_path)


def write(log: Logger) -> None:
    for step in (3, 5):
        log.log_metrics({"train/loss": 2.0 / step, "train/none": None, "count": torch.tensor(step)}, step)
    log.log_text("samples/first", HOSTILE, 5)
    log.log_histogram("weights", torch.tensor([0.0, 1.0, 1.0, 4.0, float("nan"), float("inf")]), 5)
    log.log_histogram("nothing", torch.tensor([float("nan")]), 5)
    log.log_histogram("counted", {"low": -1.0, "high": 1.0, "counts": [1, 0, 2, 5]}, 5)
    log.log_table("rows", ["step", "text", "score"], [[5, HOSTILE, 0.5], [5, "b", None]], 5)
    log.finish()
    log.log_metrics({"late": 1.0}, 6)
    log.finish()


def test_tensorboard_has_every_number_text_and_histogram_at_its_step(tmp_path):
    write(Logger("tensorboard", config={"lr": 0.1, "name": "x", "hub_token": "hf_abc"}, log_dir=tmp_path / "tb"))
    events = read_tensorboard(tmp_path / "tb")
    assert events.Tags()["scalars"] == ["train/loss", "count"]
    assert scalars(events, "train/loss") == [(3, pytest.approx(2 / 3)), (5, pytest.approx(0.4))]
    assert scalars(events, "count") == [(3, 3.0), (5, 5.0)]
    ((step, text),) = texts(events, "samples/first")
    assert step == 5
    assert all(line.startswith("    ") for line in text.splitlines())  # a block of code: no markup is followed
    assert "<script>" in text
    assert "\x1b" not in text
    assert "\\x1b[31m" in text
    assert texts(events, "rows/0")[0][1].startswith("step: 5\n\ntext:\n\n    a $x_1$ <script>")
    assert texts(events, "rows/1") == [(5, "step: 5\n\ntext:\n\n    b")]
    assert events.Tags()["histograms"] == ["weights", "counted"]
    weights = events.Histograms("weights")[0].histogram_value
    assert (weights.num, weights.min, weights.max, sum(weights.bucket)) == (4, 0.0, 8.0, 4)
    counted = events.Histograms("counted")[0].histogram_value
    assert (counted.bucket_limit, counted.bucket) == ([-0.5, 0.0, 0.5, 1.0], [1, 0, 2, 5])


def test_wandb_has_every_number_text_and_histogram_at_its_step(offline):
    write(Logger("wandb", project_name="tried", run_name="one", config={"lr": 0.1, "hub_token": "hf_abc"}))
    run = read_wandb(offline)
    assert (run.header.project, run.header.display_name) == ("tried", "one")
    assert (run.config["lr"], run.config["hub_token"]) == (0.1, "[redacted]")
    assert run.axes == {STEP: "", "*": STEP}
    assert run.curve("train/loss") == [(3, 2 / 3), (5, 0.4)]
    assert run.curve("count") == [(3, 3), (5, 5)]
    assert not run.curve("late")
    (row,) = (row for row in run.history if "samples/first.path" in row)
    page = (run.files / row["samples/first.path"]).read_text()
    assert "&lt;script&gt;" in page
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert run.curve("counted.values") == [(5, [1, 0, 2, 5])]
    assert run.curve("counted.bins") == [(5, [-1.0, -0.5, 0.0, 0.5, 1.0])]
    assert sum(run.curve("weights.values")[0][1]) == 4
    (row,) = (row for row in run.history if "rows.path" in row)
    table = run.table(row, "rows")
    assert table["columns"] == ["step", "text", "score"]
    assert table["data"][1] == [5, "b", None]
    assert table["data"][0][1].startswith("a $x_1$ <script>")
    assert "\\x1b" in table["data"][0][1]


def test_two_trackers_at_once_get_the_same(offline):
    log = Logger("wandb, tensorboard", log_dir=offline / "both")
    assert log.backends == ("wandb", "tensorboard")
    log.log_metrics({"loss": 0.25}, 7)
    log.finish()
    assert read_wandb(offline / "both").curve("loss") == [(7, 0.25)]
    assert scalars(read_tensorboard(offline / "both"), "loss") == [(7, 0.25)]


def test_final_numbers_and_settings_are_in_the_hparams_tab(tmp_path):
    log = Logger("tensorboard", log_dir=tmp_path / "run")
    log.log_hparams({"lr": 0.1, "bias": True, "name": "x_$y", "none": None}, {"eval/loss": 1.5})
    log.finish()
    settings, metrics = hparams_tab(tmp_path)
    assert settings == {"run": {"lr": 0.1, "bias": True, "name": "x_$y"}}
    assert metrics == {"eval/loss"}


def test_settings_given_late_are_without_secrets_in_every_tracker(offline):
    log = Logger("wandb,tensorboard", log_dir=offline / "both")
    log.log_hparams({"lr": 0.1, "hub_token": "hf_abc", "inner": {"api_key": "sk-123", "depth": 3}}, {"eval/loss": 1.5})
    log.finish()
    run = read_wandb(offline / "both")
    assert (run.config["lr"], run.config["hub_token"]) == (0.1, "[redacted]")
    assert run.config["inner"] == {"api_key": "[redacted]", "depth": 3}
    assert run.summary["eval/loss"] == 1.5
    events = next((offline / "both").glob("events.out.tfevents.*")).read_bytes()
    assert b"lr" in events
    assert b"hf_abc" not in events
    assert b"sk-123" not in events


def test_the_session_of_the_hparams_tab_ends_with_the_log_and_not_before(tmp_path):
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    from tensorboard.plugins.hparams import metadata

    def session(folder: Any) -> list[str]:
        (file,) = folder.glob("events.out.tfevents.*")
        values = [value for event in LegacyEventFileLoader(str(file)).Load() for value in event.summary.value]
        known = {metadata.SESSION_START_INFO_TAG: "start", metadata.SESSION_END_INFO_TAG: "end"}
        return [known[value.tag] for value in values if value.tag in known]

    log = Logger("tensorboard", log_dir=tmp_path / "set", config={"lr": 0.1})
    log.log_metrics({"loss": 1.0}, 1)
    log.log_hparams({"late": True})
    assert "end" not in session(tmp_path / "set")
    log.finish()
    assert session(tmp_path / "set")[-1:] == ["end"]
    plain = Logger("tensorboard", log_dir=tmp_path / "plain")
    plain.log_metrics({"loss": 1.0}, 1)
    plain.finish()
    assert session(tmp_path / "plain") == []  # no settings, no session


def hparams_tab(folder: Any) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """What TensorBoard itself finds: the settings of each run, and what it compares the runs by."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.backend_context import Context

    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(folder))))
    found = context.hparams_metadata(RequestContext(), "")
    settings = {}
    for run, tags in found.items():
        start = metadata.parse_session_start_info_plugin_data(tags[metadata.SESSION_START_INFO_TAG])
        settings[run] = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    experiment = context.experiment_from_metadata(RequestContext(), "", True, found, [])
    return settings, {info.name.tag for info in experiment.metric_infos}


@pytest.mark.parametrize(
    ("backend", "module"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard"), ("trackio", "trackio")]
)
def test_a_missing_package_is_one_warning(monkeypatch, caplog, backend, module):
    monkeypatch.setitem(sys.modules, module, None)
    with caplog.at_level(logging.WARNING):
        write(Logger(backend))
    (record,) = caplog.records
    assert record.getMessage() == f"{backend} is not installed, so nothing is logged to it; pip install {backend}"


def test_no_tracker_needs_no_package(monkeypatch):
    for module in ("wandb", "tensorboard", "torch.utils.tensorboard", "trackio"):
        monkeypatch.setitem(sys.modules, module, None)
    log = Logger("none", config={"lr": 0.1})
    write(log)
    assert log.backends == ()


def test_bad_input_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"backend is 'wandbb'.*did you mean 'wandb'"):
        Logger("wandbb")
    log = Logger("tensorboard", log_dir=tmp_path)
    with pytest.raises(UserError, match=r"metric 'loss' is '\[1, 2\]'; give a number"):
        log.log_metrics({"loss": [1, 2]}, 1)
    with pytest.raises(UserError, match="metric 'loss' is 'tensor"):
        log.log_metrics({"loss": torch.zeros(3)}, 1)
    log.finish()


_USUAL = st.floats(-(2.0**50), 2.0**50, width=32).filter(lambda value: value == 0 or abs(value) > 1e-15)


@settings(deadline=None)  # the first of them imports
@given(st.lists(_USUAL | st.sampled_from([np.nan, np.inf, -np.inf]), max_size=50))
def test_a_histogram_is_that_of_numpy_in_the_same_bins(values):
    kept = [value for value in values if np.isfinite(value)]
    found = bins_of(values)
    if not kept:
        assert found is None
        return
    assert sum(found.counts) == len(kept)
    assert found.low <= min(kept) <= max(kept) <= found.high
    assert found.counts == np.histogram(np.array(kept, dtype=np.float64), found.edges)[0].tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_a_histogram_takes_every_type(dtype):
    found = bins_of(torch.tensor([[0, 1], [1, 1]], dtype=dtype))
    assert np.array(found.counts)[np.flatnonzero(found.counts)].tolist() == [1, 3]


@settings(deadline=None)  # the first of them imports
@given(st.text())
def test_a_block_of_any_text_is_all_code_and_can_be_written(text):
    shown = block(text)
    assert all(line.startswith("    ") for line in shown.split("\n"))
    shown.encode("utf-8")


@settings(deadline=None)  # the first of them imports
@given(st.text() | st.just(HOSTILE))
def test_tensorboards_own_page_shows_a_block_letter_by_letter(text):
    from tensorboard.plugin_util import markdown_to_safe_html

    page = markdown_to_safe_html(block(text))
    assert page.count("<") == (4 if block(text).strip() else 0)  # <pre><code> and their ends: no tag of the text's own
    shown = html.unescape(re.sub(r"</?(pre|code)>", "", page))
    assert shown.split() == block(text).split()
