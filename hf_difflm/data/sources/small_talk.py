"""An embedded set of short conversations in which what was said before matters: who one is, what one has."""

from __future__ import annotations

import json

import numpy as np
from datasets import Dataset, DatasetDict

_SIZES = {"train": 0.9, "validation": 0.05, "test": 0.05}
_SEED = 11
_NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gil", "Hana", "Ian", "Jo", "Kai", "Lea"]
_COLOURS = ["red", "blue", "green", "black", "white", "pink"]
_THINGS = ["cat", "dog", "hat", "car", "bag", "fox"]

Turn = tuple[str, str]


def small_talk() -> DatasetDict:
    """Return the splits (column ``text``: the JSON of a conversation of one to three turns), no conversation twice."""
    found = _conversations()
    order = np.random.Generator(np.random.Philox(_SEED)).permutation(len(found))
    splits, start = {}, 0
    for split, share in _SIZES.items():
        end = start + round(share * len(found))
        splits[split] = Dataset.from_dict({"text": [found[number] for number in order[start:end]]})
        start = end
    return DatasetDict(splits)


def _conversations() -> list[str]:
    """Every one: a greeting, a name, a thing, or name and thing in either order, then nothing or a question about them."""
    greeting = ("Hello!", "Hello you!")
    found = [[greeting]]
    for name in _NAMES:
        says, asks = (f"I am {name}.", f"Hello {name}!"), ("Who am I?", f"You are {name}.")
        found += [[says], [greeting, says], [says, asks], [greeting, says, asks]]
        for colour in _COLOURS:
            for thing in _THINGS:
                has = (f"I have a {colour} {thing}.", "Nice!")
                about = [("What colour?", f"It is {colour}."), ("What have I?", f"A {colour} {thing}.")]
                for first, second in ((says, has), (has, says)):
                    found += [[first, second], *([first, second, question] for question in (asks, *about))]
    for colour in _COLOURS:
        for thing in _THINGS:
            has = (f"I have a {colour} {thing}.", "Nice!")
            about = [("What colour?", f"It is {colour}."), ("What have I?", f"A {colour} {thing}.")]
            found += [[has], [greeting, has], *([has, question] for question in about)]
    return [_as_json(turns) for turns in found]


def _as_json(turns: list[Turn]) -> str:
    roles = ("user", "assistant")
    return json.dumps(
        {
            "messages": [
                {"role": role, "content": text} for turn in turns for role, text in zip(roles, turn, strict=True)
            ]
        }
    )
