"""What a network reads, where users meet it: refused before data are read, and said in log, terminal and list."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import transformers

from hf_difflm.experiments import one_run
from hf_difflm.models.backbones import families
from hf_difflm.models.backbones.verdict import Verdict

DOCS = Path(__file__).parents[2] / "docs"


def _script():
    spec = importlib.util.spec_from_file_location("write_backbones", DOCS / "write_backbones.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.borders
@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize(
    ("backbone", "flags", "said"),
    [
        ("mamba", [], "causal in each of its 2 layers"),
        ("jamba", ["--backbone-config", '{"attn_layer_period": 2, "attn_layer_offset": 1}'], "--allow-causal-layers"),
    ],
)
def test_it_is_refused_before_data_are_read(hf, tiny, monkeypatch, command, backbone, flags, said):
    monkeypatch.setattr(one_run, "prepare_data", lambda *_: pytest.fail("data were read"))
    result = hf(command, *tiny, "--num-hidden-layers", "2", "--backbone", backbone, *flags, "--output-dir", "run")
    assert result.code == 2
    assert said in result.err
    assert not Path("run").exists() or not any(Path("run").rglob("*.jsonl"))


@pytest.mark.borders
def test_a_twin_that_reads_ahead_is_refused_before_data_are_read(hf, tiny, monkeypatch):
    monkeypatch.setattr(one_run, "prepare_data", lambda *_: pytest.fail("data were read"))
    result = hf("train", *tiny, "--objective", "ar", "--backbone", "bert", "--output-dir", "run")
    assert result.code == 2
    assert "'bert' reads ahead" in result.err
    assert "--objective mdlm" in result.err


@pytest.mark.borders
def test_a_limited_reach_is_in_the_log_and_in_runs_show(hf, tiny):
    config = '{"sliding_window": 4}'
    flags = ["--backbone", "mistral", "--backbone-config", config, "--max-steps", "2"]
    result = hf("train", *tiny, *flags, "--output-dir", "run")
    assert result.code == 0, result.err
    header = json.loads(Path("run/journal.jsonl").read_text().splitlines()[0])
    backbone = header["metadata"]["backbone"]
    assert backbone["reads"] == "both sides, 4 each way"
    assert set(backbone["back"]) == {4}
    assert "reads      both sides, 4 each way" in hf("runs", "show", "run").out


def test_the_list_is_the_shipped_one_for_the_version_that_it_was_measured_with(hf):
    result = hf("doctor", "--backbones")
    assert result.code == 0
    version, table = families.shipped()
    assert version == transformers.__version__
    assert len(table) > 250
    lines = {line.split()[0]: line for line in result.out.splitlines()[1:] if not line.startswith(" ")}
    assert set(lines) == set(table)
    assert lines["llama"].endswith("denoiser   both sides")
    assert "refused" in lines["mamba"]
    assert json.loads(hf("doctor", "--backbones", "--json").out)["families"].keys() == table.keys()


def test_for_another_version_it_is_measured(monkeypatch):
    monkeypatch.setattr(families.transformers, "__version__", "99.0")
    monkeypatch.setattr(families, "families", lambda: ["llama", "gpt2"])
    seen = []
    version, table = families.family_table(lambda steps, count: seen.append(count) or steps)
    assert version == "99.0"
    assert seen == [2]
    assert set(table) == {"llama", "gpt2"}
    assert all(table[name]["denoiser"].direction == "both sides" for name in table)


def test_the_page_is_made_of_the_table():
    version, table = families.shipped()
    assert (DOCS / "backbones.md").read_text(encoding="utf-8") == _script().page(version, table)


def test_no_family_left_a_traceback_and_each_is_counted_once():
    _, table = families.shipped()
    verdicts = [verdict for roles in table.values() for verdict in roles.values()]
    assert all(verdict.error is None or "Traceback" not in verdict.error for verdict in verdicts)
    assert {_script().kind_of(verdict) for verdict in verdicts} >= {"both sides", "causal", "part causal"}
    assert _script().kind_of(Verdict("llama", "denoiser", error="it fell over")) == "does not run"


def test_the_list_takes_no_other_flags(hf):
    assert "--backbones lists families" in hf("doctor", "--backbones", "--recipe", "demo").err
