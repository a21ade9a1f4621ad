"""What a network reads, where users meet it: refused before data are read, and said in log, terminal and list."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import transformers

from hf_difflm.experiments import one_run
from hf_difflm.models.backbones import check, families
from hf_difflm.models.backbones.verdict import Verdict
from hf_difflm.runs import load_run

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
def test_doctor_refuses_it_before_it_estimates_memory(hf):
    flags = ["doctor", "--recipe", "demo", "--hidden-size", "32", "--num-attention-heads", "2", "--backbone"]
    assert "'mamba' is causal in each of its" in hf(*flags, "mamba").err
    hybrid = ["lfm2", "--num-hidden-layers", "2", "--backbone-config", '{"layer_types": ["conv", "full_attention"]}']
    assert "causal in layer 0 of its 2" in hf(*flags, *hybrid).err
    assert hf(*flags, *hybrid, "--allow-causal-layers").code == 0
    assert "router_aux_loss 0.01 has no effect" in hf(*flags, "llama", "--router-aux-loss", "0.01").err
    experts = ["mixtral", "--backbone-config", '{"num_local_experts": 4}', "--router-aux-loss", "0.01"]
    assert "memory of a mixture of experts such as mixtral cannot be estimated" in hf(*flags, *experts).err


@pytest.mark.borders
@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--backbone", "lama"], "did you mean 'llama'"),
        (["--backbone", "vit"], "'vit' is no network over tokens"),
        (["--backbone", "t5"], "'t5' does not run as a denoiser in this configuration (ValueError: You must specify"),
        (["--backbone", "dbrx"], "'dbrx' does not run as a denoiser in this configuration"),
        (["--backbone", "voxtral_realtime_text"], "does not run as a denoiser in this configuration"),
        (["--backbone-config", "[1]"], "backbone_config must be a mapping"),
        (
            ["--backbone-config", '{"hidden_act": "nope"}'],
            "does not run as a denoiser in this configuration (KeyError: 'nope')",
        ),
        (["--backbone-config", '{"hidden_act": 3}'], "'hidden_act' of llama is text such as 'silu', got 3"),
        (["--backbone-config", '{"rope_parameters": {"rope_type": "nope"}}'], "(KeyError: 'nope')"),
        (["--backbone-config", '{"vocab_size": 7}'], "'vocab_size' 7 is below the 260 tokens"),
        (["--backbone-config", '{"num_attention_heads": 3}'], "refuses this configuration"),
        (["--backbone-config", '{"hiden_act": "silu"}'], "did you mean 'hidden_act'"),
    ],
)
def test_a_configuration_that_makes_no_network_is_one_sentence_before_data_are_read(
    hf, tiny, monkeypatch, command, flags, said
):
    monkeypatch.setattr(one_run, "prepare_data", lambda *_: pytest.fail("data were read"))
    result = hf(command, *tiny, *flags, "--output-dir", "run")
    assert result.code == 2
    assert said in result.err
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1


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


@pytest.mark.borders
def test_the_verdict_is_in_log_doctor_runs_show_and_card(hf, tiny, caplog):
    config = '{"layer_types": ["conv", "full_attention"], "conv_L_cache": 3}'
    flags = [*tiny, "--num-hidden-layers", "2", "--backbone", "lfm2", "--backbone-config", config]
    said = "both sides, 2 back in 1 of 2 layers; causal layers: 0"
    check._told.clear()
    flags += ["--allow-causal-layers", "--max-steps", "2"]
    assert f"{said}\n" in hf("train", *flags, "--sanity-check").out
    result = hf("train", *flags, "--output-dir", "run", "--save-strategy", "steps", "--save-steps", "2")
    assert result.code == 0, result.err
    assert caplog.text.count(f"it reads {said}") == 1  # once a process
    backbone = json.loads(Path("run/journal.jsonl").read_text().splitlines()[0])["metadata"]["backbone"]
    assert backbone["reads"] == said
    assert (backbone["direction"], backbone["causal_layers"]) == ("part causal", [0])
    assert f"reads      {said}" in hf("runs", "show", "run").out
    assert hf("push", "run", "--repo-id", "owner/name", "--dry-run", "--export-dir", "pushed").code == 0
    card = next(path for path in Path().rglob("README.md")).read_text(encoding="utf-8")
    assert f"What it reads, measured: {said}." in card


@pytest.mark.borders
@pytest.mark.parametrize("objective", ["mdlm", "ar"])
def test_a_family_without_sdpa_is_loaded_again_by_what_comes_after_the_training(hf, tiny, objective):
    flags = ["--backbone", "gemma2", "--objective", objective, "--max-steps", "3", "--output-dir", "run"]
    result = hf("train", *tiny, *flags)
    assert result.code == 0, result.err
    evaluated = hf("eval", "run", "--use-cpu", "--json")
    assert evaluated.code == 0, evaluated.err
    logged = load_run("run").evaluations[-1].metrics["eval_nll"]
    assert json.loads(evaluated.out)["eval_nll"] == pytest.approx(logged, rel=1e-5)
    assert hf("generate", "run", "--use-cpu", "--max-new-tokens", "4").code == 0


@pytest.mark.borders
def test_what_is_another_model_once_it_is_loaded_is_refused_before_data_are_read(hf, tiny, monkeypatch):
    monkeypatch.setattr(one_run, "prepare_data", lambda *_: pytest.fail("data were read"))
    result = hf("train", *tiny, "--backbone", "falcon_h1", "--allow-causal-layers", "--output-dir", "run")
    assert result.code == 2
    assert "computes something else after it is saved and loaded again" in result.err


@pytest.mark.borders
@pytest.mark.parametrize("objective", ["mdlm", "ar"])
def test_a_router_loss_is_logged_apart_and_refused_where_there_is_none(hf, tiny, monkeypatch, objective):
    flags = [*tiny, "--objective", objective, "--max-steps", "3", "--router-aux-loss", "0.01"]
    experts = ["--backbone", "mixtral", "--backbone-config", '{"num_local_experts": 4}']
    result = hf("train", *flags, *experts, "--output-dir", "run")
    assert result.code == 0, result.err
    assert "loss-free" not in result.err
    assert all(step.extra["aux_loss"] > 1 for step in load_run("run").steps)
    assert load_run("run").config["router_aux_loss"] == 0.01
    monkeypatch.setattr(one_run, "prepare_data", lambda *_: pytest.fail("data were read"))
    refused = hf("train", *flags, "--output-dir", "other")
    assert refused.code == 2
    assert "router_aux_loss 0.01 has no effect: backbone 'llama' has no router loss" in refused.err


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
