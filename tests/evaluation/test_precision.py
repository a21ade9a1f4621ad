"""A number is computed in float32 unless another type is asked for, whatever the files hold, and says in which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_difflm.errors import UserError
from hf_difflm.evaluation.quality.reference_model import load_reference
from hf_difflm.evaluation.report import evaluate_target
from hf_difflm.evaluation.targets import load_target

pytestmark = pytest.mark.borders


@pytest.fixture
def folders(tmp_path: Path, tiny_denoiser: Any, tiny_causal: Any, tokenizer: Any) -> Any:
    """``folders(kind)``: a folder whose files are in bfloat16, and one with the same weights in float32."""

    def make(kind: str) -> tuple[str, str]:
        model = (tiny_denoiser if kind == "denoiser" else tiny_causal)(seed=7).to(torch.bfloat16)
        for name, dtype in (("half", torch.bfloat16), ("whole", torch.float32)):
            model.to(dtype).save_pretrained(tmp_path / name)
            tokenizer.save_pretrained(tmp_path / name)
        return str(tmp_path / "half"), str(tmp_path / "whole")

    return make


@pytest.fixture
def evaluate(tmp_path: Path, capsys: Any) -> Any:
    text = tmp_path / "text.txt"
    text.write_text("It is a truth universally acknowledged, that " * 20)

    def call(folder: str, as_json: bool = True, **changes: Any) -> Any:
        settings = {"dataset": str(text), "block_size": 33, "use_cpu": True, "eval_replicates": 2, **changes}
        evaluate_target(folder, settings, as_json=as_json)
        out = capsys.readouterr().out
        return json.loads(out[out.index("{\n") :]) if as_json else out  # DeepSpeed prints when it is imported

    return call


@pytest.mark.parametrize("kind", ["denoiser", "causal"])
def test_files_in_bfloat16_are_evaluated_in_float32(folders, evaluate, kind):
    half, whole = folders(kind)
    found, expected = evaluate(half), evaluate(whole)
    assert found["eval_nll"] == expected["eval_nll"]
    assert found["dtype"] == expected["dtype"] == "float32"
    for how in ({"dtype": "bfloat16"}, {"bf16": True}):
        other = evaluate(half, **how)
        assert other["dtype"] == "bfloat16"
        assert other["eval_nll"] != expected["eval_nll"]
    assert ["dtype", "float32"] in [line.replace("│", " ").split() for line in evaluate(half, False).splitlines()]


def test_two_types_are_refused(folders, evaluate):
    half, _ = folders("causal")
    with pytest.raises(UserError, match="--bf16 computes in bfloat16 with weights in float32, but --dtype is float16"):
        evaluate(half, dtype="float16", bf16=True)


def test_a_reference_and_the_harness_are_in_float32_too(folders):
    half, _ = folders("causal")
    assert load_reference(half).model.dtype == torch.float32
    assert load_target(half, use_cpu=True).model.dtype == torch.bfloat16  # texts are drawn from what is stored
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (pip install lm_eval)")
    from hf_difflm.evaluation.harness.lm_eval_model import HarnessModel

    for given, said in (({}, "float32"), ({"dtype": "bfloat16"}, "bfloat16"), ({"bf16": True}, "bfloat16")):
        model = HarnessModel(half, device="cpu", **given)
        assert model.get_model_info()["model_dtype"] == said
        assert model.target.model.dtype == (torch.float32 if "dtype" not in given else torch.bfloat16)
    with pytest.raises(UserError, match="dtype must be one of float32, bfloat16, float16, got half"):
        HarnessModel(half, device="cpu", dtype="half")


def test_tasks_say_it_in_json_and_in_a_line(folders, tmp_path, capsys):
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (pip install lm_eval)")
    from hf_difflm.evaluation.harness.options import HarnessOptions
    from hf_difflm.evaluation.harness.tasks import evaluate_tasks

    half, whole = folders("causal")
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"text": f"{i} times"}) + "\n" for i in range(3)))
    (tmp_path / "mine.yaml").write_text(
        "task: mine\noutput_type: loglikelihood_rolling\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'data.jsonl'}}}}}\ntest_split: test\n"
        "doc_to_text: ''\ndoc_to_target: '{{text}}'\nmetric_list: [{metric: bits_per_byte}]\n"
    )
    options = HarnessOptions(tasks=["mine"], include_path=str(tmp_path), bootstrap_iters=0)
    found = []
    for folder in (half, whole):
        evaluate_tasks(folder, options, {"use_cpu": True}, as_json=True)
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["results"]["mine"] == found[1]["results"]["mine"]
    assert found[0]["config"]["dtype"] == "float32"
    evaluate_tasks(half, options, {"use_cpu": True, "dtype": "bfloat16"}, as_json=False)
    assert "computed in bfloat16" in capsys.readouterr().out
