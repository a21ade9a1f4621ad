"""What data a run reads: the one declaration behind the flags, the recipe keys and the Python arguments."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError

LAST, ALL = "last", "all"
TURNS = (LAST, ALL)
"""Which answers of a conversation are trained on."""
CONCAT, DOCUMENTS, BEST_FIT, PAPER = "concat", "documents", "best-fit", "mdlm"
PACKINGS = (CONCAT, DOCUMENTS, BEST_FIT, PAPER)
"""How documents become rows of one length."""
OTHER_PACKINGS = {"training": CONCAT}
APART = (DOCUMENTS, BEST_FIT)
"""Of these the ones whose documents see nothing of each other."""
SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".parquet")
"""Of the files that are read."""
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
"""Of those that may be compressed: ``.txt.gz``, ``.jsonl.zst``, ..."""


def kind_of(path: Path) -> str:
    """The suffix that says what a file holds, compressed or not; of Parquet, which is compressed inside, not."""
    if path.suffix.lower() not in COMPRESSIONS:
        return path.suffix.lower()
    kind = Path(path.stem).suffix.lower()
    return "" if kind == ".parquet" else kind


_SHARE = re.compile(r"\s*(.+?)=(\d*\.?\d+(?:e-?\d+)?)(?:\s+|$)", re.IGNORECASE)
_CYCLE = 1000  # blocks after which a mixture begins again: shares are thousandths


def mixture_of(dataset: str) -> dict[str, int]:
    """Return a mixture such as ``a.jsonl=0.7 b/=0.3``: by name the blocks out of a cycle, with no common divisor.

    Empty where ``dataset`` is one data set. Numbers that do not sum to 1 are weights.

    Raises:
        UserError: a part without a share, a share that is below a thousandth, a data set twice.
    """
    if Path(dataset).expanduser().exists() or not _SHARE.match(dataset):
        return {}
    parts = _SHARE.findall(dataset)
    names = [name for name, _ in parts]
    if _SHARE.sub("", dataset).strip() or len(set(names)) < len(names):
        raise UserError(
            f"dataset must be one data set, or several with a share each such as a.jsonl=0.7 b/=0.3, got {dataset!r}"
        )
    weights = {name: float(weight) for name, weight in parts}
    total = sum(weights.values()) or math.inf
    exact = {name: _CYCLE * weight / total for name, weight in weights.items()}
    blocks = {name: int(share) for name, share in exact.items()}
    if total < math.inf:
        for name in sorted(exact, key=lambda name: blocks[name] - exact[name])[: _CYCLE - sum(blocks.values())]:
            blocks[name] += 1
    for name, count in blocks.items():
        if count == 0:
            raise UserError(
                f"the share of {name} in the mixture {dataset!r} is below a thousandth; raise it or leave it out"
            )
    divisor = math.gcd(*blocks.values())
    return {name: count // divisor for name, count in blocks.items()}


def names_of(dataset: str) -> list[str]:
    """Return the names of the data sets that ``dataset`` stands for: one, or those of a mixture."""
    return list(mixture_of(dataset)) or [dataset]


@dataclass
class DataOptions:
    """Where the text comes from and how it becomes fixed-length blocks."""

    dataset: str = field(
        default="python-docs",
        metadata={
            "help": "python-docs, markov, a Hub data set, a .txt/.jsonl/.json/.csv/.parquet file (all but the last also as "
            ".gz, .bz2, .xz, .zst), a folder of them, a save_to_disk folder, or a folder of `data prepare`; "
            "several with shares of the tokens: a.jsonl=0.7 b/=0.3"
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "configuration of a Hub data set"})
    text_column: str = field(
        default="text", metadata={"help": "column that holds the text, where the data has columns"}
    )
    skip_bad_rows: bool = field(
        default=False,
        metadata={
            "help": "leave out rows that cannot be used, counted and the first few listed, instead of refusing the set"
        },
    )
    train_split: str = field(default="train", metadata={"help": "split to train on; a slice is written train[:80%]"})
    eval_split: str | None = field(
        default=None,
        metadata={"help": "split to evaluate on; default: validation, else test, else documents held out"},
    )
    eval_dataset: str | None = field(default=None, metadata={"help": "evaluate on another data set, file or folder"})
    eval_fraction: float = field(
        default=0.05,
        metadata={
            "help": "share of documents (of a lone document: of its end) held out where there is no evaluation split",
            "above": 0.0,
            "max": 0.5,
        },
    )
    test_fraction: float | None = field(
        default=None,
        metadata={
            "help": "share held out beside it for the test, which the headline is of and which has no say in what best/ is; "
            "default: eval_fraction, at most half of what that leaves; 0: no test",
            "min": 0.0,
            "max": 0.5,
        },
    )
    tokenizer: str = field(
        default="bytes", metadata={"help": "bytes (built in), or a Hugging Face tokenizer: a name, file or folder"}
    )
    block_size: int = field(default=128, metadata={"help": "tokens in a block, its BOS token included", "min": 2})
    packing: str = field(
        default=CONCAT,
        metadata={
            "help": "concat: one stream of documents, EOS between them, cut into blocks; documents: whole documents, as "
            "many as a row takes, which see nothing of each other; best-fit: the same, each in the fullest row that has "
            "room; mdlm: the stream in blocks that end with EOS, as in the MDLM paper",
            "choices": PACKINGS,
            "other_names": OTHER_PACKINGS,
        },
    )
    max_train_blocks: int | None = field(
        default=None, metadata={"help": "use the first so many training blocks", "min": 1}
    )
    max_eval_blocks: int | None = field(
        default=None, metadata={"help": "use the first so many evaluation blocks", "min": 1}
    )
    tokens_per_chunk: int = field(default=4096, metadata={"help": "tokens in a chunk of training data", "min": 1})
    max_chunks: int | None = field(
        default=None, metadata={"help": "train on the first so many chunks of tokens_per_chunk tokens", "min": 1}
    )
    sft: bool = field(
        default=False,
        metadata={
            "help": "fine-tune on conversations (messages, prompt and completion, ShareGPT, alpaca, ... or text with a chat "
            "template's markers): the answers alone are masked and scored"
        },
    )
    sft_fill_eos: bool = field(
        default=False,
        metadata={
            "help": "fill each answer up to block_size with EOS tokens that are scored, so that a masked diffusion model "
            "learns where to end"
        },
    )
    sft_turns: str = field(
        default=LAST,
        metadata={
            "help": "which answers of a conversation are scored: the last, or all of the assistant's turns, each a row with "
            "what comes before it as its context",
            "choices": TURNS,
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "read the training text, or with sft the conversations, while training on it: a Hub data set, .jsonl, "
            ".txt, .parquet files or folders"
        },
    )
    shuffle_window: int = field(
        default=2048, metadata={"help": "blocks of a stream that are shuffled among each other", "min": 1}
    )
    num_preprocessing_workers: int = field(default=1, metadata={"help": "processes that tokenise", "min": 1})

    def __post_init__(self) -> None:
        self.packing = OTHER_PACKINGS.get(self.packing, self.packing)

    @property
    def share_for_test(self) -> float:
        """What ``test_fraction`` comes to."""
        if self.test_fraction is not None:
            return self.test_fraction
        return min(self.eval_fraction, (1 - self.eval_fraction) / 2)

    def most_train_blocks(self) -> int | None:
        """How many blocks ``max_train_blocks`` and ``max_chunks`` leave; None for all."""
        limits = [] if self.max_train_blocks is None else [self.max_train_blocks]
        if self.max_chunks is not None:
            limits.append(max(self.max_chunks * self.tokens_per_chunk // self.block_size, 1))
        return min(limits, default=None)


@dataclass
class TextOptions:
    """What a text begins with, for a model that this library has not trained."""

    add_bos: bool | None = field(
        default=None,
        metadata={
            "help": "begin each text with BOS; default: as the model was trained here, for any other as its tokenizer does"
        },
    )
    bos_token: str | None = field(
        default=None, metadata={"help": "token that texts begin with; default: the tokenizer's BOS"}
    )
