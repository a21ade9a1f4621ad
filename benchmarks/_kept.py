"""A result that is written whenever a row is known, and that a later call of the same benchmark goes on with."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _alternate import RESULTS, about
from _claims import Claim


class Kept:
    """The rows of a benchmark, in a file that is whole at every moment.

    The file of a call that was cut off is gone on with by the next one with the same arguments on the same device: rows that
    are there stay, those that failed are measured again. A finished file is made anew.

    Args:
        name: of the benchmark's file under ``benchmarks/``; without ``--output`` also that of its result.
        given: its arguments, those of :func:`add_arguments` among them.
        head: what stands above the rows.
        claims: made of the result.
    """

    def __init__(
        self,
        name: str,
        given: argparse.Namespace,
        head: dict[str, Any],
        claims: Callable[[dict[str, Any]], Sequence[Claim]] = lambda result: (),
    ) -> None:
        self._output = given.output or (None if given.toy else RESULTS / f"{name}.json")
        self._claims, self._budget = claims, given.budget
        self._begin = time.perf_counter()
        asked = {name: value for name, value in vars(given).items() if name not in ("budget", "output")}
        self.result: dict[str, Any] = {
            **about(name),
            **head,
            "asked": json.loads(json.dumps(asked)),
            "rows": [],
            "not_begun": [],
            "seconds": 0.0,
            "finished": False,
        }
        earlier = _read(self._output)
        same = all(earlier.get(part) == self.result[part] for part in ("benchmark", "device", "torch", "asked"))
        if same and not earlier["finished"]:
            self.result = earlier | {"not_begun": []}
            self.result["rows"] = [row for row in earlier["rows"] if "error" not in row]
        self._earlier_seconds = self.result["seconds"]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.result["rows"]

    def measure(self, key: dict[str, Any], row: Callable[[], dict[str, Any]]) -> None:
        """Measure a row, print and keep it, unless it is there or the time is over; what it raises is its ``error``."""
        if any(all(done.get(name) == value for name, value in key.items()) for done in self.rows):
            return
        if time.perf_counter() - self._begin > self._budget:
            self.result["not_begun"].append(key)
            return
        try:
            done = key | row()
        except Exception as error:  # one row that fails must not take the others with it
            lines = str(error).splitlines()
            done = key | {"error": f"{type(error).__name__}: {lines[0] if lines else ''}"}
        self.rows.append(done)
        print(json.dumps(done), flush=True)
        self._write()

    def finish(self) -> int:
        """Write the file for the last time; the exit status: 1 where a row failed or was not begun."""
        self.result["finished"] = complete = not self.result["not_begun"] and not any(
            "error" in row for row in self.rows
        )
        self._write()
        return 0 if complete else 1

    def _write(self) -> None:
        self.result["seconds"] = round(self._earlier_seconds + time.perf_counter() - self._begin, 1)
        self.result["claims"] = [claim.to_json() for claim in self._claims(self.result)]
        if self._output is None:
            return
        self._output.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._output.with_name(f".{self._output.name}")
        fresh.write_text(json.dumps(self.result, indent=2) + "\n")
        os.replace(fresh, self._output)


def add_arguments(parser: argparse.ArgumentParser, toy: str = "a tiny network, to try this out on a CPU") -> None:
    """The arguments that every part of ``gpu.sh`` has."""
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--toy", action="store_true", help=toy)
    parser.add_argument("--budget", type=float, default=460, help="seconds after which no further row is begun")
    parser.add_argument("--output", type=Path, help="default: in benchmarks/results/; with --toy: none")


def _read(path: Path | None) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text()) if path is not None else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
