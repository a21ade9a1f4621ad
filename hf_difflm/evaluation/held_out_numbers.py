"""The numbers of the test: of the weights in ``best/``, on text that had no say in which weights these are."""

from __future__ import annotations

from typing import Any

from ..data import Collator
from ..runs.comparing.units import TEST_FILE, write_evaluation
from .likelihood.contents import unit_contents
from .likelihood.evaluate import LikelihoodResult
from .run_measurements import record_measurement, run_folder
from .targets import Target


def keep_test(target: str, loaded: Target, dataset: Any, result: LikelihoodResult) -> None:
    """Put an evaluation on the test text into the log of a run, number by number and unit by unit.

    Nothing happens where the weights are not those in ``best/`` of a run that keeps a log.

    Args:
        target: the run.
        loaded: its best weights.
        dataset: what they were evaluated on.
        result: what was found.
    """
    folder = run_folder(target)
    if folder is None or loaded.folder is None or loaded.folder.name != "best":
        return
    contents = unit_contents(dataset, Collator(loaded.tokenizer), result.data_unit, loaded.tokenizer)
    numbers = (result.unit_ids.tolist(), result.unit_tokens.tolist(), result.unit_nll.tolist())
    write_evaluation(
        folder, loaded.step or 0, result.data_unit, *numbers, contents=contents.of(result.unit_ids), name=TEST_FILE
    )
    metrics = {name.removeprefix("eval_"): value for name, value in result.metrics().items()}
    known = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
    record_measurement(target, loaded.step, "test", {f"test/{name}": value for name, value in known.items()})
