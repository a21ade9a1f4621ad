"""The LM head and the loss alone, forward and backward, half of the positions labelled: the mean of masked diffusion.

Four forms of one number take turns on the same hidden states: SUBS by edits of the full tensor of logits, as the original
MDLM writes it; the head at every position; at labelled positions, all at once; the same in chunks, gradients made in the
forward pass.
Claims: labelled positions at least 2.9 times as fast as SUBS at 50,258 tokens; at 258, not slower than the full head.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from _alternate import alternate, milliseconds, ratio, write
from _claims import Claim

from hf_difflm import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.masked_diffusion.labelled_head import automatic_chunk_rows

CLAIM_SUBS, CLAIM_FULL = 2.9, 1.0
_TOLERANCE = 1e-5


def measure(vocab_size: int, rows: int, length: int, width: int, pairs: int, chunk: int) -> dict:
    """Time all forms at one size, chunks of at most so many positions, and compare loss and gradients."""
    torch.manual_seed(0)
    backbone = {
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": width,
        "num_hidden_layers": 0,  # the head alone: what comes before it is the same for all
        "num_attention_heads": 4,
        "intermediate_size": width,
        "max_position_embeddings": length,
    }
    mask = vocab_size - 1
    model = MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone, mask_token_id=mask))
    hidden_BLD = torch.randn(rows, length, width, requires_grad=True)
    ids_BL = torch.randint(mask, (rows, length))
    masked_BL = torch.rand(rows, length).argsort(-1) < length // 2
    input_BL = ids_BL.masked_fill(masked_BL, mask)
    labels_BL = ids_BL.masked_fill(~masked_BL, -100)
    weights_BL = torch.rand(rows, 1).expand(rows, length)
    tokens_V = torch.arange(vocab_size)
    positions_N = torch.nonzero(masked_BL.flatten()).squeeze(-1)

    def subs() -> torch.Tensor:
        logits_BLV = F.linear(hidden_BLD, model.lm_head.weight)
        logits_BLV[:, :, mask] += -1e6
        logits_BLV = logits_BLV - torch.logsumexp(logits_BLV, dim=-1, keepdim=True)
        # Assignments through an index, as in the original, take half as long again on a CPU.
        revealed_BL1 = (input_BL != mask).unsqueeze(-1)
        logits_BLV = torch.where(revealed_BL1, -1e6, logits_BLV)
        logits_BLV = torch.where(revealed_BL1 & (input_BL.unsqueeze(-1) == tokens_V), 0.0, logits_BLV)
        log_p_BL = logits_BLV.gather(-1, ids_BL.unsqueeze(-1)).squeeze(-1)
        return -(log_p_BL * weights_BL).sum()

    def full() -> torch.Tensor:
        logits_MV = model._head(hidden_BLD.flatten(0, 1))
        nll_M = F.cross_entropy(logits_MV, labels_BL.flatten(), ignore_index=-100, reduction="none")
        return (nll_M * weights_BL.flatten()).sum()

    def labelled(head_chunk_rows: int) -> torch.Tensor:
        model.head_chunk_rows = head_chunk_rows
        hidden_ND = hidden_BLD.flatten(0, 1)[positions_N]
        labels_N, weights_N = labels_BL.flatten()[positions_N], weights_BL.flatten()[positions_N]
        return model._cross_entropy(hidden_ND, labels_N, weights_N, output_correct=False)[0]

    forms = {"subs": subs, "full": full, "labelled": lambda: labelled(0), "chunked": lambda: labelled(chunk)}
    results: dict[str, tuple[float, float, float]] = {}

    def side(name: str) -> None:
        hidden_BLD.grad = model.lm_head.weight.grad = None
        loss = forms[name]()
        loss.backward()
        if name not in results:  # in the rounds that warm up
            gradients = (hidden_BLD.grad, model.lm_head.weight.grad)
            results[name] = (loss.item(), *(gradient.double().norm().item() for gradient in gradients))

    seconds = alternate({name: lambda name=name: side(name) for name in forms}, pairs)
    for name, values in results.items():
        if any(abs(a - b) > _TOLERANCE * abs(b) for a, b in zip(values, results["full"], strict=True)):
            raise SystemExit(f"loss or gradients of {name} are not those of the full head: {results}")
    return {
        "vocabulary": vocab_size,
        "shape": [rows, length, width],
        "labelled": len(positions_N),
        "chunk_rows": chunk,
        "median_ms": milliseconds(seconds),
        "subs_over_labelled": round(ratio(seconds, "subs", "labelled"), 3),
        "subs_over_chunked": round(ratio(seconds, "subs", "chunked"), 3),
        "full_over_labelled": round(ratio(seconds, "full", "labelled"), 3),
        "full_over_chunked": round(ratio(seconds, "full", "chunked"), 3),
        "seconds": {name: [round(value, 5) for value in values] for name, values in seconds.items()},
        "pairs": pairs,
        "loss": results["labelled"][0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7, help="turns of each side; five times as many at 258 tokens")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, to try this out; nothing is written")
    given = parser.parse_args()
    if given.toy:
        print(measure(50, 2, 16, 8, given.pairs, 5))
        return
    large = measure(50_258, 8, 256, 256, given.pairs, automatic_chunk_rows(50_258, "cpu"))
    small = measure(258, 16, 256, 256, 5 * given.pairs, 512)
    claims = [
        # What the model does by itself: chunks at 50,258 tokens, all at once at 258.
        Claim(
            what="LM head and loss at labelled positions against SUBS by edits of all logits (vocabulary 50,258)",
            sides={name: large["median_ms"][name] for name in ("subs", "labelled", "chunked")},
            unit="ms",
            measure="time, subs / chunked",
            value=large["subs_over_chunked"],
            asked=f">= {CLAIM_SUBS}",
        ),
        Claim(
            what="LM head and loss at labelled positions, not in chunks, against the same (vocabulary 50,258)",
            sides={name: large["median_ms"][name] for name in ("subs", "labelled")},
            unit="ms",
            measure="time, subs / labelled",
            value=large["subs_over_labelled"],
            asked=f">= {CLAIM_SUBS}",
        ),
        Claim(
            what="LM head and loss at labelled positions against the full head (vocabulary 258)",
            sides={name: small["median_ms"][name] for name in ("full", "labelled")},
            unit="ms",
            measure="time, full / labelled",
            value=small["full_over_labelled"],
            asked=f">= {CLAIM_FULL}",
        ),
    ]
    write("lm_head", {"runs": [large, small]}, claims)


if __name__ == "__main__":
    main()
