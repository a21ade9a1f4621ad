"""What evaluations of block diffusion take above the model at a large vocabulary, in a process of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

MOST = 2048
"""MB."""
SCRIPT = """
import resource, sys
import torch
from transformers import LlamaConfig
from hf_difflm.data import load_tokenizer
from hf_difflm.evaluation.likelihood.continuations import Request, Scorer
from hf_difflm.evaluation.likelihood.evaluate import evaluate_likelihood
from hf_difflm.evaluation.likelihood.exact import ExactScorer
from hf_difflm.evaluation.likelihood.exact_options import ExactOptions, read_orders
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.objectives import BlockDiffusionObjective

what, size, rows, length, vocabulary = sys.argv[1], int(sys.argv[2]), 32, 1024, 50_258
torch.set_num_threads(1)
sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
backbone = LlamaConfig(vocab_size=vocabulary, max_position_embeddings=length, **sizes)
model = MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone, diffusion_block_size=size)).eval()
ids = torch.randint(0, vocabulary - 1, (rows, length), generator=torch.Generator().manual_seed(0))
labels = ids.clone()
labels[:, : {"nll": 1, "exact": length - 300, "continuation": 0}[what]] = -100
batch = {"input_ids": ids, "labels": labels, "index": torch.arange(rows)}
tokenizer = load_tokenizer("bytes")
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
if what == "nll":
    objective = BlockDiffusionObjective(vocabulary - 1, size)
    evaluate_likelihood(model, objective, [batch], rows, replicates=1, data_unit="blocks")
elif what == "exact":
    (order,) = read_orders(ExactOptions("confidence", "150"))
    ExactScorer(model, order, "blocks")([batch])
else:
    scorer = Scorer(model, tokenizer, is_denoiser=True)
    scorer.log_likelihoods([Request(tuple(ids[0, :500].tolist()), tuple(ids[0, 500:].tolist()))])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("what", "size"), [("nll", 16), ("exact", 512), ("continuation", 512)])
def test_an_evaluation_takes_two_gigabytes_at_most(what, size):
    """At once, the logits of a batch would be 3.3 GB for a draw, and 1.9 GB for a step of an order that looks at all."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, what, str(size)], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 50 < float(done.stdout) < MOST
