"""The examples of docs/generation.md run as they are written, and its table names every sampler and parameter."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from hf_difflm.models.masked_diffusion.sampler_names import SAMPLERS
from hf_difflm.models.masked_diffusion.samplers import build_sampler

PAGE = (Path(__file__).parents[2] / "docs/generation.md").read_text(encoding="utf-8")


def test_the_examples_run_one_after_the_other(capsys):
    examples = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(examples) > 5
    names: dict = {}
    for example in examples:
        exec(compile(example, "docs/generation.md", "exec"), names)
    assert "To be" in capsys.readouterr().out


def test_the_table_names_every_sampler_with_its_parameters():
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    for name in SAMPLERS:
        (row,) = [row for row in rows if f"`{name}`" in row.split("|")[1]]
        for field in fields(build_sampler(name, {})):
            assert f"`{field.name}`" in row, (name, field.name)
