"""Tiny things that several packages' tests share: exact denoisers for small joint distributions, tiny networks, rows."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, TrainerCallback

from hf_difflm.data import load_tokenizer
from hf_difflm.evaluation.audit.tabular import TabularDenoisers, exact_conditionals
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.masked_diffusion.modeling_masked_diffusion import MaskedDiffusionOutput

if TYPE_CHECKING:
    from hf_difflm.training import DiffusionTrainer

hypothesis.settings.register_profile("patient", deadline=None)  # how long an example takes depends on the machine
hypothesis.settings.load_profile("patient")
gc.disable()  # until all tests are collected: nothing of that is garbage
torch.set_num_threads(1)  # sums in one order, and tests that run side by side do not fight for cores

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that no worker is left with one of them at the end."""
    weights: Counter[Path] = Counter()
    for item in items:
        weights[item.path] += 1 if item.get_closest_marker("slow") is None else 50
    items.sort(key=lambda item: -weights[item.path])


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _collect_what_tests_make() -> None:
    """Every training ends with ``gc.collect()``, which need not walk the modules and test items that stay anyway.

    What the tests before have left is collected first: it takes milliseconds, for it walks no more than they made.
    """
    gc.collect()
    gc.freeze()


class TabularDenoiser(TabularDenoisers):
    """One table, which counts its calls.

    Args:
        probabilities: (V + 1, ..., V + 1, L, V): for each partly masked sequence (V is the mask), p(x_i | sequence).
    """

    def __init__(self, probabilities: np.ndarray) -> None:
        length, vocabulary = probabilities.shape[-2:]
        # float64 all the way: the tests compare to 1e-6 and better.
        table = torch.from_numpy(probabilities).log()
        super().__init__(table.reshape(1, 1, (vocabulary + 1) ** length, length, vocabulary))
        self.calls = 0

    @property
    def scores(self) -> torch.Tensor:
        """(V + 1, ..., V + 1, L, V) log-probabilities, those of the parameter."""
        shape = (self.vocabulary + 1,) * self.length + (self.length, self.vocabulary)
        return self.logits_DTZLV.view(shape)

    def forward(self, *args: Any, **kwargs: Any) -> MaskedDiffusionOutput:
        self.calls += 1
        output = super().forward(*args, **kwargs)
        if output.token_nll is not None:
            output.token_nll = output.token_nll.detach()
        return output


@pytest.fixture
def small_joint() -> Callable[[int, int, int], np.ndarray]:
    """``small_joint(length, vocabulary, seed)``: a joint distribution (V,) * L with strong dependence."""

    def make(length: int, vocabulary: int, seed: int) -> np.ndarray:
        joint = np.random.default_rng(seed).standard_gamma(0.5, (vocabulary,) * length) + 1e-3
        return joint / joint.sum()

    return make


@pytest.fixture
def exact_denoiser() -> Callable[[np.ndarray], TabularDenoiser]:
    """``exact_denoiser(joint)``: the denoiser that cannot be beaten on that distribution."""
    return lambda joint: TabularDenoiser(exact_conditionals(joint))


@pytest.fixture
def random_denoiser() -> Callable[[int, int, int], TabularDenoiser]:
    """``random_denoiser(length, vocabulary, seed)``: a denoiser that fits no distribution, as an untrained network."""

    def make(length: int, vocabulary: int, seed: int) -> TabularDenoiser:
        shape = (vocabulary + 1,) * length + (length,)
        return TabularDenoiser(np.random.default_rng(seed).dirichlet(np.ones(vocabulary), shape))

    return make


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer("bytes")


@pytest.fixture
def tiny_denoiser() -> Callable[..., MaskedDiffusionForMaskedLM]:
    """``tiny_denoiser(vocab_size=260, seed=0, **config)``: a Llama denoiser; the mask is the last token."""

    def make(vocab_size: int = 260, seed: int = 0, **config: Any) -> MaskedDiffusionForMaskedLM:
        torch.manual_seed(seed)
        backbone = LlamaConfig(vocab_size=vocab_size, max_position_embeddings=64, initializer_range=0.2, **TINY)
        return MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone, **config))

    return make


@pytest.fixture
def tiny_causal() -> Callable[..., LlamaForCausalLM]:
    """``tiny_causal(vocab_size=260, seed=0)``: the stock causal LM of the same size."""

    def make(vocab_size: int = 260, seed: int = 0) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        sizes = {"vocab_size": vocab_size, "max_position_embeddings": 64, "tie_word_embeddings": True, **TINY}
        return LlamaForCausalLM(LlamaConfig(initializer_range=0.2, **sizes))

    return make


@pytest.fixture
def train_rows() -> Callable[..., list[dict[str, Any]]]:
    """``train_rows(count, length=12, ragged=False, prompts=False, seed=0)``: rows of bytes after a BOS (256)."""

    def make(
        count: int, length: int = 12, ragged: bool = False, prompts: bool = False, seed: int = 0
    ) -> list[dict[str, Any]]:
        generator = np.random.default_rng(seed)
        rows: list[dict[str, Any]] = []
        for _ in range(count):
            size = int(generator.integers(3, length + 1)) if ragged else length
            ids = [256, *(97 + generator.integers(0, 6, size - 1)).tolist()]
            row: dict[str, Any] = {"input_ids": ids}
            if prompts:
                context = int(generator.integers(1, size))
                row["labels"] = [-100] * context + ids[context:]
            rows.append(row)
        return rows

    return make


@pytest.fixture
def make_diffusion_trainer(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, tiny_denoiser: Any, tiny_causal: Any, train_rows: Any
) -> Callable[..., DiffusionTrainer]:
    """``make_diffusion_trainer(*callbacks, model=, train=, evaluation=, **arguments)``: a Trainer that takes 6 steps."""
    # The Trainer takes seconds to import, which most tests have no use for.
    from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments

    def make(
        *callbacks: TrainerCallback,
        model: Any = None,
        train: Any = None,
        evaluation: Any = None,
        **arguments: Any,
    ) -> DiffusionTrainer:
        defaults: dict[str, Any] = {
            "output_dir": str(tmp_path / "run"),
            "per_device_train_batch_size": 4,
            "max_steps": 6,
            "learning_rate": 1e-2,
            "warmup_steps": 0,
            "logging_steps": 2,
            "eval_strategy": "no",
            "eval_replicates": 2,
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
        }
        settings = defaults | arguments
        if model is None:
            model = tiny_causal() if settings.get("objective") == "ar" else tiny_denoiser()
        return DiffusionTrainer(
            model,
            DiffusionTrainingArguments(**settings),
            train_rows(24) if train is None else train,
            evaluation,
            tokenizer,
            callbacks=list(callbacks),
        )

    return make
