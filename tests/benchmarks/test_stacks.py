"""The versions that setup.cfg asks for are those that ``make stacks`` ran; a bound that nobody ran is none."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path

import pytest

# By its path: this folder of tests is called the same.
_FILE = Path(__file__).parents[2] / "benchmarks/stacks.py"
_SPEC = importlib.util.spec_from_file_location("benchmark_of_stacks", _FILE)
_MODULE = sys.modules[_SPEC.name] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
RESULTS, bounds, stacks = _MODULE.RESULTS, _MODULE.bounds, _MODULE.stacks
WRITTEN = json.loads(RESULTS.read_text(encoding="utf-8"))


def plain(version: str) -> str:
    """``3.10.0`` and ``3.10`` are one version."""
    return version.removesuffix(".0")


def test_setup_cfg_asks_for_the_versions_that_were_run():
    assert WRITTEN["bounds"] == bounds(), "run `make stacks` where a bound of setup.cfg changes"
    ran = WRITTEN["stacks"]["bounds"]["versions"]
    assert ran["python"].startswith(f"{bounds()['python']}.")
    asked = {name: version for name, version in bounds().items() if name in ran and name != "python"}
    assert len(asked) > 5
    assert {name: plain(ran[name]) for name in asked} == {name: plain(version) for name, version in asked.items()}


@pytest.mark.parametrize("name", [stack.name for stack in stacks()])
def test_every_stack_has_passed_its_tests(name):
    found = WRITTEN["stacks"][name]
    assert found["tests"]["failed"] == 0
    assert found["tests"]["passed"] > 5
    asked = next(stack for stack in stacks() if stack.name == name)
    told = {name: plain(version) for name, version in found["versions"].items() if name in asked.pins}
    assert told == {name: plain(version) for name, version in asked.pins.items() if name in told}
    assert (found["gpu_script"] is not None) == asked.gpu_script
    if asked.gpu_script and asked.compiles:
        assert found["gpu_script"]["not_done"] == {}


def test_the_bounds_hold_a_stock_trainer_of_transformers_4_57_and_one_stack_trains_without_what_reads_text():
    assert WRITTEN["stacks"]["bounds"]["versions"]["transformers"].startswith("4.57.")
    assert WRITTEN["stacks"]["gpu"]["versions"]["datasets"] is None


def test_bounds_are_read_as_they_stand_and_nothing_else_is_taken_for_one(tmp_path):
    path = tmp_path / "setup.cfg"
    path.write_text("[options]\npython_requires = >=3.10\ninstall_requires =\n    torch>=2.6.0\n    numpy>=2.2\n")
    assert bounds(path) == {"python": "3.10", "torch": "2.6.0", "numpy": "2.2"}
    path.write_text("[options]\npython_requires = >=3.10\ninstall_requires =\n    torch>=2.6,<3\n")
    with pytest.raises(ValueError, match="one bound a package"):
        bounds(path)


def test_this_very_environment_is_within_the_bounds():
    for name, bound in bounds().items():
        if name != "python":
            found = importlib.metadata.version(name).split("+")[0]
            assert [int(part) for part in found.split(".")[:2]] >= [int(part) for part in bound.split(".")[:2]], name
