"""An embedded set of short conversations, in which what was said before matters: names, things, colours, sums."""

from __future__ import annotations

import json

import numpy as np
from datasets import Dataset, DatasetDict

_SPLIT_SIZES = {"train": 6000, "validation": 250, "test": 250}
_SEED = 11
_NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gil", "Hana", "Ian", "Jo", "Kai", "Lea"]
_NAMES += ["Max", "Nia", "Otto", "Pia", "Ray", "Sol", "Tim", "Uma", "Vera", "Wim", "Yara", "Zoe"]
_COLOURS = ("red", "blue", "green", "black", "white", "grey", "pink")
_THINGS = ("cat", "dog", "hat", "car", "cup", "bag", "book", "bird")

Turn = tuple[str, str]


def small_talk() -> DatasetDict:
    """Return the splits (column ``text``: the JSON of a conversation of one to three turns), no conversation twice."""
    random = np.random.Generator(np.random.Philox(_SEED))
    found: dict[str, None] = {}
    while len(found) < sum(_SPLIT_SIZES.values()):
        found[_conversation(random)] = None
    texts, splits, start = list(found), {}, 0
    for split, size in _SPLIT_SIZES.items():
        splits[split] = Dataset.from_dict({"text": texts[start : start + size]})
        start += size
    return DatasetDict(splits)


def _conversation(random: np.random.Generator) -> str:
    """Facts and sums, then perhaps a question about a fact: the last answer may need any turn before it."""
    name, colour, thing = (words[random.integers(len(words))] for words in (_NAMES, _COLOURS, _THINGS))
    turns: list[Turn] = []
    asked: list[Turn] = []
    for kind in random.permutation(["name", "thing", "sum", "hello"])[: random.integers(1, 3)]:
        if kind == "name":
            turns.append((f"I am {name}.", f"Hello {name}!"))
            asked.append(("Who am I?", f"You are {name}."))
        elif kind == "thing":
            turns.append((f"I have a {colour} {thing}.", f"A nice {thing}!"))
            asked += [("What colour?", f"{colour.capitalize()}."), ("What do I have?", f"A {colour} {thing}.")]
        elif kind == "sum":
            first, second = random.integers(0, 10, 2)
            turns.append((f"{first} + {second}?", f"{first + second}"))
        else:
            turns.append(("Hello!", "Hello you!"))
    if asked and random.random() < 0.6:
        turns.append(asked[random.integers(len(asked))])
    roles = ("user", "assistant")
    said = [{"role": role, "content": text} for turn in turns for role, text in zip(roles, turn, strict=True)]
    return json.dumps({"messages": said})
