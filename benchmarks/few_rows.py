"""The LM head of few rows on a CPU, as samplers ask for it: ``F.linear`` against ``weight @ hidden.T``, in turn.

Claims, at a vocabulary of 50,258 and a width of 256, with as many threads as torch has: at 2, 4 and 6 rows at least as fast.
``OMP_NUM_THREADS`` says how many.
"""

from __future__ import annotations

import argparse
import json

import torch
import torch.nn.functional as F
from _alternate import alternate, milliseconds, ratio, write
from _claims import Claim

from hf_difflm.models.masked_diffusion.labelled_head import product_of_few_rows

ROWS = (1, 2, 4, 6, 8, 12, 16)
SIZES = [(50_258, 256), (50_258, 768), (16_384, 256)]
CLAIMED = (2, 4, 6)


@torch.no_grad()
def measure(vocabulary: int, width: int, rows: int, pairs: int) -> dict:
    """Time both sides at one size."""
    torch.manual_seed(0)
    hidden_ND, weight_VD = torch.randn(rows, width), torch.randn(vocabulary, width)
    seconds = alternate(
        {
            "linear": lambda: F.linear(hidden_ND, weight_VD),
            "turned": lambda: (weight_VD @ hidden_ND.T).T.contiguous(),
        },
        pairs,
        warmup=2,
    )
    return {
        "vocab_size": vocabulary,
        "width": width,
        "rows": rows,
        "median_ms": milliseconds(seconds),
        "speedup": round(ratio(seconds, "linear", "turned"), 3),
        "is_turned": product_of_few_rows(hidden_ND, weight_VD) is not None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=21)
    parser.add_argument("--toy", action="store_true", help="small sizes that prove nothing, printed and not kept")
    given = parser.parse_args()
    sizes = [(400, 32)] if given.toy else SIZES
    result = {
        "threads": torch.get_num_threads(),
        "runs": [measure(*size, rows, 2 if given.toy else given.pairs) for size in sizes for rows in ROWS],
    }
    if given.toy:
        print(json.dumps(result, indent=2))
        return
    claims = [
        Claim(
            what=f"LM head of {run['rows']} rows, vocabulary {run['vocab_size']:,}, width {run['width']}, no gradient",
            sides=run["median_ms"],
            unit="ms",
            measure="linear / turned",
            value=run["speedup"],
            asked=">= 1",
        )
        for run in result["runs"]
        if run["rows"] in CLAIMED and (run["vocab_size"], run["width"]) == SIZES[0]
    ]
    write("few_rows", result, claims)


if __name__ == "__main__":
    main()
