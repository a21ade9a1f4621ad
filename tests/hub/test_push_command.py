"""``hf-difflm push`` as a user meets it: what arrives is what the dry run wrote, and loads where hf_difflm is unknown."""

from __future__ import annotations

import contextlib
import io
import json
import re

import pytest
import torch
from loopback import LoopbackHub
from made_models import (
    contents,
    load_elsewhere,
    make_run,
    run_client,
    run_elsewhere,
    tiny,
    write_checkpoint,
)
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from hf_difflm.commands import app

IDS = torch.tensor([[256, 97, 98, 259, 99, 259]])  # a BOS, bytes and masks


def command(*args):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        app([str(arg) for arg in args])
    return int(stop.value.code or 0), out.getvalue(), err.getvalue()


def push(hub: LoopbackHub, home, *args, **more):
    return run_client(hub, "push", *args, "--repo-id", "o/n", home=home, **more)


def put_dry_run(hub: LoopbackHub, source, home, *args):
    """Upload what a dry run writes, without a process for it."""
    code, _, err = command("push", source, "--repo-id", "o/n", "--dry-run", "--export-dir", home / "dry", *args)
    assert code == 0, err
    hub.put_folder("o/n", home / "dry")


def same_as(out, model):
    model = model.eval()
    with torch.no_grad():
        expected = model(IDS).logits
    ids = model.generate(IDS, max_new_tokens=6, seed=3)
    return torch.equal(out["logits"], expected) and torch.equal(out["ids"], ids)


@pytest.fixture
def run(tmp_path, tokenizer):
    folder = make_run(tmp_path / "run", tiny(1), tokenizer, ema_decay=0.9)
    write_checkpoint(folder, 20, tiny(2), tokenizer, average=tiny(1))
    return folder


def test_what_a_dry_run_writes_loads_with_transformers_alone_bit_for_bit(loopback_hub, run, tmp_path):
    put_dry_run(loopback_hub, run, tmp_path)
    out, said = load_elsewhere(loopback_hub, "o/n", IDS, tmp_path)
    assert same_as(out, tiny(1))
    assert said.splitlines()[-1].split() == ["masked_diffusion", "hi"]


@pytest.mark.slow
def test_the_dry_run_is_byte_for_byte_what_arrives_also_at_the_second_push(loopback_hub, run, tmp_path):
    before = contents(run)
    done = push(loopback_hub, tmp_path, run, "--private", "--revision", "try/1")
    assert done.returncode == 0, done.stderr
    repo = loopback_hub.repos["o/n"]
    assert done.stdout.strip() == f"{loopback_hub.url}/o/n/commit/{repo.branches['try/1'][-1].sha}"
    assert repo.private
    assert loopback_hub.files("o/n") == {}, "main is left alone"
    code, out, _ = command(
        "push", run, "--repo-id", "o/n", "--revision", "try/1", "--dry-run", "--export-dir", tmp_path / "dry"
    )
    assert code == 0
    assert out.splitlines()[-1] == str(tmp_path / "dry")
    assert contents(tmp_path / "dry") == loopback_hub.files("o/n", "try/1")
    assert push(loopback_hub, tmp_path, run, "--revision", "try/1").returncode == 0
    assert len(repo.branches["try/1"]) == 2, "what is there already is no new commit"
    assert contents(run) == before


@pytest.mark.slow
def test_raw_weights_load_elsewhere_too(loopback_hub, run, tmp_path):
    done = push(loopback_hub, tmp_path, run, "--weights", "raw")
    assert done.returncode == 0, done.stderr
    out, _ = load_elsewhere(loopback_hub, "o/n", IDS, tmp_path)
    assert same_as(out, tiny(2))
    assert not same_as(out, tiny(1))


@pytest.mark.slow
def test_an_autoregressive_run_loads_as_the_stock_model_without_trust(loopback_hub, tmp_path, tiny_causal, tokenizer):
    model = tiny_causal()
    put_dry_run(loopback_hub, make_run(tmp_path / "ar", model, tokenizer, objective="ar"), tmp_path)
    out, said = load_elsewhere(loopback_hub, "o/n", IDS, tmp_path, is_denoiser=False)
    assert said.splitlines()[-1].split() == ["llama", "hi"]
    with torch.no_grad():
        assert torch.equal(out["logits"], model.eval()(IDS).logits)
    assert torch.equal(out["ids"], model.generate(IDS, max_new_tokens=6, do_sample=False))


@pytest.mark.slow
def test_an_autoregressive_model_that_transformers_does_not_have_brings_its_code(loopback_hub, tmp_path, tokenizer):
    torch.manual_seed(0)
    sizes = {"vocab_size": 260, "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2}
    config = AutoConfig.for_model("bdh", num_attention_heads=2, bos_token_id=256, **sizes)
    model = AutoModelForCausalLM.from_config(config)
    put_dry_run(loopback_hub, make_run(tmp_path / "ar", model, tokenizer, objective="ar"), tmp_path)
    out, said = load_elsewhere(loopback_hub, "o/n", IDS, tmp_path, is_denoiser=False, trust=True)
    assert said.split() == ["bdh", "hi"]
    with torch.no_grad():
        assert torch.equal(out["logits"], model.eval()(IDS).logits)


def test_an_adapter_goes_up_merged_into_its_network(tmp_path, tokenizer):
    peft = pytest.importorskip("peft", reason="peft is not installed (pip install 'hf_difflm[peft]')")
    base = tiny(1)
    base.save_pretrained(tmp_path / "base")
    layers = ["q_proj", "v_proj"]
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=layers, init_lora_weights=False)
    wrapped = peft.get_peft_model(tiny(1), config)
    wrapped.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    wrapped.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    code, _, err = command(
        "push", tmp_path / "adapter", "--repo-id", "o/n", "--dry-run", "--export-dir", tmp_path / "dry"
    )
    assert code == 0, err
    found = load_file(tmp_path / "dry" / "model.safetensors")
    low_rank = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for name, weight in base.state_dict().items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if name.split(".")[-2] in layers:
            weight = weight + 6 / 2 * low_rank[f"{stem}.lora_B.weight"] @ low_rank[f"{stem}.lora_A.weight"]
            torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6)
        elif name in found:  # tied weights are in the file once
            assert torch.equal(found[name], weight)
    assert found.keys() <= base.state_dict().keys()
    # Beside them the adapter alone, which names no folder of this machine.
    beside = tmp_path / "dry" / "adapter"
    assert {path.name for path in beside.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert (beside / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "adapter" / "adapter_model.safetensors"
    ).read_bytes()
    assert json.loads((beside / "adapter_config.json").read_text())["base_model_name_or_path"] is None
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "dry").rglob("*.[jm][sd]*"))
    assert "The network that it was trained beside is not on the Hub." in (tmp_path / "dry" / "README.md").read_text()


@pytest.mark.slow
def test_the_lines_of_the_card_run_as_they_stand(loopback_hub, run, tmp_path):
    put_dry_run(loopback_hub, run, tmp_path)
    card = loopback_hub.files("o/n")["README.md"].decode()
    lines = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(lines) == 3  # text, numbers, fill-mask
    assert len(lines[0].splitlines()) == 5
    done = run_elsewhere(loopback_hub, "\n".join(lines), home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "The " in done.stdout


@pytest.mark.slow
def test_fewer_shards_than_last_time_leave_no_old_weights_to_be_loaded(loopback_hub, run, tmp_path, tokenizer):
    tiny(3).save_pretrained(tmp_path / "sharded", max_shard_size="8KB")
    tokenizer.save_pretrained(tmp_path / "sharded")
    for source in (run, tmp_path / "sharded"):
        assert push(loopback_hub, tmp_path, source).returncode == 0
    names = set(loopback_hub.files("o/n"))
    assert "model.safetensors" not in names
    assert "model.safetensors.index.json" in names
    out, _ = load_elsewhere(loopback_hub, "o/n", IDS, tmp_path)
    assert same_as(out, tiny(3))


@pytest.mark.slow
def test_a_failed_push_is_one_sentence_and_exit_2_and_a_public_repository_is_not_called_private(
    loopback_hub, run, tmp_path
):
    loopback_hub.fail("POST /api/models/o/n/commit", 403)
    done = push(loopback_hub, tmp_path, run)
    assert done.returncode == 2
    said = "cannot push to o/n: your token may not write there (403); use one with write access to it"
    assert done.stderr == f"error: {said}\n"
    done = push(loopback_hub, tmp_path, run, "--private")
    assert done.returncode == 2
    assert "o/n is there already and public, so --private would not hold" in done.stderr


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["nowhere", "--repo-id", "o/n"], "nowhere is no folder; give a run, a checkpoint or a model folder to push"),
        (["RUN", "--repo-id", "n"], "--repo-id 'n' is no name of a repository; give OWNER/NAME"),
        (["RUN"], "missing option '--repo-id'"),
        (["RUN", "--repo-id", "o/n", "--weights", "both"], "--weights both is unknown; give ema"),
        (["RUN", "--repo-id", "o/n", "--dry-run", "--private"], "--dry-run makes none"),
        (["RUN", "--repo-id", "o/n", "--dry-run", "--include", "../x"], "leads out of"),
        (["RUN", "--repo-id", "o/n", "--dry-run", "--license", "MIT: x"], "--license 'MIT: x' is no identifier of a"),
        (["RUN", "--repo-id", "o/n", "--revison", "x"], "flag --revison is unknown; did you mean '--revision'?"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(run, tmp_path, monkeypatch, args, sentence):
    monkeypatch.chdir(tmp_path)
    code, out, err = command("push", *[run if arg == "RUN" else arg for arg in args])
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
