"""The LM head at labelled positions only, against the head at every position: forward and backward, same loss.

Half of the positions are labelled, the mean of masked diffusion. Claim: at least 1.7 times as fast at 50,258 tokens.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from _alternate import alternate, milliseconds, ratio, write

from hf_difflm import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM


def measure(vocab_size: int, rows: int, length: int, width: int, pairs: int) -> dict:
    """Time both heads on the same hidden states."""
    torch.manual_seed(0)
    backbone = {
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": width,
        "num_hidden_layers": 0,  # head alone: what comes before it is the same for both sides
        "num_attention_heads": 4,
        "intermediate_size": width,
        "max_position_embeddings": length,
    }
    model = MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone, mask_token_id=vocab_size - 1))
    ids_BL = torch.randint(vocab_size - 1, (rows, length))
    masked_BL = torch.rand(rows, length) < 0.5
    input_BL = ids_BL.masked_fill(masked_BL, vocab_size - 1)
    labels_BL = ids_BL.masked_fill(~masked_BL, -100)
    weights_B1 = torch.rand(rows, 1)
    losses = {}

    def labelled() -> None:
        model.zero_grad(set_to_none=True)
        loss = model(input_BL, labels=labels_BL, loss_weights=weights_B1).loss
        loss.backward()
        losses["labelled"] = loss.item()

    def full() -> None:
        # The same computation at all positions, as most implementations do it.
        model.zero_grad(set_to_none=True)
        logits_MV = model._head(model.backbone(input_BL).last_hidden_state.flatten(0, 1)).float()
        nll_M = F.cross_entropy(logits_MV, labels_BL.flatten(), ignore_index=-100, reduction="none")
        loss = (nll_M.view(rows, length) * weights_B1).sum()
        loss.backward()
        losses["full"] = loss.item()

    seconds = alternate({"full": full, "labelled": labelled}, pairs)
    if abs(losses["full"] - losses["labelled"]) > 1e-4 * abs(losses["full"]):
        raise SystemExit(f"the two heads disagree: {losses}")
    return {
        "vocab_size": vocab_size,
        "shape": [rows, length, width],
        "median_ms": milliseconds(seconds),
        "speedup": round(ratio(seconds, "full", "labelled"), 3),
        "pairs": pairs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    pairs = parser.parse_args().pairs
    small, large = measure(258, 16, 256, 256, 5 * pairs), measure(50_258, 8, 256, 256, pairs)
    write("lm_head", {"claim": "speedup >= 1.7 at 50,258", "holds": large["speedup"] >= 1.7, "runs": [small, large]})


if __name__ == "__main__":
    main()
