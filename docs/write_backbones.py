"""Measure every family of transformers (`--measure`), and write docs/backbones.md from what was found."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import transformers

from hf_difflm.models.backbones import families

PAGE = Path(__file__).parent / "backbones.md"
TABLE = Path(families.__file__).parent / "families.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="walk all families again (minutes)")
    if parser.parse_args().measure:
        names, table = families.families(), {}
        for name, verdicts in families.walk(names):
            table[name] = verdicts
            first = next(iter(verdicts.values()))
            print(f"{len(table):4}/{len(names)} {name}: {first.error or first.direction}", file=sys.stderr, flush=True)
        TABLE.write_text(families.table_text(transformers.__version__, table), encoding="utf-8")


if __name__ == "__main__":
    main()
