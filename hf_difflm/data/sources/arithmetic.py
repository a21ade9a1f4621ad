"""An embedded set of conversations with right and wrong answers: sums of two numbers below 100."""

from __future__ import annotations

import json

import numpy as np
from datasets import Dataset, DatasetDict

_SPLIT_SIZES = {"train": 9000, "validation": 500, "test": 500}  # of the 10,000 pairs; none is in two splits
_SEED = 7


def sums_conversations() -> DatasetDict:
    """Return the splits (column ``text``: the JSON of a conversation), each pair of numbers in one of them."""
    pairs = np.random.Generator(np.random.Philox(_SEED)).permutation(100 * 100)
    splits, start = {}, 0
    for split, size in _SPLIT_SIZES.items():
        texts = [_conversation(*divmod(int(pair), 100)) for pair in pairs[start : start + size]]
        splits[split] = Dataset.from_dict({"text": texts})
        start += size
    return DatasetDict(splits)


def _conversation(first: int, second: int) -> str:
    question = {"role": "user", "content": f"{first} + {second}?"}
    return json.dumps({"messages": [question, {"role": "assistant", "content": str(first + second)}]})
