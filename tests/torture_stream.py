"""Read a stream of any size and watch the memory; by hand: ``python tests/torture_stream.py --gigabytes 5``.

Prints, as JSON, what was read and how much resident memory grew between a quarter of the text and its end. The text is
made on the fly in a temporary folder and deleted afterwards.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from hf_difflm.data import DataOptions, load_tokenizer, prepare_data

_BLOCK, _WINDOW = 1024, 512
_WORDS = 5000


def write_corpus(path: Path, num_bytes: int) -> None:
    """Documents of 200 to 2,000 random words, as .jsonl or, by the suffix, as one .txt."""
    generator = np.random.default_rng(0)
    letters = np.array([*"abcdefghijklmnopqrstuvwxyz"])
    words = np.array(["".join(generator.choice(letters, size)) for size in generator.integers(2, 10, _WORDS)])
    written = number = 0
    with path.open("w", encoding="utf-8") as file:
        while written < num_bytes:
            text = f"{number} " + " ".join(words[generator.integers(0, _WORDS, generator.integers(200, 2000))])
            written += file.write((json.dumps({"text": text}) if path.suffix == ".jsonl" else text) + "\n")
            number += 1


def resident_mb() -> float:
    """Resident memory of this process now, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024 / 1e6


def read(path: Path, tokenizer_name: str) -> dict[str, float]:
    """Read ``path`` once as a stream and return what there is to say."""
    datasets.disable_progress_bars()
    options = DataOptions(
        dataset=str(path), streaming=True, block_size=_BLOCK, shuffle_window=_WINDOW, max_eval_blocks=64
    )
    train = prepare_data(options, load_tokenizer(tokenizer_name)).train
    size, at = path.stat().st_size, []
    gc.freeze()  # each collection need not walk what was imported
    start, index = time.perf_counter(), 0
    while True:
        for index in range(index, index + _WINDOW):  # noqa: B020 - from window to window
            train[index]
        index += 1
        state = train.position(index)["state"]
        if state["passes"]:
            break
        gc.collect()
        at.append((state["position"]["offset"], resident_mb()))
    quarter = next(memory for offset, memory in at if offset >= size / 4)
    seconds = time.perf_counter() - start
    return {
        "megabytes": size / 1e6,
        "blocks": index,
        "tokens_per_sec": index * _BLOCK / seconds,
        "resident_mb_at_a_quarter": quarter,
        "resident_mb_most_after": max(memory for offset, memory in at if offset >= size / 4),
        "grew_mb": max(memory for offset, memory in at if offset >= size / 4) - quarter,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=0.2)
    parser.add_argument("--suffix", choices=(".jsonl", ".txt"), default=".jsonl")
    parser.add_argument("--tokenizer", default="bytes")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="torture-stream-"))
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    try:
        path = folder / f"corpus{given.suffix}"
        write_corpus(path, int(given.gigabytes * 1e9))
        print(json.dumps({name: round(value, 1) for name, value in read(path, given.tokenizer).items()}, indent=2))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
