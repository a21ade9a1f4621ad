"""Kill real trainings at random moments and resume them: ``python tests/torture_resume.py --kills 100`` (``make torture``).

Each training has settings of its own, drawn at random. It is killed again and again, at moments drawn at random, now and then
its newest checkpoint is damaged besides, until it gets to its end. What it then leaves behind (weights, average, optimiser,
scheduler, generators, state, best weights, evaluations, every row of the log) must be what the same training leaves behind
where nobody disturbs it, bit for bit.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from killable_training import Nursery, differences, outcome

from hf_difflm.runs import load_run
from hf_difflm.runs.journal.checkpoints import checkpoints


def random_settings(generator: random.Random) -> dict[str, Any]:
    """Settings of a training; 8 or 4 steps are an epoch, and no interval need divide another."""
    accumulation = generator.choice((1, 2))
    return {
        "objective": generator.choice(("mdlm", "ar")),
        "max_steps": generator.randint(20, 40),
        "per_device_train_batch_size": 4 // accumulation if generator.random() < 0.5 else 4,
        "gradient_accumulation_steps": accumulation,
        "ema_decay": generator.choice((None, 0.9)),
        "logging_steps": generator.randint(1, 5),
        "eval_steps": generator.randint(2, 9),
        "save_steps": generator.randint(2, 9),
        "save_total_limit": generator.choice((1, 2, None)),
        "noise_sampling": generator.choice(("stratified", "iid")),
        "lr_scheduler_type": generator.choice(("cosine", "linear", "constant_with_warmup")),
        "seed": generator.randint(0, 10**6),
    }


def harm(checkpoint: Path, generator: random.Random) -> str:
    """Damage a checkpoint in one of the ways that disks have; say how."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.stat().st_size)
    path = generator.choice(files)
    content = path.read_bytes()
    how = generator.choice(("truncated", "bit flipped", "missing"))
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[: generator.randrange(len(content))])
    else:
        place = generator.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << generator.randrange(8)]) + content[place + 1 :])
    return f"{path.name} {how}"


def torture(place: Path, kills: int, seed: int = 0) -> collections.Counter[str]:
    """Kill trainings until so many kills have hit; return what was found, counted.

    Raises:
        AssertionError: one of them was not the same in the end.
    """
    generator = random.Random(seed)
    found: collections.Counter[str] = collections.Counter()
    with Nursery() as nursery:
        while found["kills"] < kills:
            found["trainings"] += 1
            settings = random_settings(generator)
            whole, killed = (place / f"{name}{found['trainings']}" for name in ("whole", "killed"))
            nursery.begin(whole, settings=settings)
            began = time.perf_counter()
            code = nursery.end()
            seconds = time.perf_counter() - began
            assert code == 0, (settings, (whole / "output.txt").read_text()[-3000:])
            while True:
                pid = nursery.begin(killed, settings=settings)
                # Later ones are left alone where the kills are used up.
                aim = found["kills"] < kills
                time.sleep(generator.uniform(0.0, seconds / 2) if aim else 0)
                if aim and nursery.running:
                    with contextlib.suppress(ProcessLookupError):  # it has just ended
                        os.kill(pid, signal.SIGKILL)
                code = nursery.end()
                if code == 0:
                    break
                assert code == -signal.SIGKILL, (settings, (killed / "output.txt").read_text()[-3000:])
                found["kills"] += 1
                _look(killed, found, generator)
            differing = differences(outcome(killed), outcome(whole))
            assert differing == [], (settings, differing)
            found["rows and tensors equal"] += len(outcome(whole))
            print(f"{found['kills']} of {kills} kills, {found['trainings']} trainings: equal", file=sys.stderr)
    return found


def _look(folder: Path, found: collections.Counter[str], generator: random.Random) -> None:
    """Count what a kill has left behind, and damage some of it."""
    there = checkpoints(folder)
    if there and not (there[0] / "manifest.json").exists():
        found["half-written checkpoints"] += 1
    if any((folder / name).exists() for name in ("best.tmp", "best.old")):
        found["half-written best weights"] += 1
    if (folder / "journal.jsonl").exists():
        steps = load_run(folder).column("iter").tolist()
        assert steps == list(range(1, len(steps) + 1)), f"a gap or a duplicate: {steps}"
    if there and generator.random() < 0.2:
        found[f"checkpoints with a file {harm(there[0], generator).split(' ', 1)[1]}"] += 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = torture(Path(folder), given.kills, given.seed)
    print("nothing lost, nothing twice, every bit equal: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
