"""A released model in several files is converted file by file, in the memory of none of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_difflm.errors import UserError
from hf_difflm.hub.conversion.any_model import convert

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests" / "fixtures" / "released"


def in_shards(name: str, folder: Path, number: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    """A fixture in several files, each weight in another than its neighbour."""
    folder.mkdir()
    (folder / "config.json").write_text((FIXTURES / name / "config.json").read_text())
    weights = {key: value.to(dtype) for key, value in load_file(FIXTURES / name / "model.safetensors").items()}
    places = {key: f"model-{i % number + 1:05d}-of-{number:05d}.safetensors" for i, key in enumerate(sorted(weights))}
    for file in set(places.values()):
        save_file({key: value for key, value in weights.items() if places[key] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return weights


@pytest.mark.parametrize("name", ["llada", "llada-moe"])
def test_shards_give_the_weights_of_one_file(name, tmp_path):
    """Of a mixture of experts the parts of one tensor of ours come from several files."""
    said = {"no_tokenizer": True} | ({"mask_token_id": 63} if name == "llada-moe" else {})
    weights = in_shards(name, tmp_path / "shards", 3)
    convert(str(tmp_path / "shards"), tmp_path / "made", **said)
    convert(str(FIXTURES / name), tmp_path / "whole", **said)
    index = json.loads((tmp_path / "made" / "model.safetensors.index.json").read_text())
    found = {key: load_file(tmp_path / "made" / file)[key] for key, file in index["weight_map"].items()}
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[key], whole[key].bfloat16()) for key in whole)
    assert index["metadata"]["total_size"] == 2 * sum(value.numel() for value in weights.values())
    assert len(set(index["weight_map"].values())) > 1


def test_a_weight_in_two_files_and_a_damaged_file_are_sentences(tmp_path):
    in_shards("llada", tmp_path / "shards", 2)
    place = tmp_path / "shards" / "model-00002-of-00002.safetensors"
    save_file(load_file(place) | {"model.transformer.wte.weight": torch.ones(2)}, place)
    save_file(load_file(place.with_name("model-00001-of-00002.safetensors")) | load_file(place), place)
    with pytest.raises(UserError, match="in two files"):
        convert(str(tmp_path / "shards"), tmp_path / "made", no_tokenizer=True)
    place.write_bytes(place.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors of .* cannot be read"):
        convert(str(tmp_path / "shards"), tmp_path / "made", no_tokenizer=True)
    assert not (tmp_path / "made").exists()


MEASURED = """
import json, sys
from pathlib import Path
from hf_difflm.hub.conversion.any_model import convert

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

small, large, place = sys.argv[1:]
convert(small, Path(place) / "small", no_tokenizer=True)  # what is imported and measured once
before = peak()
convert(large, Path(place) / "large", no_tokenizer=True)
print(json.dumps(peak() - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of a process as Linux tells it")
def test_the_peak_of_memory_stays_within_the_largest_file(tmp_path):
    rows, width = 65536, 512
    in_shards("llada", tmp_path / "small", 3)
    folder = tmp_path / "large"
    folder.mkdir()
    config = json.loads((FIXTURES / "llada" / "config.json").read_text())
    config |= {
        "d_model": width,
        "n_heads": 8,
        "n_kv_heads": 8,
        "n_layers": 1,
        "mlp_hidden_size": 32,
        "embedding_size": rows,
    }
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": rows}))
    at = "model.transformer.blocks.0."
    shapes = {f"{at}{part}.weight": (width, width) for part in ("q_proj", "k_proj", "v_proj", "attn_out")}
    shapes |= {f"{at}{part}.weight": (32, width) for part in ("ff_proj", "up_proj")} | {
        f"{at}ff_out.weight": (width, 32)
    }
    shapes |= {
        name: (width,) for name in (f"{at}attn_norm.weight", f"{at}ff_norm.weight", "model.transformer.ln_f.weight")
    }
    files = [shapes, *({f"model.transformer.{name}.weight": (rows, width)} for name in ("wte", "ff_out"))]
    places = {}
    for number, some in enumerate(files):
        name = f"model-{number + 1:05d}-of-00003.safetensors"
        save_file(
            {key: torch.full(shape, number + 1, dtype=torch.bfloat16) for key, shape in some.items()}, folder / name
        )
        places |= dict.fromkeys(some, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    largest = max(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert largest > 64e6
    (tmp_path / "place").mkdir()
    command = [sys.executable, "-c", MEASURED, *(str(tmp_path / name) for name in ("small", "large", "place"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown = json.loads(done.stdout.splitlines()[-1])
    assert grown < 1.3 * largest
    assert grown < 32e6  # bytes are copied some at a time
    made = tmp_path / "place" / "large"
    index = json.loads((made / "model.safetensors.index.json").read_text())["weight_map"]
    head = load_file(made / index["lm_head.weight"])["lm_head.weight"]
    assert (head.shape, head.dtype, float(head.min()), float(head.max())) == ((rows, width), torch.bfloat16, 3.0, 3.0)
