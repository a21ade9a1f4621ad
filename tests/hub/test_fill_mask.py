"""``pipeline("fill-mask")``, the task of the card, on what is pushed, in a process that has not our package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from made_models import make_run, run_elsewhere, tiny
from stock_models import stock_model

from hf_difflm.hub.conversion.any_model import convert
from hf_difflm.hub.folder import write_folder
from hf_difflm.models import MaskedDiffusionForMaskedLM

FILL = """
import json, sys
from transformers import pipeline
fill = pipeline("fill-mask", model=sys.argv[1], trust_remote_code=True)
assert not any(name.split(".")[0] == "hf_difflm" for name in sys.modules), "hf_difflm is not needed"
print(json.dumps([fill(text, top_k=3) for text in json.loads(sys.argv[2])]))
"""


def filled(hub, folder: Path, texts: list[str], home: Path) -> list[list[list[dict[str, object]]]]:
    """For each text and each of its masks the likeliest tokens."""
    hub.put_folder("o/n", folder)
    done = run_elsewhere(hub, FILL, "o/n", json.dumps(texts), home=home)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return [each if isinstance(each[0], list) else [each] for each in found]  # of one mask it is no list of lists


def check(folder: Path, found, ids: list[list[int]]) -> None:
    """Scores are the probabilities that the model itself gives, at each mask."""
    model = MaskedDiffusionForMaskedLM.from_pretrained(folder).eval()
    for row, masks in zip(ids, found, strict=True):
        ids_BL = torch.tensor([row])
        with torch.no_grad():
            probabilities_NV = model(ids_BL).logits[ids_BL == model.config.mask_token_id].softmax(-1)
        assert len(masks) == len(probabilities_NV)
        for predicted, probability_V in zip(masks, probabilities_NV, strict=True):
            scores, tokens = probability_V.topk(3)
            assert [each["token"] for each in predicted] == tokens.tolist()
            assert [each["score"] for each in predicted] == pytest.approx(scores.tolist(), rel=1e-4)


@pytest.mark.parametrize("splits", [False, True], ids=["now", "of earlier versions"])
def test_the_built_in_tokenizer_has_the_mask_as_one_token(splits, loopback_hub, tmp_path, tokenizer):
    run = make_run(tmp_path / "run", tiny(1), tokenizer)
    saved = run / "best" / "tokenizer_config.json"
    saved.write_text(json.dumps(json.loads(saved.read_text()) | ({"split_special_tokens": True} if splits else {})))
    write_folder(run, tmp_path / "out", repo_id="o/n")
    texts = ["a[MASK]c", "[MASK]b[MASK]", "[BOS]ab[MASK]"]
    found = filled(loopback_hub, tmp_path / "out", texts, tmp_path)
    check(run / "best", found, [[97, 259, 99], [259, 98, 259], [256, 97, 98, 259]])


def test_a_converted_model_fills_masks_with_the_tokenizer_of_its_family(loopback_hub, tmp_path):
    made = convert(str(stock_model(tmp_path / "source", "llama")), tmp_path / "made")
    write_folder(made.folder, tmp_path / "out", repo_id="o/n")
    found = filled(loopback_hub, tmp_path / "out", ["a[MASK][MASK]c"], tmp_path)
    check(made.folder, found, [[256, 97, 258, 258, 99]])
