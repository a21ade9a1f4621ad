"""A model on the Hub that is refused costs no weights: its configurations come first, and decide."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from released_models import FIXTURES

from hf_difflm.models.file_names import INDEX

ASK = """
import json, sys
from pathlib import Path
from hf_difflm.errors import UserError
from hf_difflm.evaluation.targets import load_target
from hf_difflm.experiments.recipe_settings import load_settings
from hf_difflm.experiments.starting_point import begin_from
from hf_difflm.hub.conversion.any_model import convert
says = []
for number, (name, options) in enumerate(json.loads(sys.argv[1])):
    try:
        if options == "eval":
            load_target(name, use_cpu=True)
        elif options == "train":
            begin_from(load_settings(None, {"dataset": "markov", "block_size": 8, "init_from": name}))
        else:
            convert(name, Path(f"made-{number}"), **options)
        says.append(None)
    except UserError as error:
        says.append(str(error))
print(json.dumps(says))
"""


def of(fixture: str, **values: Any) -> dict[str, bytes]:
    """The files of a fixture with other values in its configuration; ``gone`` leaves a key out."""
    files = {path.name: path.read_bytes() for path in (FIXTURES / fixture).iterdir() if "expected" not in path.name}
    said = json.loads(files["config.json"]) | values
    files["config.json"] = json.dumps({key: value for key, value in said.items() if value != "gone"}).encode()
    return files


def in_parts(files: dict[str, bytes], *weights: str) -> dict[str, bytes]:
    """The same in two files of weights, whose index names these."""
    parts = {f"model-0000{i}-of-00002.safetensors": files["model.safetensors"] for i in (1, 2)}
    index = {"weight_map": dict.fromkeys(weights, next(iter(parts)))}
    return {name: data for name, data in files.items() if name != "model.safetensors"} | parts | {
        INDEX: json.dumps(index).encode()
    }  # fmt: skip


REFUSED: dict[str, tuple[dict[str, bytes], Any, str]] = {
    "llada2": (of("llada", model_type="llada2_moe", architectures=["LLaDA2MoeModelLM"]), {}, "it is LLaDA2, whose"),
    "mmada": (of("llada", model_type="mmada", architectures=["MMadaModelLM"]), {}, "it is MMaDA, whose vocabulary"),
    "code": (of("llada", model_type="new", architectures=["NewLM"], auto_map={"AutoModel": "m.M"}), {}, "is a NewLM"),
    "key": (of("llada", rope_theta="gone"), {}, "has no 'rope_theta'"),
    "value": (of("llada", alibi=True), {}, "alibi True, which has to be False"),
    "sizes": (of("llada", n_heads=0), {}, "make no network"),
    "mixed": (of("llada", architectures=["DreamModel"]), {}, "which are not of one model"),
    "bits": (of("dream", quantization_config={"bits": 4}), {}, "is quantised"),
    "as": (of("llada"), {"released_as": "open-dllm"}, "no Open-dLLM has; leave out --as"),
    "denoiser": (
        of(
            "llada",
            model_type="masked_diffusion",
            architectures=["MaskedDiffusionForMaskedLM"],
            backbone_config={"model_type": "llama", "vocab_size": 264},
        ),
        {},
        "is a masked diffusion model already",
    ),
    "encoder": (of("llada", model_type="t5", architectures=["T5EncoderModel"]), {}, "neither a causal LM nor a masked"),
    "kin": (
        in_parts(of("dream"), "model.layers.0.self_attn.q_norm.weight"),
        {},
        "none of its weights is a model.embed",
    ),
    "gpt": (
        in_parts(of("llada", model_type="gpt2", architectures=["GPT2LMHeadModel"]), "denoise_model.wpe.weight"),
        {},
        "it is DiffuGPT",
    ),
    "train": (
        of("llada", model_type="gpt2", architectures=["GPT2LMHeadModel"]),
        "train",
        "is a causal LM, but the obj",
    ),
    "eval": (of("llada"), "eval", "is a published LLaDA checkpoint"),
}


@pytest.mark.slow
def test_what_is_refused_is_refused_before_its_weights_are_downloaded(loopback_hub, tmp_path):
    for name, (files, _, _) in REFUSED.items():
        loopback_hub.put(f"o/{name}", files)
    loopback_hub.put("o/good", of("llada"))
    asked = [["o/eval", "eval"], *([f"o/{name}", how] for name, (_, how, _) in REFUSED.items() if how != "eval")]
    home = tmp_path / "home"
    home.mkdir()
    environment = loopback_hub.environment(home) | {"PYTHONPATH": str(Path(__file__).parents[3])}
    # LLaDA is told by its name only until something has registered its type, as `convert` does.
    programs = (ASK.replace("from hf_difflm.hub.conversion.any_model import convert\n", ""), ASK)
    says: list[str | None] = []
    for program, some in zip(programs, (asked[:1], [*asked[1:], ["o/good", {}]]), strict=True):
        command = [sys.executable, "-c", program, json.dumps(some)]
        done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        says += json.loads(done.stdout.splitlines()[-1])
    for (place, _), said in zip(asked, says, strict=False):
        assert said is not None, place
        assert REFUSED[place.removeprefix("o/")][2] in said
        assert "\n" not in said
    assert says[-1] is None
    weights = [line for line in loopback_hub.requests if "/resolve/" in line and line.endswith(".safetensors")]
    assert {line.split("/resolve/")[0].rpartition("/")[2] for line in weights} == {"good"}
    configurations = [line for line in loopback_hub.requests if line.startswith("GET ") and "/config.json" in line]
    assert len(configurations) == len(REFUSED) + 1  # each once, though it is looked at twice
