"""Models from the Hub: found by name and revision, kept in the cache, and refused where they cannot be trusted."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loopback import LoopbackHub

ROOT = Path(__file__).parents[2]
LOAD = """
import json, sys
from hf_difflm.errors import UserError
from hf_difflm.evaluation.targets import load_target
says = []
for name, revision in json.loads(sys.argv[1]):
    try:
        target = load_target(name, use_cpu=True, revision=revision)
        state = target.model.state_dict()
        says.append([type(target.model).__module__, sum(v.double().sum().item() for v in state.values()), target.config])
    except UserError as error:
        says.append(str(error))
print(json.dumps(says))
"""


def client(hub: LoopbackHub, code: str, *args: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = hub.environment(home, **more) | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, check=False)


def load(hub: LoopbackHub, home: Path, *names: tuple[str, str | None], **more: str) -> list:
    """What loading each of (name, revision) says, one after the other in one process."""
    done = client(hub, LOAD, json.dumps(names), home=home, **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def files(tmp_path, tiny_denoiser, tokenizer) -> dict[str, bytes]:
    """The files of a good model."""
    folder = tmp_path / "good"
    tiny_denoiser(seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def total(model: torch.nn.Module) -> float:
    return sum(value.double().sum().item() for value in model.state_dict().values())


def changed(files: dict[str, bytes], name: str, **values: object) -> dict[str, bytes]:
    return files | {name: json.dumps(json.loads(files[name]) | values).encode()}


ANSWERS = {
    401: "the Hub refuses your token for the model o/m401 (401); log in again (`hf auth login`, or HF_TOKEN)",
    403: "the Hub refuses access to the model o/m403 (403)",
    404: "the Hub refuses the model o/m404 (HTTP 404)",
    429: "the Hub gets too many requests for the model o/m429 (429)",
    500: "the Hub fails on the model o/m500 (500); try again later",
    None: "the Hub cannot be reached for the model o/mNone",
}


@pytest.mark.slow
def test_a_revision_is_what_it_names_and_every_refusal_of_the_hub_is_a_sentence(
    loopback_hub, tmp_path, files, tiny_denoiser, tiny_causal, tokenizer
):
    hub = loopback_hub
    first = hub.put("o/m", files)
    tiny_denoiser(seed=2).save_pretrained(tmp_path / "second")
    hub.put("o/m", {"model.safetensors": (tmp_path / "second" / "model.safetensors").read_bytes()})
    hub.put("o/private", files, private=True)
    tiny_causal(seed=3).save_pretrained(tmp_path / "causal")
    tokenizer.save_pretrained(tmp_path / "causal")
    hub.put_folder("o/ar", tmp_path / "causal")
    for status in ANSWERS:
        hub.fail(f"/o/m{status}/", status, times=1000)
    names = [("o/m", None), ("o/m", first), ("o/private", None), ("o/ar", None), ("o/m", "gone"), ("o/none", None)]
    says = load(hub, tmp_path, *names, *((f"o/m{status}", None) for status in ANSWERS), ("a b/c", None))
    ours = "hf_difflm.models.masked_diffusion.modeling_masked_diffusion"
    one, two = total(tiny_denoiser(seed=1)), total(tiny_denoiser(seed=2))
    assert [said[:2] for said in says[:3]] == [[ours, two], [ours, one], [ours, one]]
    assert says[3][:2] == ["transformers.models.llama.modeling_llama", total(tiny_causal(seed=3))]
    assert says[4] == "the model o/m has no revision 'gone'; give a branch, a tag or a commit that it has"
    assert says[5].startswith("the model o/none is not on the Hub, or is private and your token may not see it")
    for said, expected in zip(says[6:], ANSWERS.values(), strict=False):
        assert said.startswith(expected)
        assert "\n" not in said
    assert says[-1] == "the model a b/c is no name of the Hub; give OWNER/NAME"
    assert not [line for line in hub.requests if line.endswith((".py", ".bin"))]


@pytest.mark.slow
def test_the_cache_answers_offline_and_where_the_hub_fails(loopback_hub, tmp_path, files, tiny_denoiser):
    first, one = loopback_hub.put("o/m", files), total(tiny_denoiser(seed=1))
    assert load(loopback_hub, tmp_path, ("o/m", None))[0][1] == one
    asked = len(loopback_hub.requests)
    says = load(loopback_hub, tmp_path, ("o/m", None), ("o/m", first), ("o/none", None), HF_HUB_OFFLINE="1")
    assert [says[0][1], says[1][1]] == [one, one]
    assert says[2].startswith("the model o/none is not in the cache, and HF_HUB_OFFLINE forbids to ask the Hub")
    assert len(loopback_hub.requests) == asked
    loopback_hub.fail("/api/models/o/", 500, times=1000)
    assert load(loopback_hub, tmp_path, ("o/m", None))[0][1] == one


@pytest.mark.slow
@pytest.mark.borders
def test_an_adapter_on_the_hub_is_loaded_with_its_network(loopback_hub, tmp_path, tiny_denoiser, tokenizer):
    peft = pytest.importorskip("peft")
    tiny_denoiser(seed=1).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    loopback_hub.put_folder("o/base", tmp_path / "base")
    model = tiny_denoiser(seed=1)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, base_model_name_or_path="o/base")
    adapted = peft.get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = "o/base"
    adapted.save_pretrained(tmp_path / "adapter")
    loopback_hub.put_folder("o/adapter", tmp_path / "adapter")
    (said,) = load(loopback_hub, tmp_path, ("o/adapter", None))
    assert said[1] == pytest.approx(total(adapted.merge_and_unload()), rel=1e-6)
    assert said[1] != pytest.approx(total(tiny_denoiser(seed=1)), rel=1e-6)


@pytest.mark.slow
def test_the_command_ends_with_2_and_one_line(loopback_hub, tmp_path):
    done = client(loopback_hub, "from hf_difflm.commands import app; app(['generate', 'o/none'])", home=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the model o/none is not on the Hub")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_malicious_repositories_are_refused_and_nothing_of_theirs_runs(loopback_hub, tmp_path, files):
    proof = tmp_path / "proof"
    bomb = pickle.dumps(_Bomb(proof))
    evil = f"open({str(proof)!r}, 'w')\n".encode()
    bare = {name: data for name, data in files.items() if name != "model.safetensors"}
    weights = files["model.safetensors"]
    index = json.dumps({"weight_map": {"lm_head.weight": "../../../../secret.safetensors"}})
    foreign = {"AutoConfig": "evil.C", "AutoModelForMaskedLM": "evil.M"}
    code = {"evil.py": evil, "custom_generate/generate.py": evil, "modeling_masked_diffusion.py": evil}
    cases = {
        "pickle": (bare | {"pytorch_model.bin": bomb}, "weights as a pickle (pytorch_model.bin)"),
        "parts": (bare | {"pytorch_model-00001-of-00002.bin": bomb}, "as a pickle"),
        "foreign": (changed(files, "config.json", model_type="evil", auto_map=foreign) | code, "needs code of its own"),
        "kernel": (changed(files, "config.json", attn_implementation="evil/kernel"), "asks for the kernel"),
        "index": (bare | {"model.safetensors.index.json": index.encode()}, "no safetensors file of its own folder"),
        "vocab": (changed(files, "tokenizer_config.json", vocab_file="../../secret.txt"), "'../../secret.txt' outside"),
        "climbs": (files | {"../../evil.safetensors": weights}, "leads out of its folder"),
        "absolute": (files | {"/etc/evil.json": b"{}"}, "leads out of its folder"),
        "backslash": (files | {"a\\..\\..\\tokenizer.json": b"{}"}, "leads out of its folder"),
        "empty": ({"README.md": b"nothing"}, "holds no config.json"),
        "torn": (files | {"model.safetensors": weights[:200]}, "cannot be loaded"),
        "adapter": (
            {"adapter_config.json": b'{"base_model_name_or_path": "o/pickle"}', "adapter_model.bin": bomb},
            "holds no adapter_model.safetensors",
        ),
        # Ours, with code beside it that its configuration names: loaded, by the code that is installed.
        "ours": (changed(files, "config.json", auto_map=foreign) | code | {"pytorch_model.bin": bomb}, None),
    }
    for name, (content, _) in cases.items():
        loopback_hub.put(f"o/{name}", content)
    says = load(loopback_hub, tmp_path, *((f"o/{name}", None) for name in cases))
    for (name, (_, expected)), said in zip(cases.items(), says, strict=True):
        if expected is None:
            assert said[0] == "hf_difflm.models.masked_diffusion.modeling_masked_diffusion", name
        else:
            assert isinstance(said, str), name
            assert expected in said, name
            assert "\n" not in said
    assert not proof.exists()
    assert not [line for line in loopback_hub.requests if "resolve" in line and line.endswith((".py", ".bin"))]
    cache = (tmp_path / "hub").resolve()
    assert not [path for path in tmp_path.rglob("evil*") if cache not in path.resolve().parents]


class _Bomb:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return (Path.touch, (self.proof,))
